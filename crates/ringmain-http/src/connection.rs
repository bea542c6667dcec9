//! One connection: its task, and what the server library is told about it.

use std::convert::Infallible;
use std::future::Future as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::time::timeout;
use tower_service::Service as _;

use crate::bell::Part;
use crate::caller::{self, Peer};
use crate::exchange::{self, Origin};
use crate::framing::HEAD_BYTES_MAX;
use crate::gauge::{Gauge, Turn};
use crate::guard;
use crate::line::{Line, Socket};
use crate::names;
use crate::paths;
use crate::refusal::Refusal;
use crate::server::Face;
use crate::shape::Shape;
use crate::stream::{Streams, WatchedBody};

/// Numbers for responses that are no exchange's.
static IDS: AtomicU64 = AtomicU64::new(1);
/// Most bytes of a head, and of what waits to be written to a connection.
const BUFFER_BYTES_MAX: usize = HEAD_BYTES_MAX;
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
/// How long the sender of what is no request is listened to after its refusal.
const LINGER: Duration = Duration::from_secs(1);

/// Starts the task of a connection.
pub(crate) fn start<S: Socket>(face: &Arc<Face>, router: Router, stream: S, peer: Peer) {
    let gauge = Gauge::new(peer.uid(), peer.address());
    let seat = face.watch().connection(&gauge);
    let line = Line::new(stream, gauge.clone());
    let (of_task, face) = (gauge.clone(), face.clone());
    let task = tokio::spawn(async move {
        serve(&face, router, line, peer, of_task).await;
        drop(seat);
        face.left();
    });
    gauge.runs_in(task.abort_handle());
}

async fn serve<S: Socket>(
    face: &Arc<Face>,
    router: Router,
    line: Line<S>,
    peer: Peer,
    gauge: Arc<Gauge>,
) {
    let (builder, watch) = (builder(), face.watch().clone());
    let service = service_fn(|request: Request<Incoming>| {
        let (is_old, turn) =
            (request.version() == Version::HTTP_10, gauge.begin(request.version()));
        let (face, router, peer) = (face.clone(), router.clone(), peer.clone());
        let request = request.map(|body| match http_body::Body::is_end_stream(&body) {
            true => Body::empty(),
            false => Body::new(body),
        });
        let answer = answer(face, router, peer, gauge.clone(), request);
        let (watch, gauge) = (watch.clone(), gauge.clone());
        async move {
            let mut response = answer.await;
            put_id(response.headers_mut());
            let response = response.map(|body| match gauge.is_http2() {
                true => WatchedBody::body(body, &watch, &gauge),
                false => body,
            });
            Ok::<_, Infallible>(response.map(|body| Counted { body, is_old, turn }))
        }
    });
    let io = TokioIo::new(line.clone());
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let (mut drained, drain) = (std::pin::pin!(face.drained()), Part::new());
    let mut drains = false;
    let mut served = std::pin::pin!(async {
        loop {
            tokio::select! {
                // The server library first: what it reads decides who looks for the end of its
                // caller.
                biased;
                ended = connection.as_mut() => break ended,
                () = poll_fn(|cx| drain.poll(cx, |cx| drained.as_mut().poll(cx))), if !drains => {
                    drains = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = poll_fn(|cx| line.poll_gone(cx)) => break Ok(()),
            }
        }
    });
    let server = Part::new();
    let ended = poll_fn(|cx| {
        // Bound: each further round has begun another request, of those that the caller may send
        // before it is answered.
        loop {
            if gauge.run_hosted(cx) {
                server.ring();
            }
            let polled = server.poll(cx, |cx| served.as_mut().poll(cx));
            if polled.is_ready() || !gauge.take_begun() {
                return polled;
            }
        }
    })
    .await;
    if gauge.is_broken() {
        line.reset_at_close();
    }
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
    if let Some(fault) = gauge.fault() {
        tracing::debug!(%fault, "what came over an HTTP connection was no request");
        let _ = timeout(LINGER, line.linger()).await;
    }
}

fn builder() -> Builder<Streams> {
    let mut builder = Builder::new(Streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        // The limits of a head and of an unused connection are not the same: see `watch`.
        .header_read_timeout(None)
        // So does it not look for the end of a caller that waits for its answer: see `line`.
        .half_close(true)
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
    mut request: Request<Body>,
) -> Response<Body> {
    if let Some(fault) = gauge.fault() {
        let refusal = Refusal::faulty(fault);
        face.count_refusal(refusal.failure.code);
        return refusal.response(Shape::OpenAi);
    }
    let config = face.config();
    let judged = match &peer {
        Peer::Tcp(_) => guard::judge(&config, &request),
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
                gauge.knows();
                let origin = Origin { caller, gauge, config };
                if paths::is_exchange(&request) {
                    // Nearly all requests; the router would find the same.
                    return exchange::post(face, origin, request).await;
                }
                request.extensions_mut().insert(origin);
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

/// Every response has an id for people to look for, also where none is the API's or the log's.
fn put_id(headers: &mut http::HeaderMap) {
    if headers.contains_key(&names::X_REQUEST_ID) {
        return;
    }
    let given = [&names::X_RINGMAIN_ID, &names::REQUEST_ID];
    let given = given.iter().find_map(|name| headers.get(*name));
    let id = given.cloned().or_else(|| {
        let number = IDS.fetch_add(1, Relaxed);
        HeaderValue::from_str(&format!("http-{}-{number}", std::process::id())).ok()
    });
    if let Some(id) = id {
        headers.insert(&names::X_REQUEST_ID, id);
    }
}

/// A body whose end is the end of its request's turn.
struct Counted {
    body: Body,
    /// Of HTTP/1.0, where the end of the connection is a good end of the body.
    is_old: bool,
    turn: Turn,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if self.is_old && matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.turn.gauge().broke();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
