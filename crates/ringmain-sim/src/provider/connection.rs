//! Connections: accepting them, telling HTTP/1.1 from HTTP/2, and breaking them on purpose.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Shared, answer};

/// Most connections at the same time; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 16_384;
/// What an HTTP/1.1 connection may hold back beyond the socket's own buffer.
const HELD_BYTES_MAX: usize = 16 * 1024;

/// What the answers of one connection may do to it.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its number, from 1.
    pub(super) number: u64,
    is_reset: AtomicBool,
}

impl Connection {
    /// From now on nothing is written any more and the connection ends with a reset.
    pub(super) fn reset(&self) {
        self.is_reset.store(true, Ordering::Relaxed);
    }

    fn is_reset(&self) -> bool {
        self.is_reset.load(Ordering::Relaxed)
    }
}

/// Accepts and serves until it is dropped, and every connection with it.
pub(super) async fn accept_all(listener: TcpListener, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let mut number = 0;
    loop {
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) if tasks.len() < CONNECTIONS_MAX => {
                number += 1;
                let connection = Connection { number, is_reset: AtomicBool::new(false) };
                tasks.spawn(serve(stream, Arc::new(connection), Arc::clone(&shared)));
            }
            Ok(_) => {}
            // Out of descriptors, most likely: let some connections end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, connection: Arc<Connection>, shared: Arc<Shared>) {
    // Without it small events wait for acknowledgements; a platform that refuses only runs slower.
    let _ = stream.set_nodelay(true);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().max_buf_size(HELD_BYTES_MAX).header_read_timeout(None);
    server.http2().max_concurrent_streams(shared.config.h2_streams_max);
    let socket = Socket { stream, connection: Arc::clone(&connection) };
    let service = service_fn(move |request| {
        answer::answer(request, Arc::clone(&connection), Arc::clone(&shared))
    });
    // However a connection ends, the log says what became of its requests.
    let _ = server.serve_connection(TokioIo::new(socket), service).await;
}

/// The socket of a connection, which can be made to break.
struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Socket {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if self.connection.is_reset() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(Pin::new(&mut self.stream))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.connection.is_reset() {
            // Closing now sends RST and forgets what is unsent.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
