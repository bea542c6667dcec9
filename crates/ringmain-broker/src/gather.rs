//! How long written frames wait until they are flushed: until their reader is rung for.
//!
//! To be woken costs a consumer several microseconds, more than reading hundreds of frames does,
//! and whoever rings about as much. So while a provider sends faster than that, a task does not
//! ring for every chunk but once for all that is at hand. A chunk that had to be waited for is no
//! burst and is flushed at once; in a burst a frame is flushed after [`UNFLUSHED_NS_MAX`] at most,
//! with which other tasks get their turn too, and a full lane ends the wait as well.
//!
//! The clock is read once per chunk, and not for the first.

use std::task::{Context, Poll};

use bytes::Bytes;
use ringmain_shm::monotonic_ns;
use ringmain_upstream::{AnswerBody, UpstreamError};

/// A chunk that was waited for no longer than this belongs to a burst.
const BURST_GAP_NS: u64 = 100_000;
/// Longest time until a frame is flushed: what a task needs to fill a lane, and far below the gap
/// between two tokens that come as they are made.
const UNFLUSHED_NS_MAX: u64 = 500_000;

/// The state of one answer: whether its chunks come in a burst, and since when nothing was flushed.
#[derive(Debug)]
pub(crate) struct Gather {
    is_burst: bool,
    /// Nothing came yet.
    is_new: bool,
    /// When the wait for the present chunk began.
    waits_ns: u64,
    /// When the first frame came that is not flushed.
    unflushed_ns: u64,
    /// Since when other tasks have had no turn.
    turn_ns: u64,
    /// When the present chunk came.
    now_ns: u64,
}

impl Gather {
    /// Of an answer whose head has come by now, ns of the monotonic clock.
    pub fn new(now_ns: u64) -> Gather {
        let (is_burst, is_new, waits_ns) = (false, true, now_ns);
        Gather { is_burst, is_new, waits_ns, unflushed_ns: now_ns, turn_ns: now_ns, now_ns }
    }

    /// The next chunk, if it belongs to the same burst and is at hand. `None`: whoever reads is to
    /// be rung before anything is waited for.
    #[inline]
    pub fn at_hand(
        &mut self,
        body: &mut AnswerBody,
        cx: &mut Context<'_>,
    ) -> Option<Result<Option<Bytes>, UpstreamError>> {
        if !self.is_burst || self.is_due() {
            return None;
        }
        let Poll::Ready(chunk) = body.poll_chunk(cx) else { return None };
        if let Ok(Some(_)) = &chunk {
            self.now_ns = monotonic_ns();
        }
        Some(chunk)
    }

    /// The next chunk is waited for. A burst that has lasted gives way to other tasks first, and
    /// to whatever else its own task waits for.
    pub async fn waits(&mut self) {
        if self.is_burst && self.now_ns.saturating_sub(self.turn_ns) >= UNFLUSHED_NS_MAX {
            tokio::task::yield_now().await;
            self.turn_ns = monotonic_ns();
        }
        if !self.is_new {
            self.waits_ns = monotonic_ns();
        }
    }

    fn is_due(&self) -> bool {
        self.now_ns.saturating_sub(self.unflushed_ns.min(self.turn_ns)) >= UNFLUSHED_NS_MAX
    }

    /// It came, in the poll of this time.
    pub fn came(&mut self, polled_ns: u64) {
        // The poll in which its wait began may be older than the wait.
        let is_fresh = std::mem::take(&mut self.is_new) || polled_ns > self.waits_ns;
        self.now_ns = if is_fresh { polled_ns } else { monotonic_ns() };
        self.is_burst = self.now_ns.saturating_sub(self.waits_ns) <= BURST_GAP_NS;
        self.unflushed_ns = self.now_ns;
        if !self.is_burst {
            self.turn_ns = self.now_ns;
        }
    }

    /// What was written by now was flushed.
    pub fn flushed(&mut self) {
        self.unflushed_ns = self.now_ns;
    }

    /// When the present chunk came.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }
}
