//! An exchange that is polled by whoever wants its next bytes, and can be cut by whoever sees that
//! nobody does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use ringmain_broker::face::{Failure, Stop, StopCause};
use ringmain_wire::{Code, Stage};

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
    pub outlet: Arc<Mutex<Outlet>>,
    stop: Arc<Stop>,
    pub turns: Turns,
}

impl Running {
    pub fn new(work: Work, outlet: Arc<Mutex<Outlet>>, stop: Arc<Stop>) -> Running {
        Running { work: Mutex::new(State::Open(work)), outlet, stop, turns: Turns::default() }
    }

    /// Runs the pipeline until it has to wait. `None`: it was over before.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<(), Box<Refusal>>>> {
        let mut state = self.work.lock();
        let ended = match &mut *state {
            State::Open(work) => match work.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ended) => ended,
            },
            State::Cut(ended) => std::mem::replace(ended, Ok(())),
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
