//! What is spoken on a connection: requests out, heads of answers and their bodies back.
//!
//! An HTTP/1.1 connection has no task. Whoever has its place polls it: for the head of the answer,
//! and for each chunk, which thus goes from the socket to its frame within one poll of one task.
//! While nobody has the place the watcher of its [`Slot`](super::slot::Slot) is woken by what comes,
//! and polls it. An HTTP/2 connection carries many requests and has a task of its own.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{TrySendError, http2};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::greeting::{Greeted, Tell};
use crate::body::RequestBody;
use crate::http1;

/// What one HTTP/2 stream may be ahead of its reader.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Most bytes that a window can have (RFC 9113, 6.9.1).
const WINDOW_MAX: u64 = (1 << 31) - 1;
/// The limit of streams before the server has told its own: none, and a number that is no server's.
const UNTOLD: usize = (1 << 31) - 3;
/// How often an HTTP/2 connection with streams is asked whether it lives, and how long it has.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(15);
/// Longest time for the farewell of a connection that nobody uses any more.
const FAREWELL: Duration = Duration::from_secs(1);

/// The bytes of a connection, whatever it goes through.
pub(super) trait Transport: Read + Write + Send + Unpin {}

impl<T: Read + Write + Send + Unpin> Transport for T {}

/// A connection on which requests can be sent.
pub(super) enum Link {
    Http1(Box<Http1>),
    Http2(http2::SendRequest<RequestBody>),
}

type Http1 = http1::Connection<TokioIo<Box<dyn Transport>>>;

/// The body of an answer: with its connection, or a stream of its own.
#[derive(Debug)]
pub(crate) enum AnswerStream {
    Http1,
    Http2(Incoming),
}

/// Why a request was not answered.
pub(super) enum Unanswered {
    /// Nothing of it was sent.
    Unsent,
    Broken(LinkError),
}

/// How a connection failed a request, or the request itself.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Http1(#[from] http1::Error),
    #[error("{0}")]
    Http2(#[from] hyper::Error),
}

impl AnswerStream {
    /// Whether its end has come, in the way that its protocol frames it.
    pub fn is_ended(&self) -> bool {
        match self {
            AnswerStream::Http1 => true,
            AnswerStream::Http2(body) => body.is_end_stream(),
        }
    }
}

impl Link {
    /// Speaks HTTP/1.1 on a connection that stands.
    pub fn http1(transport: Box<dyn Transport>) -> Link {
        Link::Http1(Box::new(Http1::new(TokioIo::new(transport))))
    }

    /// Opens HTTP/2, for so many `streams` at once at most, and gives what the task of the
    /// connection is to do. It ends with the last sender and stream; how it broke is told to each
    /// of those. `greeted` and `takes` are told how many streams the server takes: by its first
    /// words, and whenever a request finds that it has changed.
    pub async fn http2(
        transport: Box<dyn Transport>,
        streams: u32,
        greeted: Tell,
        takes: impl Fn(Option<u32>) + Send,
    ) -> Result<(Link, impl Future<Output = ()> + Send), hyper::Error> {
        // As many streams as there may be can stand still, each with its window full, and the
        // connection still has room for the others.
        let window = u64::from(STREAM_WINDOW) * (u64::from(streams) + 1);
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(window.min(WINDOW_MAX) as u32)
            .initial_max_send_streams(UNTOLD)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_LIMIT)
            .handshake(Greeted::new(transport, greeted))
            .await?;
        let mut known = UNTOLD;
        let running = poll_fn(move |cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            let limit = connection.current_max_send_streams();
            if limit != known {
                known = limit;
                takes(u32::try_from(limit).ok());
            }
            polled.map(|_| ())
        });
        Ok((Link::Http2(sender), running))
    }

    /// Whether it takes a request; not while it has one over HTTP/1.1. What has come since the last
    /// is read: its end, or words that nobody asked for.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self {
            Link::Http1(http1) => http1.poll_ready(cx),
            Link::Http2(sender) => sender.poll_ready(cx).map(|ready| ready.is_ok()),
        }
    }

    /// Sends a request, and waits for the head of the answer. Over HTTP/1.1 the connection is of no
    /// use after a call that was dropped.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<AnswerStream>, Unanswered> {
        match self {
            Link::Http1(http1) => {
                let answer = http1.send(request).await?;
                Ok(answer.map(|()| AnswerStream::Http1))
            }
            Link::Http2(sender) => {
                let answer = sender.try_send_request(request).await?;
                Ok(answer.map(AnswerStream::Http2))
            }
        }
    }

    /// The next bytes of a body that comes over this connection; `None` at its end.
    pub fn poll_body(
        &mut self,
        body: &mut AnswerStream,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, LinkError>>> {
        match (self, body) {
            (Link::Http1(http1), _) => {
                http1.poll_body(cx).map(|chunk| chunk.map(|chunk| chunk.map_err(LinkError::Http1)))
            }
            (Link::Http2(_), AnswerStream::Http2(body)) => {
                poll_bytes(body, cx).map(|chunk| chunk.map(|chunk| chunk.map_err(LinkError::Http2)))
            }
            (Link::Http2(_), AnswerStream::Http1) => Poll::Ready(None),
        }
    }

    /// Lets the connection go in the way of its protocol, where somebody would miss the farewell.
    pub fn close(self) {
        let Link::Http1(mut http1) = self else { return };
        let mut cx = Context::from_waker(Waker::noop());
        // Mostly there is nothing to wait for.
        if http1.poll_shutdown(&mut cx).is_pending()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = timeout(FAREWELL, poll_fn(|cx| http1.poll_shutdown(cx))).await;
            });
        }
    }
}

impl From<http1::Unanswered> for Unanswered {
    fn from(unanswered: http1::Unanswered) -> Unanswered {
        match unanswered {
            http1::Unanswered::Unsent => Unanswered::Unsent,
            http1::Unanswered::Broken(error) => Unanswered::Broken(error.into()),
        }
    }
}

impl From<TrySendError<Request<RequestBody>>> for Unanswered {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Unanswered {
        match error.take_message() {
            Some(_) => Unanswered::Unsent,
            None => Unanswered::Broken(error.into_error().into()),
        }
    }
}

/// Trailers are of no interest.
fn poll_bytes(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, hyper::Error>>> {
    loop {
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else { return Poll::Pending };
        match frame.map(|frame| frame.map(hyper::body::Frame::into_data)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(Ok(bytes))) => return Poll::Ready(Some(Ok(bytes))),
            Some(Ok(Err(_trailers))) => {}
        }
    }
}
