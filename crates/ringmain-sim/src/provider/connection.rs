//! Connections: accepting them, telling HTTP/1.1 from HTTP/2, and breaking them on purpose.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::socket::{Link, Socket};
use super::{Shared, answer};
use crate::fault::Fault;

/// Most connections at the same time; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 16_384;
/// What an HTTP/1.1 connection may hold back beyond the socket's own buffer.
const HELD_BYTES_MAX: usize = 16 * 1024;
/// What something says that does not speak HTTP.
const GARBAGE: &[u8] = b"SSH-2.0-OpenSSH_9.9\r\n\x00\x00\x01\xfc\x07\x14";

/// What the answers of one connection may do to it.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its number, from 1.
    pub(super) number: u64,
    /// What its socket has to look at besides the bytes; 0 for nothing.
    marks: AtomicU8,
    requests: AtomicU64,
    injected: Mutex<Vec<u8>>,
    /// Wakes the task of the connection, which alone may write.
    waker: OnceLock<Waker>,
}

/// A mark on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mark {
    /// From now on nothing is written any more and the connection ends with a reset.
    Reset = 1,
    /// The next head that the server library writes is left out: the answer brings its own.
    Headless = 2,
    /// Bytes are to be put between those of the server library.
    Inject = 4,
    /// Once all is written, the connection is closed.
    Close = 8,
    /// It is closed: nothing more comes in.
    Closed = 16,
    /// The next bytes that come in reset it.
    ResetOnNext = 32,
}

impl Connection {
    pub(super) fn new(number: u64) -> Connection {
        Connection {
            number,
            marks: AtomicU8::new(0),
            requests: AtomicU64::new(0),
            injected: Mutex::default(),
            waker: OnceLock::new(),
        }
    }

    pub(super) fn mark(&self, mark: Mark) {
        self.marks.fetch_or(mark as u8, Ordering::Relaxed);
    }

    pub(super) fn unmark(&self, mark: Mark) {
        self.marks.fetch_and(!(mark as u8), Ordering::Relaxed);
    }

    /// Whether there is any mark: the one question on the way of an ordinary answer.
    pub(super) fn is_marked(&self) -> bool {
        self.marks.load(Ordering::Relaxed) != 0
    }

    pub(super) fn has(&self, mark: Mark) -> bool {
        self.marks.load(Ordering::Relaxed) & mark as u8 != 0
    }

    /// Counts a request and gives the id of its HTTP/2 stream: clients count up from 1 by two.
    pub(super) fn next_stream(&self) -> u32 {
        let earlier = self.requests.fetch_add(1, Ordering::Relaxed);
        u32::try_from(earlier * 2 + 1).unwrap_or(u32::MAX)
    }

    /// Puts bytes between the frames of an HTTP/2 connection.
    pub(super) fn inject(&self, bytes: &[u8]) {
        self.injected.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        self.mark(Mark::Inject);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// What is to be put between.
    pub(super) fn take_injected(&self) -> Vec<u8> {
        self.unmark(Mark::Inject);
        std::mem::take(&mut *self.injected.lock().unwrap_or_else(PoisonError::into_inner))
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
                tasks.spawn(receive(stream, Connection::new(number), Arc::clone(&shared)));
            }
            Ok(_) => {}
            // Out of descriptors, most likely: let some connections end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves a connection, or does to it what its fault says.
async fn receive(mut stream: TcpStream, connection: Connection, shared: Arc<Shared>) {
    // Without it small events wait for acknowledgements; a platform that refuses only runs slower.
    let _ = stream.set_nodelay(true);
    let fault = shared.connection_fault(connection.number);
    match fault {
        Some(Fault::AcceptSilent | Fault::TlsSilent) => swallow(&mut stream).await,
        Some(Fault::AcceptClose) => {}
        Some(Fault::AcceptReset) => stream.reset(),
        Some(Fault::TlsClose) => drop(stream.read(&mut [0; 1024]).await),
        Some(Fault::AcceptGarbage) => {
            // Whoever is gone already does not hear it.
            let _ = stream.write_all(GARBAGE).await;
            swallow(&mut stream).await;
        }
        _ => match &shared.identity {
            Some(identity) if fault != Some(Fault::TlsPlain) => {
                // A client that does not like our certificate hangs up: nothing to be done.
                if let Ok(stream) = identity.acceptor.accept(stream).await {
                    serve(stream, connection, shared).await;
                }
            }
            _ => serve(stream, connection, shared).await,
        },
    }
}

/// Reads until the other side goes away, and says nothing.
async fn swallow(stream: &mut TcpStream) {
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

async fn serve<L: Link>(stream: L, connection: Connection, shared: Arc<Shared>) {
    let streams_max = match shared.connection_fault(connection.number) {
        Some(Fault::MaxStreams) => 2,
        _ => shared.config.h2_streams_max,
    };
    let connection = Arc::new(connection);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().max_buf_size(HELD_BYTES_MAX).header_read_timeout(None);
    server.http2().max_concurrent_streams(streams_max);
    std::future::poll_fn(|cx| {
        connection.waker.get_or_init(|| cx.waker().clone());
        Poll::Ready(())
    })
    .await;
    let socket = Socket::new(stream, Arc::clone(&connection));
    let service = service_fn(move |request| {
        answer::answer(request, Arc::clone(&connection), Arc::clone(&shared))
    });
    // However a connection ends, the log says what became of its requests.
    let _ = server.serve_connection(TokioIo::new(socket), service).await;
}

/// What a broken connection answers to its own side.
pub(super) fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}
