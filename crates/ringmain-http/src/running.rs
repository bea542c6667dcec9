//! An exchange that is polled by whoever wants its next bytes, and can be cut by whoever sees that
//! nobody does.
//!
//! Over HTTP/1 the task of the connection runs it, and the server is asked when there is something
//! to write: of the rounds of that task in a burst nearly none has anything for the server, and to
//! ask it is more work than a token is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use ringmain_broker::face::{Failure, Stop, StopCause};
use ringmain_wire::{Code, Stage};

use crate::outlet::Outlet;
use crate::pipelines::{Outcome, Work};
use crate::refusal::Refusal;
use crate::turns::Turns;

enum State {
    Open(Work),
    /// It has ended while its reader did not ask, who is still to be told how.
    Ended(Outcome),
    Over,
}

/// An exchange and what it has written.
pub(crate) struct Running {
    work: Mutex<State>,
    /// The task of its connection runs it.
    is_hosted: AtomicBool,
    pub outlet: Arc<Mutex<Outlet>>,
    stop: Arc<Stop>,
    pub turns: Turns,
}

impl Running {
    pub fn new(work: Work, outlet: Arc<Mutex<Outlet>>, stop: Arc<Stop>) -> Arc<Running> {
        let work = Mutex::new(State::Open(work));
        let (is_hosted, turns) = (AtomicBool::new(false), Turns::default());
        Arc::new(Running { work, is_hosted, outlet, stop, turns })
    }

    /// Whoever reads its answer is not to run it.
    pub fn leave_to_host(&self) {
        self.is_hosted.store(true, Relaxed);
    }

    /// Runs the pipeline until it has to wait, if it was woken. True: whoever reads its answer is
    /// to look.
    pub fn run(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.work.lock();
        let State::Open(work) = &mut *state else { return false };
        match work.poll(cx) {
            Poll::Ready(ended) => {
                *state = State::Ended(ended);
                true
            }
            Poll::Pending => self.outlet.lock().has_news(),
        }
    }

    /// How it ended, once it has; `None`: that was told before. Runs the pipeline until it has to
    /// wait, where nobody else does.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
        let mut state = self.work.lock();
        let ended = match &mut *state {
            State::Open(_) if self.is_hosted.load(Relaxed) => return Poll::Pending,
            State::Open(work) => match work.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ended) => ended,
            },
            State::Ended(ended) => std::mem::replace(ended, Ok(())),
            State::Over => return Poll::Ready(None),
        };
        *state = State::Over;
        Poll::Ready(Some(ended))
    }

    /// Ends the pipeline, and with it the request upstream: by itself if it has a reason of its own
    /// or is given one, else by force. One that is being polled is not stuck; it is asked to end.
    pub fn cut(&self, cause: Option<StopCause>) {
        if let Some(cause) = cause {
            self.stop.request(cause);
        }
        let Some(mut state) = self.work.try_lock() else {
            self.stop.request(StopCause::Cancelled);
            return;
        };
        let State::Open(work) = &mut *state else { return };
        // Its timers may have rung while nobody polled it; then it knows why it ends.
        let ended = match work.poll_now(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => ended,
            Poll::Pending => Err(Box::new(given_up())),
        };
        // What is replaced is dropped behind the lock.
        let cut = std::mem::replace(&mut *state, State::Ended(ended));
        drop(state);
        drop(cut);
    }
}

fn given_up() -> Refusal {
    let text = "the answer was not read for too long";
    Refusal::of(Failure::new(Code::SlowConsumer, Stage::Relay, text), String::new(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::atomic::AtomicU64;

    use ringmain_broker::face::{Egress as _, Push};
    use ringmain_wire::Kind;

    use crate::gauge::Gauge;
    use crate::outlet::OutletEgress;
    use crate::shape::Shape;

    /// A pipeline that gives way, and how often it has run.
    fn running() -> (Arc<Running>, Arc<AtomicU64>) {
        let runs = Arc::new(AtomicU64::new(0));
        let counted = runs.clone();
        let work = poll_fn(move |cx| {
            counted.fetch_add(1, Relaxed);
            // Lets other tasks run.
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        (Running::new(Work::alone(work), Arc::default(), Arc::default()), runs)
    }

    #[test]
    fn a_pipeline_runs_once_in_a_round_of_its_task() {
        let host = Gauge::new(0, None);
        let (running, runs) = running();
        let mut cx = Context::from_waker(Waker::noop());
        host.hosts(&running);
        assert!(running.poll(&mut cx).is_pending());
        for round in 1..4 {
            assert!(!host.run_hosted(&mut cx), "nothing was written");
            assert_eq!(runs.load(Relaxed), round);
            // The server polls a body again when it has written nothing.
            for _ in 0..3 {
                assert!(running.poll(&mut cx).is_pending());
                assert_eq!(runs.load(Relaxed), round);
            }
        }
    }

    #[test]
    fn the_server_looks_when_something_is_told_and_at_the_end() {
        let outlet = Arc::<Mutex<Outlet>>::default();
        let mut egress = OutletEgress { outlet: outlet.clone(), shape: Shape::OpenAi };
        let work = async move {
            assert_eq!(egress.push(Kind::Event, 0, b"a\n\n"), Ok(Push::Written));
            tokio::task::yield_now().await;
            egress.flush();
            tokio::task::yield_now().await;
            assert_eq!(egress.push(Kind::Event, 0, b"b\n\n"), Ok(Push::Written));
            tokio::task::yield_now().await;
            Ok(())
        };
        let running = Running::new(Work::alone(work), outlet.clone(), Arc::default());
        let (host, mut cx) = (Gauge::new(0, None), Context::from_waker(Waker::noop()));
        host.hosts(&running);
        assert!(!host.run_hosted(&mut cx), "nothing was told of");
        assert!(host.run_hosted(&mut cx), "the first event was told of");
        assert_eq!(outlet.lock().take(), b"a\n\n"[..]);
        assert!(!host.run_hosted(&mut cx), "the second was not");
        assert!(running.poll(&mut cx).is_pending());
        assert!(host.run_hosted(&mut cx), "it is over");
        assert!(matches!(running.poll(&mut cx), Poll::Ready(Some(Ok(())))));
        drop(running);
        assert!(!host.run_hosted(&mut cx), "nobody wants it any more");
    }

    #[test]
    fn what_was_cut_is_told_at_once() {
        let (running, _) = running();
        let mut cx = Context::from_waker(Waker::noop());
        Gauge::new(0, None).hosts(&running);
        assert!(running.poll(&mut cx).is_pending());
        running.cut(None);
        assert!(matches!(running.poll(&mut cx), Poll::Ready(Some(Err(_)))));
        assert!(matches!(running.poll(&mut cx), Poll::Ready(None)));
    }
}
