//! The socket of a connection, which can be made to break, and to say what no server library
//! would say.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, Mark, broken};

/// What carries the bytes of a connection.
pub(super) trait Link: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Closing it from now on sends RST and forgets what is unsent.
    fn reset(&mut self);
}

impl Link for TcpStream {
    fn reset(&mut self) {
        let _ = self.set_zero_linger();
    }
}

impl Link for TlsStream<TcpStream> {
    fn reset(&mut self) {
        let _ = self.get_ref().0.set_zero_linger();
    }
}

/// A connection below the server library.
pub(super) struct Socket<L: Link> {
    stream: L,
    connection: Arc<Connection>,
    /// Injected bytes that the stream has not taken yet.
    unsent: Vec<u8>,
    /// How much of a head's end was seen while the head is left out.
    head_end: usize,
}

impl<L: Link> Socket<L> {
    pub(super) fn new(stream: L, connection: Arc<Connection>) -> Socket<L> {
        Socket { stream, connection, unsent: Vec::new(), head_end: 0 }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut L>> {
        if self.connection.is_marked() && self.connection.has(Mark::Reset) {
            return Err(broken());
        }
        Ok(Pin::new(&mut self.stream))
    }

    /// Takes the head of the server library out of what it writes: how many bytes belong to it.
    fn leave_out(&mut self, bufs: &[IoSlice<'_>]) -> usize {
        const END: &[u8] = b"\r\n\r\n";
        let mut taken = 0;
        for &byte in bufs.iter().flat_map(|buf| buf.iter()) {
            taken += 1;
            let is_next = byte == END[self.head_end];
            self.head_end = if is_next { self.head_end + 1 } else { usize::from(byte == END[0]) };
            if self.head_end == END.len() {
                self.head_end = 0;
                self.connection.unmark(Mark::Headless);
                break;
            }
        }
        taken
    }

    /// Writes what is to be put between. The server library flushes when all that it had to say
    /// is written, so no frame of its own is torn.
    fn poll_inject(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.has(Mark::Inject) {
            self.unsent.extend(self.connection.take_injected());
        }
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))?;
            self.unsent.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_marked_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.connection.has(Mark::Closed) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(self.stream()?.poll_read(cx, buf))?;
        if self.connection.has(Mark::ResetOnNext) && buf.filled().len() > before {
            self.connection.mark(Mark::Reset);
            return Poll::Ready(Err(broken()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<L: Link> Drop for Socket<L> {
    fn drop(&mut self) {
        if self.connection.has(Mark::Reset) {
            self.stream.reset();
        }
    }
}

impl<L: Link> AsyncRead for Socket<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.connection.is_marked() {
            return self.poll_marked_read(cx, buf);
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<L: Link> AsyncWrite for Socket<L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.connection.is_marked() || !self.unsent.is_empty() {
            return self.poll_write_vectored(cx, &[IoSlice::new(buf)]);
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.connection.is_marked() && self.connection.has(Mark::Headless) {
            return Poll::Ready(Ok(self.leave_out(bufs)));
        }
        if !self.unsent.is_empty() {
            ready!(self.poll_inject(cx))?;
        }
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.connection.is_marked() {
            return Pin::new(&mut self.stream).poll_flush(cx);
        }
        ready!(self.poll_inject(cx))?;
        ready!(self.stream()?.poll_flush(cx))?;
        if self.connection.has(Mark::Close) && !self.connection.has(Mark::Closed) {
            self.connection.mark(Mark::Closed);
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
