//! One stream of an HTTP/2 connection: a task of its own, which is ended alone when its caller does
//! not read. Over HTTP/1 that is the connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::rt::Executor;
use tokio::task::AbortHandle;

use crate::gauge::Gauge;
use crate::turns::Turns;
use crate::watch::{Seat, Watch};

tokio::task_local! {
    static STREAM: Arc<OnceLock<AbortHandle>>;
}

/// Starts the tasks of streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams;

/// A response as far as the server has taken it.
#[derive(Clone)]
pub(crate) struct Taken {
    pub turns: Arc<Turns>,
    task: Option<Arc<OnceLock<AbortHandle>>>,
    gauge: Arc<Gauge>,
}

/// The body of a response over HTTP/2, watched. What the server was given it keeps until its caller
/// makes room for the first byte of it, but not for the last: so the last byte is given by itself,
/// and is not taken before there is room for all.
pub(crate) struct WatchedBody {
    body: Body,
    turns: Arc<Turns>,
    last: Option<Bytes>,
    _seat: Seat,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let task = Arc::new(OnceLock::new());
        let spawned = tokio::spawn(STREAM.scope(task.clone(), stream));
        let _ = task.set(spawned.abort_handle());
    }
}

impl Taken {
    /// Ends the stream: its caller is told by a reset.
    pub fn reset(&self) {
        match self.task.as_ref().and_then(|task| task.get()) {
            Some(task) => task.abort(),
            None => self.gauge.end(),
        }
    }
}

impl WatchedBody {
    /// Watches this body, in the task of its stream.
    pub fn body(body: Body, watch: &Arc<Watch>, gauge: &Arc<Gauge>) -> Body {
        if http_body::Body::is_end_stream(&body) {
            return body;
        }
        let turns = Arc::new(Turns::default());
        turns.given();
        let task = STREAM.try_with(Clone::clone).ok();
        let seat = watch.taken(Taken { turns: turns.clone(), task, gauge: gauge.clone() });
        Body::new(WatchedBody { body, turns, last: None, _seat: seat })
    }
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.turns.asked();
        if let Some(last) = self.last.take() {
            self.turns.given();
            return Poll::Ready(Some(Ok(Frame::data(last))));
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        self.turns.given();
        let is_last = self.body.is_end_stream();
        Poll::Ready(Some(frame.map(|frame| {
            frame.map_data(|mut data| {
                if is_last && data.len() > 1 {
                    self.last = Some(data.split_off(data.len() - 1));
                }
                data
            })
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
