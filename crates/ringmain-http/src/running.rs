//! An exchange that is polled by whoever wants its next bytes, and can be cut by whoever sees that
//! nobody does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use ringmain_broker::face::{Failure, Stop, StopCause};
use ringmain_wire::{Code, Stage};

use crate::bell::Part;
use crate::gauge::Gauge;
use crate::outlet::Outlet;
use crate::refusal::Refusal;
use crate::turns::Turns;

/// The pipeline of one exchange: how it ended, once it has.
pub(crate) type Work = Pin<Box<dyn Future<Output = Result<(), Box<Refusal>>> + Send>>;

enum State {
    Open(Work),
    /// It was ended from outside, and whoever polls next is still to be told how.
    Cut(Result<(), Box<Refusal>>),
    Over,
}

/// An exchange and what it has written.
pub(crate) struct Running {
    work: Mutex<State>,
    /// The server polls more often than the pipeline is woken.
    part: Part,
    /// The connection whose task polls this one, if there is one task for both.
    host: Option<Arc<Gauge>>,
    /// In which of its rounds the pipeline ran last.
    round: AtomicU64,
    pub outlet: Arc<Mutex<Outlet>>,
    stop: Arc<Stop>,
    pub turns: Turns,
}

impl Running {
    pub fn new(
        work: Work,
        outlet: Arc<Mutex<Outlet>>,
        stop: Arc<Stop>,
        host: Option<Arc<Gauge>>,
    ) -> Running {
        let (work, part) = (Mutex::new(State::Open(work)), Part::new());
        let (round, turns) = (AtomicU64::new(u64::MAX), Turns::default());
        Running { work, part, host, round, outlet, stop, turns }
    }

    /// Runs the pipeline until it has to wait. `None`: it was over before.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<(), Box<Refusal>>>> {
        let mut state = self.work.lock();
        let ended = match &mut *state {
            // A pipeline that lets the task of its provider's connection run is polled behind it.
            State::Open(_) if self.has_run() => return Poll::Pending,
            State::Open(work) => match self.part.poll(cx, |cx| work.as_mut().poll(cx)) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ended) => ended,
            },
            State::Cut(ended) => std::mem::replace(ended, Ok(())),
            State::Over => return Poll::Ready(None),
        };
        *state = State::Over;
        Poll::Ready(Some(ended))
    }

    /// Whether it has run in this round of the task. If it was woken since, so was the task.
    fn has_run(&self) -> bool {
        let Some(host) = &self.host else { return false };
        let round = host.round();
        self.round.swap(round, Relaxed) == round
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
        let ended = match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => ended,
            Poll::Pending => Err(Box::new(given_up())),
        };
        // What is replaced is dropped behind the lock.
        let cut = std::mem::replace(&mut *state, State::Cut(ended));
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

    /// What runs in the task of a connection, and how often it has run.
    fn running(host: &Arc<Gauge>) -> (Running, Arc<AtomicU64>) {
        let runs = Arc::new(AtomicU64::new(0));
        let counted = runs.clone();
        let work = poll_fn(move |cx| {
            counted.fetch_add(1, Relaxed);
            // Lets other tasks run.
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        (Running::new(Box::pin(work), Arc::default(), Arc::default(), Some(host.clone())), runs)
    }

    #[test]
    fn a_pipeline_runs_once_in_a_round_of_its_task() {
        let host = Gauge::new(0, None);
        let (running, runs) = running(&host);
        let mut cx = Context::from_waker(Waker::noop());
        for round in 1..4 {
            host.begin_round();
            // The server polls a body again when it has written nothing.
            for _ in 0..3 {
                assert!(running.poll(&mut cx).is_pending());
                assert_eq!(runs.load(Relaxed), round);
            }
        }
    }

    #[test]
    fn what_was_cut_is_told_at_once() {
        let host = Gauge::new(0, None);
        let (running, _) = running(&host);
        let mut cx = Context::from_waker(Waker::noop());
        host.begin_round();
        assert!(running.poll(&mut cx).is_pending());
        running.cut(None);
        assert!(matches!(running.poll(&mut cx), Poll::Ready(Some(Err(_)))));
        assert!(matches!(running.poll(&mut cx), Poll::Ready(None)));
    }
}
