//! The loan of a request's chunk: one owner shared by all who may still read it.

use std::sync::Arc;

use ringmain_wire::{ExchangeId, LaneId};

use crate::session::Session;

/// Given back when the last clone of its `Arc` is dropped: by the pipeline when nothing can be
/// sent again, by the HTTP client when the body is written or its connection gone, whichever is
/// later and on whatever thread.
pub(crate) struct Loan {
    session: Arc<Session>,
    lane: LaneId,
    exchange: ExchangeId,
    /// How much of the arena is lent.
    bytes: u64,
    is_quiet: bool,
}

impl Loan {
    /// The loan of `bytes` that the session has counted as lent.
    pub fn new(session: Arc<Session>, lane: LaneId, exchange: ExchangeId, bytes: u64) -> Arc<Loan> {
        Arc::new(Loan { session, lane, exchange, bytes, is_quiet: false })
    }

    /// Drops a share right before its owner rings the peer anyway: a sleeper is woken once.
    pub fn settle(self: Arc<Self>) {
        if let Some(mut last) = Arc::into_inner(self) {
            last.is_quiet = true;
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.session.return_loan(self.lane, self.exchange, self.bytes);
        if !self.is_quiet {
            self.session.ring();
        }
    }
}
