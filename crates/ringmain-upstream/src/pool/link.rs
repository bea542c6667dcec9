//! What is spoken on a connection: requests out, heads of answers and their bodies back.
//!
//! An HTTP/1.1 connection has no task. Whoever has its place polls it: for the head of the answer,
//! and for each chunk, which thus goes from the socket to its frame within one poll of one task.
//! While nobody has the place the watcher of its [`Slot`](super::slot::Slot) is woken by what comes,
//! and polls it. An HTTP/2 connection carries many requests and has a task of its own.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::Handle;

use super::bell::Bell;
use super::greeting::{Greeted, Tell};
use crate::body::RequestBody;

/// Most bytes of an HTTP/1.1 answer that are read at once, and most of its head. What is read stays
/// near the CPU until it is decoded: a burst takes a tenth less time than with six times as much.
const HTTP1_BYTES: usize = 64 * 1024;
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

/// A connection for one request after the other.
pub(super) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    /// Until its end.
    connection: Option<Connection>,
    bell: Bell,
}

type Connection = http1::Connection<Box<dyn Transport>, RequestBody>;

/// Why a request was not answered.
pub(super) enum Unanswered {
    /// Nothing of it was sent.
    Unsent,
    Broken(hyper::Error),
}

impl Link {
    /// Opens HTTP/1.1 on a connection that stands.
    pub async fn http1(transport: Box<dyn Transport>) -> Result<Link, hyper::Error> {
        let mut builder = http1::Builder::new();
        let (sender, connection) = builder.max_buf_size(HTTP1_BYTES).handshake(transport).await?;
        let http1 = Http1 { sender, connection: Some(connection), bell: Bell::new() };
        Ok(Link::Http1(Box::new(http1)))
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
            Link::Http1(http1) => Poll::Ready(http1.poll_ready(cx)),
            Link::Http2(sender) => sender.poll_ready(cx).map(|ready| ready.is_ok()),
        }
    }

    /// Sends a request, and waits for the head of the answer. Over HTTP/1.1 the connection is of no
    /// use after a call that was dropped.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Unanswered> {
        match self {
            Link::Http1(http1) => http1.send(request).await,
            Link::Http2(sender) => sender.try_send_request(request).await.map_err(Unanswered::of),
        }
    }

    /// The next bytes of a body that comes over this connection; `None` at its end.
    pub fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        match self {
            Link::Http1(http1) => http1.poll_body(body, cx),
            Link::Http2(_) => poll_bytes(body, cx),
        }
    }

    /// Lets the connection go in the way of its protocol, where somebody would miss the farewell.
    pub fn close(self) {
        let Link::Http1(http1) = self else { return };
        let Http1 { sender, connection, .. } = *http1;
        drop(sender);
        if let (Some(connection), Ok(runtime)) = (connection, Handle::try_current()) {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(FAREWELL, connection).await;
            });
        }
    }
}

impl Unanswered {
    fn of(mut error: TrySendError<Request<RequestBody>>) -> Unanswered {
        match error.take_message() {
            Some(_) => Unanswered::Unsent,
            None => Unanswered::Broken(error.into_error()),
        }
    }
}

impl Http1 {
    /// Not ready is over: between requests there is nothing to wait for.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> bool {
        let Http1 { sender, connection, bell } = self;
        let polled = bell.poll_last(cx, |cx| {
            drive(connection, cx);
            sender.poll_ready(cx).map(|ready| ready.is_ok())
        });
        polled == Poll::Ready(true)
    }

    async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let Http1 { sender, connection, bell } = self;
        let mut answer = pin!(sender.try_send_request(request));
        let polled = poll_fn(|cx| {
            bell.poll(cx, |cx| {
                drive(connection, cx);
                answer.as_mut().poll(cx)
            })
        });
        polled.await.map_err(Unanswered::of)
    }

    fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        let Http1 { connection, bell, .. } = self;
        bell.poll(cx, |cx| {
            // It hands over one chunk at a time, so there is seldom one before.
            drive(connection, cx);
            // Whose way here knows nothing of budgets, so the connection alone can be waited for.
            poll_bytes(body, &mut Context::from_waker(Waker::noop()))
        })
    }
}

/// Lets a connection do what it can. One that is over is dropped at once: that is how a request
/// learns that nothing of it was sent, and a body that it is cut short.
fn drive(connection: &mut Option<Connection>, cx: &mut Context<'_>) {
    if let Some(present) = connection
        && Pin::new(present).poll(cx).is_ready()
    {
        *connection = None;
    }
}

/// Trailers are of no interest.
fn poll_bytes(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, hyper::Error>>> {
    loop {
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else { return Poll::Pending };
        match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(Ok(bytes))) => return Poll::Ready(Some(Ok(bytes))),
            Some(Ok(Err(_trailers))) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use hyper::rt::ReadBufCursor;

    use crate::call::Progress;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    /// Answers what is written to it, and ends when it is told to.
    struct Server {
        answers: u32,
        ends: Arc<AtomicBool>,
    }

    impl Read for Server {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            mut buffer: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            if self.answers > 0 {
                self.answers -= 1;
                buffer.put_slice(ANSWER);
                return Poll::Ready(Ok(()));
            }
            match self.ends.load(SeqCst) {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            }
        }
    }

    impl Write for Server {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.answers += 1;
            cx.waker().wake_by_ref();
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn request() -> Request<RequestBody> {
        Request::new(RequestBody::new(Vec::new(), Progress::default()))
    }

    /// The server ends the connection just when its next request is given to it.
    #[tokio::test]
    async fn a_connection_that_ends_before_a_request_has_sent_nothing_of_it() {
        let ends = Arc::new(AtomicBool::new(false));
        let server = Server { answers: 0, ends: ends.clone() };
        let mut link = Link::http1(Box::new(server)).await.unwrap();
        assert!(poll_fn(|cx| link.poll_ready(cx)).await);
        let Ok(answer) = link.send(request()).await else { panic!("it was not answered") };
        assert!(answer.into_body().is_end_stream());
        assert!(poll_fn(|cx| link.poll_ready(cx)).await);
        ends.store(true, SeqCst);
        let mut sending = pin!(link.send(request()));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(answer) = sending.as_mut().poll(&mut cx) else {
            panic!("nobody else would tell whoever waits for it")
        };
        assert!(matches!(answer, Err(Unanswered::Unsent)));
    }
}
