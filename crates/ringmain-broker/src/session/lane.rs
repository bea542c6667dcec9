//! One lane as the broker keeps it: its writer, the exchange on it, and its loan.
//!
//! A lane is used by one exchange at a time, but from several threads: the session's task begins
//! exchanges and hands on cancels, the exchange's task writes frames, and whoever drops the last
//! piece of a lent body gives the loan back. Two rules keep a fast caller from finding the lane
//! busy when it has seen it free:
//!
//! 1. The terminal frame is published and the exchange is closed under one lock.
//! 2. The private note that the loan is back is made before the loan word is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use ringmain_ring::{CursorError, LaneError, LaneWriter, LoanWriter, Push};
use ringmain_shm::{ReadMap, WriteMap, monotonic_ns};
use ringmain_wire::{Code, ExchangeId, Geometry, Kind, LaneId};

use crate::failure::Violation;
use crate::stop::{Stop, StopCause};

pub(crate) struct Lane {
    state: Mutex<State>,
    loan: LoanWriter<WriteMap>,
    is_lent: AtomicBool,
}

struct State {
    writer: LaneWriter<WriteMap, ReadMap>,
    stop: Option<Arc<Stop>>,
    parked: Option<Parked>,
}

/// A task that waits for room.
struct Parked {
    waker: Waker,
    lines: u64,
}

/// What a look at a lane with a waiting task found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nobody waits.
    Idle,
    /// Still no room.
    Starved,
    /// There is room: the task was woken.
    Woken,
}

impl Lane {
    pub fn new(own: &WriteMap, peer: &ReadMap, geometry: Geometry, id: LaneId) -> Lane {
        let writer = LaneWriter::new(own.clone(), peer.clone(), geometry, id);
        let state = State { writer, stop: None, parked: None };
        let loan = LoanWriter::new(own.clone(), geometry, id);
        Lane { state: Mutex::new(state), loan, is_lent: AtomicBool::new(false) }
    }

    /// Opens an exchange; from here on its loan is out.
    pub fn begin(&self, id: ExchangeId, stop: Option<Arc<Stop>>) -> Result<(), Violation> {
        let mut state = self.state.lock();
        // Pairs with: the Release store in `return_loan`.
        if self.is_lent.load(Ordering::Acquire) {
            let text = "a request came before the loan of its lane was back";
            return Err(Violation::new(Code::ViolationLaneBusy, text));
        }
        let begun = state.writer.begin(id);
        begun.map_err(|busy| Violation::new(Code::ViolationLaneBusy, busy))?;
        self.is_lent.store(true, Ordering::Relaxed);
        state.stop = stop;
        Ok(())
    }

    /// Stops the exchange `target`, if it is the lane's present one.
    pub fn cancel(&self, target: ExchangeId) {
        let state = self.state.lock();
        if state.writer.carries(target) {
            state.stop(StopCause::Cancelled);
        }
    }

    /// Stops whatever exchange is open.
    pub fn stop(&self, cause: StopCause) {
        self.state.lock().stop(cause);
    }

    /// Writes a frame as far as there is room; it carries this time.
    pub fn push(
        &self,
        kind: Kind,
        choice: u16,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<Push, LaneError> {
        self.state.lock().writer.push(kind, choice, payload, now_ns)
    }

    /// Writes the terminal frame and closes the exchange.
    pub fn finish(&self, kind: Kind, payload: &[u8]) -> Result<(), LaneError> {
        let mut state = self.state.lock();
        state.stop = None;
        state.parked = None;
        state.writer.finish(kind, payload, monotonic_ns())
    }

    /// Whether its reader is to be rung before there is no room left.
    pub fn is_filling(&self) -> Result<bool, CursorError> {
        self.state.lock().writer.is_filling()
    }

    /// Waits for room for a frame of this many lines; `announce` tells the session's task which
    /// lane to look at when its bell rings.
    pub fn poll_room(
        &self,
        cx: &mut Context<'_>,
        lines: u64,
        announce: impl FnOnce(),
    ) -> Poll<Result<(), CursorError>> {
        let mut state = self.state.lock();
        // Registered before the target is stored: the ring that follows finds the waker.
        state.parked = Some(Parked { waker: cx.waker().clone(), lines });
        announce();
        match state.writer.starve(lines) {
            Ok(true) => Poll::Pending,
            other => {
                state.parked = None;
                Poll::Ready(other.map(|_| ()))
            }
        }
    }

    /// Wakes the waiting task if there is room by now.
    pub fn look(&self) -> Result<Look, CursorError> {
        let mut state = self.state.lock();
        let Some(lines) = state.parked.as_ref().map(|parked| parked.lines) else {
            return Ok(Look::Idle);
        };
        if state.writer.starve(lines)? {
            return Ok(Look::Starved);
        }
        if let Some(parked) = state.parked.take() {
            parked.waker.wake();
        }
        Ok(Look::Woken)
    }

    /// Gives the loan back to the caller, who has to be rung afterwards.
    pub fn return_loan(&self, id: ExchangeId) {
        // Pairs with: the Acquire load in `begin`. Before the loan word: see rule 2.
        self.is_lent.store(false, Ordering::Release);
        self.loan.give_back(id);
    }
}

impl State {
    fn stop(&self, cause: StopCause) {
        if let Some(stop) = &self.stop {
            stop.request(cause);
        }
    }
}
