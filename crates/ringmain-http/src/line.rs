//! The bytes of a connection, on their way to the server library. They go on request by request,
//! each head as a whole and judged ([`crate::framing`]). While an answer is owed, what comes is for
//! after it; it is held back here and the socket is read on, for its end is that of the caller. The
//! server library stops looking for that end once a byte stands before it.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::framing::Framing;
use crate::gauge::Gauge;

/// Most bytes that are held back. Bound: whoever sends more of its next requests is closed.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// Bytes that are read ahead at a time.
const AHEAD_BYTES: usize = 4096;
/// Bytes are read to where they are wanted, without a copy, if there is room for so many.
const DIRECT_BYTES_MIN: usize = 1024;
/// Most bytes that are read of a request that was refused, so that its sender reads the refusal.
const LINGER_BYTES_MAX: usize = 1 << 20;
/// What the server library is given in the place of a request that is none: whoever answers it
/// finds the fault with the gauge.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

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
    framing: Framing,
    /// Read and not passed on. Bound: [`HELD_BYTES_MAX`] and one read.
    held: BytesMut,
    /// How many of those may be passed on.
    judged: usize,
    /// The server library asked while an answer was owed, and nothing wakes it for what comes.
    was_put_off: bool,
}

impl<S> Clone for Line<S> {
    fn clone(&self) -> Self {
        Line(self.0.clone())
    }
}

impl<S: Socket> Line<S> {
    pub fn new(stream: S, gauge: Arc<Gauge>) -> Line<S> {
        let (framing, held) = (Framing::new(), BytesMut::new());
        let inner = Inner { stream, gauge, framing, held, judged: 0, was_put_off: false };
        Line(Arc::new(Mutex::new(inner)))
    }

    /// Ready when an answer is owed to nobody any more.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.0.lock();
        match inner.is_owing() {
            true => inner.poll_ahead(cx).map(drop),
            false => {
                // The answer was over before this side has looked at the socket even once.
                if std::mem::take(&mut inner.was_put_off) {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    pub fn reset_at_close(&self) {
        self.0.lock().stream.reset_at_close();
    }

    /// Reads what a refused caller still sends: a socket that is closed before takes the refusal
    /// from it. Bound: bytes here, time by the caller.
    pub async fn linger(&self) {
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            let mut room = [0; AHEAD_BYTES];
            let mut buffer = ReadBuf::new(&mut room);
            let read =
                poll_fn(|cx| Pin::new(&mut self.0.lock().stream).poll_read(cx, &mut buffer)).await;
            match (read, buffer.filled().len()) {
                (Err(_), _) | (Ok(()), 0) => return,
                (Ok(()), bytes) => left = left.saturating_sub(bytes),
            }
        }
    }
}

impl<S: Socket> Inner<S> {
    /// Whether a whole request has gone on that is not answered.
    fn is_owing(&self) -> bool {
        self.framing.is_at_head() && self.judged == 0 && self.gauge.is_answering()
    }

    /// Reads what is for later. Ready: nothing more comes, or too much.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Bound: what is held.
        while self.held.len() < HELD_BYTES_MAX {
            match self.poll_more(cx)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    if !self.held.is_empty() {
                        // The socket has nothing to tell whoever is to read them.
                        self.gauge.wakes(cx.waker());
                    }
                    return Poll::Pending;
                }
            }
        }
        let text = format!("more than {HELD_BYTES_MAX} bytes came before the answer");
        Poll::Ready(Err(io::Error::other(text)))
    }

    /// Reads some bytes more to those that are held; false: none will come.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut room = [MaybeUninit::uninit(); AHEAD_BYTES];
        let mut buffer = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        self.held.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(!buffer.filled().is_empty()))
    }

    /// Reads to where the bytes are wanted. Ready with false: what came is held, because it is not
    /// to be passed on yet.
    fn poll_direct(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let new = &buffer.filled()[before..];
        if new.is_empty() {
            return Poll::Ready(Ok(true));
        }
        self.gauge.saw_bytes();
        // A fault is met again with what is held.
        let passed = self.framing.pass(new).unwrap_or(0);
        self.held.extend_from_slice(&new[passed..]);
        buffer.set_filled(before + passed);
        Poll::Ready(Ok(passed > 0))
    }

    /// Judges what is held. True: some of it may be passed on.
    fn judge(&mut self) -> io::Result<bool> {
        if self.held.is_empty() {
            return Ok(false);
        }
        self.gauge.saw_bytes();
        let fault = match self.framing.pass(&self.held) {
            Ok(passed) => {
                self.judged = passed;
                return Ok(passed > 0);
            }
            Err(fault) => fault,
        };
        self.gauge.faulted(fault);
        if !self.framing.is_at_head() {
            // Whoever reads the body is told.
            return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
        }
        self.held.clear();
        self.held.extend_from_slice(STAND_IN);
        self.judged = STAND_IN.len();
        Ok(true)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Bound: each round reads or ends, and what is held is bounded by what a head may be.
        loop {
            if self.judged > 0 {
                let bytes = self.judged.min(buffer.remaining());
                buffer.put_slice(&self.held.split_to(bytes));
                self.judged -= bytes;
                return Poll::Ready(Ok(()));
            }
            if self.gauge.fault().is_some() {
                // Nothing is read behind it.
                return Poll::Ready(Ok(()));
            }
            if self.judge()? {
                continue;
            }
            let goes_on = match self.held.is_empty() && buffer.remaining() >= DIRECT_BYTES_MIN {
                true => !ready!(self.poll_direct(cx, buffer))?,
                false => ready!(self.poll_more(cx))?,
            };
            if !goes_on {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: Socket> AsyncRead for Line<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        // Whoever looks for the end of the caller reads then, and wakes this task.
        inner.was_put_off = inner.is_owing();
        match inner.was_put_off {
            true => Poll::Pending,
            false => inner.poll_read(cx, buffer),
        }
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
