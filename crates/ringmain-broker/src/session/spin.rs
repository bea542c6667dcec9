//! Polling a session in place of sleeping on its bell: `wait = "spin"`.
//!
//! A session whose caller sent something within the last second keeps its task running: it looks
//! at the submission ring and goes to the back of the queue of runnable tasks, past the reactor,
//! which costs a system call. Its armed word says "awake" meanwhile, so nobody rings. Everything
//! else that the bell and the descriptors tell is looked at once in a while. Whatever is found is
//! copied, judged and charged as ever; only the waiting differs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::config::Wait;

/// Sessions that are polled at once. Each makes the round of all others longer, so a uid cannot
/// slow the broker down by attaching: the sessions beyond these sleep as usual.
const SEATS_MAX: u32 = 64;
/// How long a silent session is polled.
const SILENT_NS_MAX: u64 = 1_000_000_000;
/// Looks of all polled sessions together before other tasks have their turn.
const LOOKS_PER_ROUND: u32 = 256;
/// Looks of one session in a round at least.
const LOOKS_MIN: u32 = 4;
/// Rounds between two looks at everything but the submission ring.
const ROUNDS_PER_CHECK: u32 = 64;
/// Turns in a row that find their work at the first look, before other tasks go first.
const STREAK_MAX: u32 = 8;

/// The seats of a broker, shared by its sessions.
#[derive(Debug, Default)]
pub(crate) struct Spinners {
    is_on: bool,
    taken: AtomicU32,
}

/// A place among the sessions that are polled, given back when dropped.
#[derive(Debug)]
struct Seat(Arc<Spinners>);

/// One session's part.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    seat: Option<Seat>,
    /// The caller sent something since the last look at the clock.
    heard: bool,
    until_ns: u64,
    rounds: u32,
    streak: u32,
}

impl Spinners {
    pub fn new(wait: Wait) -> Arc<Spinners> {
        Arc::new(Spinners { is_on: wait == Wait::Spin, taken: AtomicU32::new(0) })
    }

    fn seat(self: &Arc<Self>) -> Option<Seat> {
        let more = |taken: u32| (taken < SEATS_MAX).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Seat(self.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}

impl Spin {
    /// A turn took something from the submission ring.
    pub fn heard(&mut self) {
        self.heard = true;
    }

    /// Whether the session is to be polled now; takes a seat if it has none.
    pub fn is_on(&mut self, spinners: &Arc<Spinners>) -> bool {
        if self.seat.is_none() && self.heard && spinners.is_on {
            self.seat = spinners.seat();
            self.until_ns = u64::MAX;
        }
        self.seat.is_some()
    }

    /// One round of looks; true: there is work. After [`STREAK_MAX`] such rounds without a pause
    /// others go first.
    #[inline]
    pub fn look(&mut self, is_ready: impl Fn() -> bool) -> bool {
        if self.streak >= STREAK_MAX {
            self.streak = 0;
            return false;
        }
        if is_ready() {
            self.streak += 1;
            return true;
        }
        self.streak = 0;
        let seats = self.seat.as_ref().map_or(1, |seat| seat.0.taken.load(Relaxed)).max(1);
        (1..(LOOKS_PER_ROUND / seats).max(LOOKS_MIN)).any(|_| is_ready())
    }

    /// Counts a round; true: it is time to look at everything else, and at the clock.
    #[inline]
    pub fn is_check(&mut self) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        self.rounds.is_multiple_of(ROUNDS_PER_CHECK)
    }

    /// Gives the seat back when the session was silent for too long.
    pub fn is_over(&mut self, now_ns: u64) -> bool {
        if std::mem::take(&mut self.heard) || self.until_ns == u64::MAX {
            self.until_ns = now_ns.saturating_add(SILENT_NS_MAX);
        }
        if now_ns < self.until_ns {
            return false;
        }
        self.seat = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spinning(spinners: &Arc<Spinners>) -> Spin {
        let mut spin = Spin::default();
        spin.heard();
        assert!(spin.is_on(spinners));
        spin
    }

    #[test]
    fn only_a_session_that_spoke_spins_and_only_where_told() {
        let block = Spinners::new(Wait::Block);
        let mut spin = Spin::default();
        spin.heard();
        assert!(!spin.is_on(&block));
        let spinners = Spinners::new(Wait::Spin);
        assert!(!Spin::default().is_on(&spinners));
        spinning(&spinners);
    }

    #[test]
    fn seats_are_bounded_and_come_back() {
        let spinners = Spinners::new(Wait::Spin);
        let mut seated: Vec<Spin> = (0..SEATS_MAX).map(|_| spinning(&spinners)).collect();
        let mut late = Spin::default();
        late.heard();
        assert!(!late.is_on(&spinners));
        seated.pop();
        assert!(late.is_on(&spinners));
        drop((seated, late));
        assert_eq!(spinners.taken.load(Relaxed), 0);
    }

    #[test]
    fn silence_ends_it_and_a_word_prolongs_it() {
        let spinners = Spinners::new(Wait::Spin);
        let mut spin = spinning(&spinners);
        assert!(!spin.is_over(5));
        assert!(!spin.is_over(5 + SILENT_NS_MAX - 1));
        spin.heard();
        assert!(!spin.is_over(5 + SILENT_NS_MAX));
        assert!(spin.is_over(5 + 2 * SILENT_NS_MAX));
        assert!(!spin.is_on(&spinners), "not before it speaks again");
        assert_eq!(spinners.taken.load(Relaxed), 0);
    }

    /// A caller that always has one more entry ready lets others go first all the same.
    #[test]
    fn a_streak_is_bounded() {
        let spinners = Spinners::new(Wait::Spin);
        let mut spin = spinning(&spinners);
        let found = (0..3 * (STREAK_MAX + 1)).filter(|_| spin.look(|| true)).count();
        assert_eq!(found as u32, 3 * STREAK_MAX);
    }
}
