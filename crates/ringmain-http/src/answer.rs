//! The response of an exchange: its head when the pipeline has one, and a body that is the pipeline
//! itself.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::{Frame, SizeHint};
use ringmain_broker::face::{Charged, Failure};
use ringmain_wire::{Code, Stage};
use tokio::time::{Sleep, sleep};

use crate::gather::{Gathered, Gatherer};
use crate::gauge::Gauge;
use crate::heartbeat::{HEARTBEAT, Heartbeat};
use crate::outlet::{Head, WAITING_BYTES_MAX};
use crate::pipelines::Outcome;
use crate::refusal::Refusal;
use crate::running::Running;
use crate::shape::{Shape, Words};
use crate::watch::{Seat, Watch};

/// How long the last event of a broken stream has to leave before the stream is cut off.
const LINGER: Duration = Duration::from_millis(20);

/// What the answers of a request have in common.
pub(crate) struct Manner {
    pub shape: Shape,
    pub heartbeat: Option<Duration>,
    /// Keeps what could not be told from a broken answer otherwise.
    pub gatherer: Option<Gatherer>,
}

/// Waits until there is something to answer with.
pub(crate) async fn of(
    running: Arc<Running>,
    manner: Manner,
    watch: &Arc<Watch>,
    gauge: &Arc<Gauge>,
) -> Result<Response<Body>, Refusal> {
    let ended = poll_fn(|cx| until_ready(&running, cx)).await;
    let (head, waiting) = {
        let mut outlet = running.outlet.lock();
        (outlet.head.take(), outlet.waiting_bytes())
    };
    match (head, ended) {
        (Some(head), None) => match &manner.gatherer {
            Some(gatherer) if !head.is_stream => {
                let gathered = gatherer.gather(&running).await?;
                let seat = watch.answer(&running, Some(gauge));
                Ok(head.response.map(|()| Body::new(Kept::new(gathered, running, Some(seat)))))
            }
            _ => {
                let seat = watch.answer(&running, Some(gauge));
                Ok(streamed(head, running, manner, seat, End::Open))
            }
        },
        (Some(head), Some(Ok(()))) => {
            let whole = running.outlet.lock().take();
            Ok(head.response.map(|()| match whole.is_empty() {
                true => Body::empty(),
                // The server takes so little at once.
                false => Body::new(Kept::new(whole.into(), running, None)),
            }))
        }
        // What was written before it broke is delivered, and then the breaking.
        (Some(head), Some(Err(refusal)))
            if waiting > 0 && !head.is_json && (head.is_stream || manner.gatherer.is_none()) =>
        {
            let seat = watch.answer(&running, Some(gauge));
            Ok(streamed(head, running, manner, seat, End::Failed(refusal)))
        }
        (_, Some(Err(refusal))) => Err(*refusal),
        (None, _) => {
            let failure = Failure::new(Code::Internal, Stage::Relay, "the answer has no head");
            Err(Refusal::of(failure, String::new(), 0))
        }
    }
}

/// Ready with the end, or with nothing when the head may go out and the rest is still to come.
fn until_ready(running: &Running, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
    match running.poll(cx) {
        Poll::Ready(Some(ended)) => Poll::Ready(Some(ended)),
        // Whoever waits for the head is not cut, and the end is told once.
        Poll::Ready(None) => Poll::Pending,
        Poll::Pending => {
            let outlet = running.outlet.lock();
            let goes_out = |head: &Head| {
                // JSON is kept until it is whole, if it is small: what breaks before is an error.
                match head.is_json {
                    true => outlet.waiting_bytes() >= WAITING_BYTES_MAX,
                    false => outlet.is_due(),
                }
            };
            match outlet.head.as_ref().is_some_and(goes_out) {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        }
    }
}

fn streamed(
    head: Head,
    running: Arc<Running>,
    manner: Manner,
    seat: Seat,
    end: End,
) -> Response<Body> {
    let heartbeat = manner.heartbeat.filter(|_| head.is_stream).map(Heartbeat::new);
    let (shape, is_stream) = (manner.shape, head.is_stream);
    let body = AnswerBody { running, shape, is_stream, heartbeat, end, _seat: seat };
    head.response.map(|()| Body::new(body))
}

/// An answer that was whole before its head went out, and what it is charged.
struct Kept {
    rest: Bytes,
    running: Arc<Running>,
    _charged: Vec<Charged>,
    /// Of one that may be longer than what the server takes at once.
    seat: Option<Seat>,
}

impl Kept {
    fn new(gathered: Gathered, running: Arc<Running>, seat: Option<Seat>) -> Kept {
        let Gathered { whole, charged } = gathered;
        Kept { rest: whole, running, _charged: charged, seat }
    }
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.running.turns.asked();
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = match &self.seat {
            None => std::mem::take(&mut self.rest),
            // What the server has taken is charged to nobody, so it keeps nothing but its copy.
            Some(_) => {
                let bytes = self.rest.len().min(WAITING_BYTES_MAX);
                Bytes::copy_from_slice(&self.rest.split_to(bytes))
            }
        };
        self.running.turns.given();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// Polls the pipeline whenever the server has room.
struct AnswerBody {
    running: Arc<Running>,
    shape: Shape,
    is_stream: bool,
    heartbeat: Option<Heartbeat>,
    end: End,
    _seat: Seat,
}

/// How far the end has come.
enum End {
    Open,
    /// The pipeline has failed, and its caller is still to be told.
    Failed(Box<Refusal>),
    /// The last event is on its way.
    Leaving(Pin<Box<Sleep>>),
    Done,
}

/// The body ends without its end, so that no reader takes it for whole.
#[derive(Debug)]
struct Broken;

impl AnswerBody {
    fn give(&self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.running.turns.given();
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn waiting(&self) -> Option<Bytes> {
        let mut outlet = self.running.outlet.lock();
        (outlet.waiting_bytes() > 0).then(|| outlet.take())
    }

    /// What waits, if it is to leave before the pipeline has run again.
    fn due(&self) -> Option<Bytes> {
        let mut outlet = self.running.outlet.lock();
        (outlet.waiting_bytes() > 0 && outlet.is_due()).then(|| outlet.take())
    }

    /// What is left, and why nothing follows.
    fn last_words(&self, refusal: &Refusal) -> Option<Bytes> {
        let mut outlet = self.running.outlet.lock();
        let (is_between, was_told) = (outlet.is_between_events(), outlet.told_error());
        let rest = outlet.take();
        // The provider's own error event has gone out as it came.
        if !self.is_stream || was_told {
            return (!rest.is_empty()).then_some(rest);
        }
        let message = format!("{} ({})", refusal.failure.message, refusal.id);
        let (status, code) = (refusal.status, refusal.failure.code.name());
        let words = Words { status, code, message: &message, request_id: &refusal.id };
        let mut last = BytesMut::from(rest);
        if !is_between {
            last.extend_from_slice(b"\n\n");
        }
        last.extend_from_slice(&self.shape.event(&words));
        Some(last.freeze())
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(bytes) = self.due() {
            return self.give(bytes);
        }
        match self.running.poll(cx) {
            Poll::Ready(Some(Ok(()))) => {
                self.end = End::Done;
                match self.waiting() {
                    Some(bytes) => self.give(bytes),
                    None => Poll::Ready(None),
                }
            }
            Poll::Ready(Some(Err(refusal))) => self.poll_failed(&refusal, cx),
            Poll::Ready(None) => Poll::Ready(Some(Err(Broken))),
            Poll::Pending => match self.due() {
                Some(bytes) => self.give(bytes),
                None => self.poll_heartbeat(cx),
            },
        }
    }

    fn poll_failed(
        &mut self,
        refusal: &Refusal,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.end = End::Leaving(Box::pin(sleep(LINGER)));
        match self.last_words(refusal) {
            Some(bytes) => self.give(bytes),
            None => self.poll_leaving(cx),
        }
    }

    fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let End::Leaving(linger) = &mut self.end else { return Poll::Ready(None) };
        linger.as_mut().poll(cx).map(|()| Some(Err(Broken)))
    }

    fn poll_heartbeat(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(heartbeat) = &mut self.heartbeat else { return Poll::Pending };
        let is_due = heartbeat.is_due(cx);
        let outlet = self.running.outlet.lock();
        if is_due && outlet.is_between_events() && outlet.waiting_bytes() == 0 {
            drop(outlet);
            return self.give(Bytes::from_static(HEARTBEAT));
        }
        Poll::Pending
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.running.turns.asked();
        match std::mem::replace(&mut self.end, End::Done) {
            End::Open => {
                self.end = End::Open;
                let polled = self.poll_open(cx);
                if matches!(polled, Poll::Ready(Some(Ok(_))))
                    && let Some(heartbeat) = &mut self.heartbeat
                {
                    heartbeat.hears();
                }
                polled
            }
            End::Failed(refusal) => self.poll_failed(&refusal, cx),
            End::Leaving(linger) => {
                self.end = End::Leaving(linger);
                self.poll_leaving(cx)
            }
            End::Done => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.end, End::Done)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream broke")
    }
}

impl std::error::Error for Broken {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    use http_body::Body as _;
    use parking_lot::Mutex;
    use ringmain_broker::face::{Egress as _, Push};
    use ringmain_wire::Kind;

    use crate::outlet::{Outlet, OutletEgress};
    use crate::pipelines::Work;

    /// One event is told of at once, the next two together.
    async fn burst(mut egress: OutletEgress) -> Result<(), Box<Refusal>> {
        for (event, is_told) in [(b"a\n\n", true), (b"b\n\n", false), (b"c\n\n", true)] {
            assert_eq!(egress.push(Kind::Event, 0, event), Ok(Push::Written));
            if is_told {
                egress.flush();
            }
            tokio::task::yield_now().await;
        }
        std::future::pending().await
    }

    #[test]
    fn a_long_answer_is_given_in_pieces_that_keep_nothing_of_it() {
        let work = Work::alone(std::future::pending());
        let running = Running::new(work, Arc::default(), Arc::default());
        let seat = Watch::new().answer(&running, None);
        let whole = Bytes::from(vec![7; 2 * WAITING_BYTES_MAX + 1]);
        let mut kept = Kept::new(whole.clone().into(), running, Some(seat));
        let mut cx = Context::from_waker(Waker::noop());
        let mut given = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut kept).poll_frame(&mut cx) {
            given.push(frame.into_data().unwrap());
        }
        let sizes: Vec<_> = given.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [WAITING_BYTES_MAX, WAITING_BYTES_MAX, 1]);
        drop(kept);
        assert!(whole.is_unique());
    }

    #[tokio::test]
    async fn events_of_a_burst_leave_together_when_they_are_told_of() {
        let (outlet, host) = (Arc::<Mutex<Outlet>>::default(), Gauge::new(0, None));
        let shape = Shape::OpenAi;
        let work = Work::alone(burst(OutletEgress { outlet: outlet.clone(), shape }));
        let running = Running::new(work, outlet, Arc::default());
        let mut cx = Context::from_waker(Waker::noop());
        host.hosts(&running);
        host.run_hosted(&mut cx);
        let _seat = Watch::new().answer(&running, None);
        let mut body =
            AnswerBody { running, shape, is_stream: true, heartbeat: None, end: End::Open, _seat };
        let mut given = Vec::new();
        for _ in 0..3 {
            // The server polls until there is nothing more.
            while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) {
                given.push(frame.into_data().unwrap());
            }
            tokio::task::yield_now().await;
            host.run_hosted(&mut cx);
        }
        assert_eq!(given, [&b"a\n\n"[..], b"b\n\nc\n\n"]);
    }
}
