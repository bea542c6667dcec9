//! Where the frames of an exchange go. The pipeline knows no lane: another face of the broker
//! brings another egress.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use ringmain_ring::{LaneError, Push};
use ringmain_shm::monotonic_ns;
use ringmain_wire::{Code, Kind, LaneId, ResponseHead, Sent, Stage};

use crate::failure::Failure;
use crate::loan::Loan;
use crate::log_id::LogId;
use crate::session::Session;

/// One exchange's way back to its caller. Frames come out in the order in which they go in.
pub trait Egress: Send {
    /// What is written until the next flush came together, at this time: no clock need be read
    /// for each frame.
    fn batch(&mut self, now_ns: u64) {
        let _ = now_ns;
    }

    /// Takes the head of an answer as it is, before any frame. False where it is to be pushed as a
    /// frame, too.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be the head of an answer there.
    fn take_head(&mut self, head: &ResponseHead<'_>) -> Result<bool, Failure> {
        let _ = head;
        Ok(false)
    }

    /// Writes a frame as far as there is room; never waits.
    fn push(&mut self, kind: Kind, choice: u16, payload: &[u8]) -> Result<Push, Failure>;

    /// Waits for room for a frame of this many lines, after a push that found none.
    fn poll_room(&mut self, cx: &mut Context<'_>, lines: u64) -> Poll<Result<(), Failure>>;

    /// Nothing will be sent upstream again, so the caller may have its request's memory back. Not
    /// told before the next flush.
    fn release_request(&mut self);

    /// Whether so much waits to be read that a flush is due before there is no room left.
    fn is_filling(&mut self) -> bool {
        false
    }

    /// Lets the caller know what was written. Once per batch, and before anything is waited for.
    fn flush(&mut self);
}

/// The egress of a session: one lane.
pub(crate) struct LaneEgress {
    session: Arc<Session>,
    lane: LaneId,
    id: LogId,
    /// The share of the one who answers; the HTTP client may hold others.
    loan: Option<Arc<Loan>>,
    /// The time that frames carry; `None`: that of their writing.
    batch_ns: Option<u64>,
    is_open: bool,
}

impl LaneEgress {
    /// The way back for an exchange that has begun on the lane of its loan.
    pub fn new(session: Arc<Session>, lane: LaneId, id: LogId, loan: Arc<Loan>) -> LaneEgress {
        LaneEgress { session, lane, id, loan: Some(loan), batch_ns: None, is_open: true }
    }

    /// A further owner of the loan, for a body that is lent.
    pub fn loan(&self) -> Option<Arc<Loan>> {
        self.loan.clone()
    }

    /// Writes the terminal frame and lets go of the loan, then wakes the caller once for both.
    pub fn finish(mut self, kind: Kind, payload: &[u8]) {
        self.close(kind, payload);
    }

    fn close(&mut self, kind: Kind, payload: &[u8]) {
        self.is_open = false;
        // Before the terminal, so that whoever sees the terminal finds the chunk free already.
        self.release_request();
        let done = self.session.lane(self.lane).finish(kind, payload);
        debug_assert_eq!(done, Ok(()), "an open exchange takes its terminal");
        // This one is not counted any more.
        self.session.ring_beside(self.session.exchanges.load(Relaxed));
    }
}

impl Egress for LaneEgress {
    #[inline]
    fn batch(&mut self, now_ns: u64) {
        self.batch_ns = Some(now_ns);
    }

    #[inline]
    fn push(&mut self, kind: Kind, choice: u16, payload: &[u8]) -> Result<Push, Failure> {
        let now_ns = self.batch_ns.unwrap_or_else(monotonic_ns);
        let pushed = self.session.push(self.lane, kind, choice, payload, now_ns);
        pushed.map_err(|error| lost(&error))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, lines: u64) -> Poll<Result<(), Failure>> {
        let room = self.session.poll_room(self.lane, cx, lines);
        room.map_err(|error| lost(&LaneError::Cursor(error)))
    }

    fn release_request(&mut self) {
        if let Some(loan) = self.loan.take() {
            loan.settle();
        }
    }

    fn is_filling(&mut self) -> bool {
        // A cursor that cannot be is found again by the next push, which says so.
        self.session.lane(self.lane).is_filling().unwrap_or(false)
    }

    #[inline]
    fn flush(&mut self) {
        self.batch_ns = None;
        let exchanges = self.session.exchanges.load(Relaxed);
        self.session.ring_beside(exchanges.saturating_sub(1));
    }
}

impl Drop for LaneEgress {
    /// An exchange whose task was dropped or panicked still ends, with exactly one terminal.
    fn drop(&mut self) {
        if self.is_open {
            // Whoever was writing is gone, and with him what he knew.
            let text = Code::Internal.sentence().to_owned();
            let failure = Failure::while_sent(Code::Internal, Stage::Relay, Sent::Maybe, text);
            self.close(Kind::Error, &failure.payload(self.id, 0, 0));
        }
    }
}

fn lost(error: &LaneError) -> Failure {
    let code = match error {
        LaneError::Cursor(_) => Code::ViolationCursor,
        _ => Code::Internal,
    };
    Failure::while_sent(code, Stage::Relay, Sent::Yes, error.to_string())
}
