//! How long written frames wait until they are flushed: until their reader is rung for.
//!
//! To be woken costs a consumer several microseconds, more than reading hundreds of frames does,
//! and whoever rings about as much. So while a provider sends faster than that, a task does not
//! ring for every chunk but once for all that is at hand. A chunk that had to be waited for is no
//! burst and is flushed at once; in a burst a frame is flushed after [`UNFLUSHED_NS_MAX`] at most,
//! with which other tasks get their turn too, and a full lane ends the wait as well.
//!
//! To be woken by a provider costs a task as much again, and the kernel wakes it for every few tokens
//! that come. So a burst that lasts is read in [pauses](PAUSE), in which the kernel is asked to wake
//! nobody, as a network card under load rings once for many packets. A token is then up to 1.5 ms
//! older; what comes as it is made is no burst, and after each pause the burst has to show itself
//! anew. What comes so fast that a receive buffer could not take it meanwhile is read at once: its
//! reads are large without.
//!
//! The clock is read once per chunk, and not for the first.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use ringmain_shm::monotonic_ns;
use ringmain_upstream::{AnswerBody, UpstreamError};

/// A chunk that was waited for no longer than this belongs to a burst.
const BURST_GAP_NS: u64 = 300_000;
/// Longest time until a frame is flushed: what a task needs to fill a lane, and far below the gap
/// between two tokens that come as they are made.
const UNFLUSHED_NS_MAX: u64 = 500_000;
/// How long a burst has lasted when it is read in pauses.
const LASTING_NS: u64 = 500_000;
/// How long a pause is; the timers of the runtime go off with the next whole millisecond.
const PAUSE: Duration = Duration::from_micros(500);
const PAUSE_NS_MAX: u64 = 1_500_000;
/// Most bytes that may come within a pause: half of what Linux gives a connection at first.
const PAUSE_BYTES_MAX: u64 = 64 * 1024;

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
    /// When the burst began.
    burst_ns: u64,
    /// Whether the last wait began with a pause.
    has_paused: bool,
    /// Bytes that came with the last wait and behind it.
    round_bytes: u64,
    /// When the wait before it ended, and it.
    round_from_ns: u64,
    round_ns: u64,
    /// When the present chunk came.
    now_ns: u64,
}

/// What is done before a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    None,
    /// Other tasks have a turn.
    Turn,
    Pause,
}

impl Gather {
    /// Of an answer whose head has come by now, ns of the monotonic clock.
    pub fn new(now_ns: u64) -> Gather {
        Gather {
            is_burst: false,
            is_new: true,
            waits_ns: now_ns,
            unflushed_ns: now_ns,
            turn_ns: now_ns,
            burst_ns: now_ns,
            has_paused: false,
            round_bytes: 0,
            round_from_ns: now_ns,
            round_ns: now_ns,
            now_ns,
        }
    }

    /// The next chunk, if it belongs to the same burst and is at hand. `None`: whoever reads is to
    /// be rung before anything is waited for.
    #[inline]
    pub fn at_hand(
        &mut self,
        body: &mut AnswerBody,
    ) -> Option<Result<Option<Bytes>, UpstreamError>> {
        if !self.is_burst || self.is_due() {
            return None;
        }
        // Nobody is woken by what comes behind it: it is waited for anew, if need be after a pause.
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(chunk) = body.poll_chunk(&mut cx) else { return None };
        if let Ok(Some(bytes)) = &chunk {
            self.now_ns = monotonic_ns();
            self.round_bytes += bytes.len() as u64;
        }
        Some(chunk)
    }

    /// The next chunk is waited for. A burst that has lasted gives way to other tasks first, and
    /// to whatever else its own task waits for.
    pub async fn waits(&mut self, body: &mut AnswerBody) {
        let way = self.gives_way();
        match way {
            Way::None => {}
            Way::Turn => tokio::task::yield_now().await,
            // In memory of its own: most answers never need it.
            Way::Pause => Box::pin(body.pause(PAUSE)).await,
        }
        self.has_paused = way == Way::Pause;
        if way != Way::None {
            self.turn_ns = monotonic_ns();
        }
        if !self.is_new {
            self.waits_ns = monotonic_ns();
        }
    }

    fn gives_way(&self) -> Way {
        let since = |then| self.now_ns.saturating_sub(then);
        match self.is_burst {
            true if !self.has_paused && since(self.burst_ns) >= LASTING_NS && self.fits_pause() => {
                Way::Pause
            }
            true if since(self.turn_ns) >= UNFLUSHED_NS_MAX => Way::Turn,
            _ => Way::None,
        }
    }

    /// Whether what comes within a pause, if it comes as it came, finds room where it waits.
    fn fits_pause(&self) -> bool {
        let round_ns = self.now_ns.saturating_sub(self.round_from_ns);
        self.round_bytes.saturating_mul(PAUSE_NS_MAX) <= PAUSE_BYTES_MAX.saturating_mul(round_ns)
    }

    fn is_due(&self) -> bool {
        self.now_ns.saturating_sub(self.unflushed_ns.min(self.turn_ns)) >= UNFLUSHED_NS_MAX
    }

    /// It came, so many bytes, in the poll of this time.
    pub fn came(&mut self, bytes: usize, polled_ns: u64) {
        // The poll in which its wait began may be older than the wait.
        let is_fresh = std::mem::take(&mut self.is_new) || polled_ns > self.waits_ns;
        self.now_ns = if is_fresh { polled_ns } else { monotonic_ns() };
        self.is_burst = self.now_ns.saturating_sub(self.waits_ns) <= BURST_GAP_NS;
        self.unflushed_ns = self.now_ns;
        if !self.is_burst {
            (self.turn_ns, self.burst_ns) = (self.now_ns, self.now_ns);
        }
        (self.round_from_ns, self.round_ns) = (self.round_ns, self.now_ns);
        self.round_bytes = bytes as u64;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How the waits of an answer begin whose chunks of so many bytes come so many ns after each
    /// other, once and again behind each pause.
    fn waits_of(bytes: usize, gap_ns: u64, chunks: usize) -> Vec<Way> {
        let mut now_ns = 1_000_000_000;
        let mut gather = Gather::new(now_ns);
        let mut ways = Vec::new();
        for _ in 0..chunks {
            let way = gather.gives_way();
            gather.has_paused = way == Way::Pause;
            if way != Way::None {
                gather.turn_ns = now_ns;
            }
            // What came in a pause is at hand.
            let paused_ns = if way == Way::Pause { PAUSE_NS_MAX } else { 0 };
            now_ns += paused_ns;
            gather.waits_ns = now_ns;
            now_ns += if way == Way::Pause { 1_000 } else { gap_ns };
            gather.came(bytes + bytes * (paused_ns / gap_ns) as usize, now_ns);
            ways.push(way);
        }
        ways
    }

    fn count(ways: &[Way], way: Way) -> usize {
        ways.iter().filter(|found| **found == way).count()
    }

    #[test]
    fn tokens_that_come_as_they_are_made_wait_for_nothing() {
        for gap_ns in [400_000, 1_000_000, 20_000_000] {
            let ways = waits_of(200, gap_ns, 1_000);
            assert_eq!(count(&ways, Way::None), 1_000, "{gap_ns}");
        }
    }

    #[test]
    fn a_burst_that_lasts_is_read_in_pauses_and_shows_itself_between_them() {
        let ways = waits_of(200, 10_000, 1_000);
        let first = ways.iter().position(|way| *way == Way::Pause).unwrap();
        assert!((50..60).contains(&first), "{first}");
        assert_eq!(count(&ways[first..], Way::Pause), (1_000 - first).div_ceil(2));
        assert!(ways[first..].windows(2).all(|two| two != [Way::Pause; 2]));
        assert_eq!(count(&waits_of(200, 10_000, 40), Way::Pause), 0, "a short one");
    }

    #[test]
    fn a_burst_with_one_gap_is_no_burst_any_more() {
        let mut gather = Gather::new(0);
        let wait = |gather: &mut Gather, gap_ns| {
            gather.waits_ns = gather.now_ns;
            gather.came(200, gather.now_ns + gap_ns);
            gather.gives_way()
        };
        assert!((0..60).any(|_| wait(&mut gather, 10_000) == Way::Pause));
        assert_eq!(wait(&mut gather, BURST_GAP_NS + 1), Way::None);
        assert!((0..49).all(|_| wait(&mut gather, 10_000) != Way::Pause));
    }

    /// A pause would leave its provider without room.
    #[test]
    fn what_comes_faster_than_a_pause_can_hold_has_none() {
        // 65 MB/s and 400 MB/s.
        for (bytes, gap_ns) in [(650, 10_000), (20_000, 50_000)] {
            let ways = waits_of(bytes, gap_ns, 1_000);
            assert_eq!(count(&ways, Way::Pause), 0);
            assert!(count(&ways, Way::Turn) > 10, "other tasks have their turn");
        }
    }
}
