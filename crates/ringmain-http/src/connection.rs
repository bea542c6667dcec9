//! One connection: its bytes, its phase, and what the server library is told about it.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tower_service::Service as _;

use crate::caller::{self, Peer};
use crate::exchange;
use crate::guard;
use crate::paths;
use crate::server::Face;
use crate::watch::Limits;

/// Most bytes of a head, and of what waits to be written to a connection.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Most header fields of a request.
const HEADERS_MAX: usize = 64;
/// Most requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// How much of a request body an HTTP/2 caller may send ahead of its reading.
const WINDOW_BYTES: u32 = 1 << 20;
/// Most bytes of one stream that wait to be written.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// How often a silent HTTP/2 peer is asked for a sign of life, and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_WITHIN: Duration = Duration::from_secs(20);
/// The first bytes of HTTP/2 with prior knowledge.
const PREFACE: &[u8] = b"PRI";

const IDLE: u64 = 0;
const HEAD: u64 = 1;
const BUSY: u64 = 2;

/// What others may know of a connection, and how they end it.
pub(crate) struct Gauge {
    pub uid: u32,
    /// A count of changes and, in the last two bits, the phase: unused, a head has begun, a
    /// request is being answered.
    word: AtomicU64,
    answering: AtomicU32,
    is_http2: AtomicBool,
    task: OnceLock<AbortHandle>,
}

impl Gauge {
    fn new(uid: u32) -> Arc<Gauge> {
        Arc::new(Gauge {
            uid,
            word: AtomicU64::new(IDLE),
            answering: AtomicU32::new(0),
            is_http2: AtomicBool::new(false),
            task: OnceLock::new(),
        })
    }

    /// Changes whenever the phase does.
    pub fn word(&self) -> u64 {
        self.word.load(Relaxed)
    }

    /// How long the present phase may last; for an answer that is up to the answer.
    pub fn limit(&self, limits: &Limits) -> Option<Duration> {
        match self.word() & 3 {
            HEAD => Some(limits.head),
            IDLE => Some(limits.idle),
            _ => None,
        }
    }

    /// Closes the connection and drops what it was answering.
    pub fn end(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    /// Whether it carries a single answer.
    pub fn answers_one(&self) -> bool {
        self.answering.load(Relaxed) == 1
    }

    /// By the connection's own task alone.
    fn enter(&self, phase: u64) {
        let word = self.word.load(Relaxed);
        if word & 3 != phase {
            self.word.store(((word >> 2) + 1) << 2 | phase, Relaxed);
        }
    }

    /// Bytes came. Those of HTTP/2 need not be a request's.
    fn saw(&self, bytes: &[u8]) {
        if self.word() == IDLE && bytes.starts_with(PREFACE) {
            self.is_http2.store(true, Relaxed);
        }
        if self.word() & 3 == IDLE && !self.is_http2.load(Relaxed) {
            self.enter(HEAD);
        }
    }

    fn begin(self: &Arc<Gauge>) -> Turn {
        self.answering.fetch_add(1, Relaxed);
        self.enter(BUSY);
        Turn(self.clone())
    }
}

/// A request that is being answered.
struct Turn(Arc<Gauge>);

impl Drop for Turn {
    fn drop(&mut self) {
        if self.0.answering.fetch_sub(1, Relaxed) == 1 {
            self.0.enter(IDLE);
        }
    }
}

/// Starts the task of a connection.
pub(crate) fn start<S>(face: &Arc<Face>, router: Router, stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gauge = Gauge::new(peer.uid());
    let seat = face.watch().connection(&gauge);
    let io = TokioIo::new(Noticed { stream, gauge: gauge.clone() });
    let (of_task, face) = (gauge.clone(), face.clone());
    let task = tokio::spawn(async move {
        serve(&face, router, io, peer, of_task).await;
        drop(seat);
        face.left();
    });
    let _ = gauge.task.set(task.abort_handle());
}

async fn serve<S>(
    face: &Arc<Face>,
    router: Router,
    io: TokioIo<Noticed<S>>,
    peer: Peer,
    gauge: Arc<Gauge>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let builder = builder();
    let service = service_fn(|request: Request<Incoming>| {
        let turn = gauge.begin();
        let (face, router, peer) = (face.clone(), router.clone(), peer.clone());
        let answer = answer(face, router, peer, gauge.clone(), request);
        async move {
            let response = answer.await;
            Ok::<_, Infallible>(response.map(|body| Counted { body, _turn: turn }))
        }
    });
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = face.drained() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The limits of a head and of an unused connection are not the same: see `watch`.
        .header_read_timeout(None)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(BUFFER_BYTES_MAX as u32)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN);
    builder
}

/// Judges who asks, for whom; then the path decides.
async fn answer(
    face: Arc<Face>,
    mut router: Router,
    peer: Peer,
    gauge: Arc<Gauge>,
    request: Request<Incoming>,
) -> Response<Body> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(gauge);
    let config = face.config();
    let judged = match &peer {
        Peer::Tcp => guard::judge(&config, &request),
        Peer::Unix(_) => Ok(()),
    };
    let known = judged.and_then(|()| match paths::OPEN.contains(&request.uri().path()) {
        true => Ok(None),
        false => {
            let allow = &face.broker().config().allow;
            caller::identify(&config, allow, &peer, request.headers()).map(Some)
        }
    });
    match known {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            if paths::is_exchange(&request) {
                // Nearly all requests; the router would find the same.
                return exchange::post(face, request).await;
            }
            match router.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        Err(refusal) => {
            face.count_refusal(refusal.failure.code);
            paths::refuse(&face, request, refusal).await
        }
    }
}

/// A body whose end is the end of its request's turn.
struct Counted {
    body: Body,
    _turn: Turn,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose gauge notices what comes.
struct Noticed<S> {
    stream: S,
    gauge: Arc<Gauge>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noticed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let bytes = &buffer.filled()[before..];
        if polled.is_ready() && !bytes.is_empty() {
            self.gauge.saw(bytes);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noticed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(1),
        idle: Duration::from_secs(2),
        slow_consumer: Duration::from_secs(3),
    };

    #[test]
    fn each_phase_has_its_limit() {
        let gauge = Gauge::new(0);
        assert_eq!(gauge.limit(&LIMITS), Some(LIMITS.idle));
        gauge.saw(b"P");
        let word = gauge.word();
        gauge.saw(b"OST");
        assert_eq!((gauge.word(), gauge.limit(&LIMITS)), (word, Some(LIMITS.head)));
        let (first, second) = (gauge.begin(), gauge.begin());
        gauge.saw(b"body");
        assert_eq!(gauge.limit(&LIMITS), None);
        drop(first);
        assert_eq!(gauge.limit(&LIMITS), None);
        drop(second);
        assert_eq!(gauge.limit(&LIMITS), Some(LIMITS.idle));
        assert!(gauge.word() > word, "the same phase again is another number");
    }

    #[test]
    fn bytes_of_http2_need_not_be_a_request() {
        let gauge = Gauge::new(0);
        gauge.saw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        gauge.saw(b"ping");
        assert_eq!(gauge.limit(&LIMITS), Some(LIMITS.idle));
    }
}
