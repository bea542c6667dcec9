//! The bytes of a connection. While an answer is owed, what comes is for after it; it is held back
//! here and the socket is read on, for its end is that of the caller. The server library stops
//! looking for that end once a byte stands before it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::gauge::Gauge;

/// Most bytes that are held back. Bound: whoever sends more of its next requests is closed.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// Bytes that are read ahead at a time.
const AHEAD_BYTES: usize = 4096;

/// A socket that can be ended without the look of a good end.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn reset_at_close(&self);
}

impl Socket for TcpStream {
    fn reset_at_close(&self) {
        let _ = self.set_zero_linger();
    }
}

impl Socket for UnixStream {
    /// There is no such end: callers that know of lengths do not need it.
    fn reset_at_close(&self) {}
}

/// A socket between the server library and whoever looks for its end. Both are one task, so that
/// the lock is never waited for.
pub(crate) struct Line<S>(Arc<Mutex<Inner<S>>>);

struct Inner<S> {
    stream: S,
    gauge: Arc<Gauge>,
    held: BytesMut,
}

impl<S> Clone for Line<S> {
    fn clone(&self) -> Self {
        Line(self.0.clone())
    }
}

impl<S: Socket> Line<S> {
    pub fn new(stream: S, gauge: Arc<Gauge>) -> Line<S> {
        Line(Arc::new(Mutex::new(Inner { stream, gauge, held: BytesMut::new() })))
    }

    /// Ready when an answer is owed to nobody any more.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.0.lock();
        match inner.gauge.is_owing() {
            true => inner.poll_ahead(cx).map(drop),
            false => Poll::Pending,
        }
    }

    pub fn reset_at_close(&self) {
        self.0.lock().stream.reset_at_close();
    }
}

impl<S: Socket> Inner<S> {
    /// Reads what is for later. Ready: nothing more comes, or too much.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut room = [0; AHEAD_BYTES];
        // Bound: what is held.
        while self.held.len() < HELD_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.held.extend_from_slice(buffer.filled());
                }
                Poll::Ready(ended) => return Poll::Ready(ended),
            }
        }
        let text = format!("more than {HELD_BYTES_MAX} bytes came before the answer");
        Poll::Ready(Err(io::Error::other(text)))
    }
}

impl<S: Socket> AsyncRead for Line<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if inner.gauge.is_owing() {
            inner.gauge.wakes(cx.waker());
            return inner.poll_ahead(cx);
        }
        let before = buffer.filled().len();
        let polled = match inner.held.is_empty() {
            true => Pin::new(&mut inner.stream).poll_read(cx, buffer),
            false => {
                let bytes = inner.held.len().min(buffer.remaining());
                buffer.put_slice(&inner.held[..bytes]);
                inner.held.advance(bytes);
                Poll::Ready(Ok(()))
            }
        };
        if polled.is_ready() && buffer.filled().len() > before {
            inner.gauge.saw_bytes();
        }
        polled
    }
}

impl<S: Socket> AsyncWrite for Line<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_shutdown(cx)
    }
}
