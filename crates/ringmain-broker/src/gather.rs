//! How long written frames wait until they are flushed: until their reader is rung for.
//!
//! To be woken costs a consumer several microseconds, more than reading hundreds of frames does,
//! and whoever rings about as much. So while a provider sends faster than that, a task does not
//! ring for every chunk but once for all that is at hand: it lets the task of the connection run
//! once, and rings when that brought nothing. A chunk that had to be waited for is no burst and is
//! flushed at once; in a burst a frame is flushed after [`UNFLUSHED_NS_MAX`] at most, and a full
//! lane ends the wait too.
//!
//! Over HTTP/1.1 the task of the connection hands over one chunk each time it runs, so that a look
//! before its turn finds nothing, and costs a waker and a wake-up on either side. Whoever had to
//! wait for that turn lets the task run first from then on.
//!
//! The clock is read once per chunk.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use ringmain_shm::monotonic_ns;
use ringmain_upstream::{AnswerBody, UpstreamError};

use crate::alarm::Alarm;

/// A chunk that was waited for no longer than this belongs to a burst.
const BURST_GAP_NS: u64 = 100_000;
/// Longest time until a frame is flushed: what a task needs to fill a lane, and far below the gap
/// between two tokens that come as they are made.
const UNFLUSHED_NS_MAX: u64 = 500_000;

/// Chunks for which the task of the connection is let go first, until it is tried again whether
/// it gives more than one at a time.
const AHEAD: u8 = 32;

/// The state of one answer: whether its chunks come in a burst, and since when nothing was flushed.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    is_burst: bool,
    /// Chunks before which the task of the connection runs.
    ahead: u8,
    /// When the wait for the present chunk began.
    waits_ns: u64,
    /// When the first frame came that is not flushed.
    unflushed_ns: u64,
    /// When the present chunk came.
    now_ns: u64,
}

impl Gather {
    /// The next chunk, if it belongs to the same burst and is at hand. `None`: whoever reads is to
    /// be rung before anything is waited for.
    pub async fn at_hand(
        &mut self,
        body: &mut AnswerBody,
        alarm: &Alarm,
    ) -> Option<Result<Option<Bytes>, UpstreamError>> {
        if !self.is_burst || self.now_ns.saturating_sub(self.unflushed_ns) >= UNFLUSHED_NS_MAX {
            return None;
        }
        let is_ahead = self.ahead > 0;
        let mut chunk = pin!(body.chunk());
        let mut has_yielded = false;
        // Bound: two polls.
        let found = poll_fn(|cx| {
            if (has_yielded || !is_ahead)
                && let Poll::Ready(chunk) = chunk.as_mut().poll(cx)
            {
                return Poll::Ready(Some(chunk));
            }
            if has_yielded {
                return Poll::Ready(None);
            }
            // The task of the connection was woken by the last chunk that was taken from it and
            // comes before this one in the queue; it gives what it has read already.
            has_yielded = true;
            alarm.passes_turn(self.now_ns);
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        self.ahead = match has_yielded && found.is_some() {
            true if is_ahead => self.ahead - 1,
            true => AHEAD,
            false => 0,
        };
        if found.is_some() {
            self.now_ns = monotonic_ns();
        }
        found
    }

    /// The next chunk is waited for.
    pub fn waits(&mut self) {
        self.waits_ns = monotonic_ns();
    }

    /// It came.
    pub fn came(&mut self) {
        self.now_ns = monotonic_ns();
        self.is_burst = self.now_ns.saturating_sub(self.waits_ns) <= BURST_GAP_NS;
        self.unflushed_ns = self.now_ns;
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
