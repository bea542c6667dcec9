//! What an endpoint's own refusals (429) teach: its rate goes down at once and comes back slowly.
//!
//! The rate is halved from what was really sent lately, then grows every second by a tenth of what
//! it was before the first refusal, and is lifted at twice that. A `Retry-After` that is worth
//! waiting for is kept by the uid that was refused, and for a few seconds by everybody: whether
//! others are meant, too, shows when a second one is refused, and then all keep it.
//!
//! The rate is one for all uids: what a provider limits is the key, which is one for all, and a
//! rate for each would send it their sum again. Whoever waits is served uid by uid in turn
//! ([`admission`](crate::admission)), so that it is shared fairly, whoever was refused.

use crate::bucket::{Bucket, Rate};
use crate::clock::NS_PER_S;

/// The rate that an endpoint is held to because it refused; free until it does.
///
/// ```
/// use ringmain_policy::Throttle;
/// let second = 1_000_000_000;
/// let mut throttle = Throttle::new(0);
/// assert_eq!(throttle.due_ns(1000, 0), None);
/// throttle.refused(1000, Some(30 * second), 0, 0);
/// assert_eq!(throttle.due_ns(1000, 0), Some(30 * second));
/// assert_eq!(throttle.due_ns(1001, 0), Some(5 * second));
/// assert_eq!(throttle.due_ns(1001, 6 * second), None);
/// ```
#[derive(Clone, Debug)]
pub struct Throttle {
    lowered: Option<Lowered>,
    /// Nothing is sent before.
    held_until_ns: u64,
    /// The one who was refused last, and the time before which nothing of it is sent.
    refused: Option<(u32, u64)>,
    seen: Seen,
}

#[derive(Clone, Debug)]
struct Lowered {
    bucket: Bucket,
    /// The rate before the first refusal, per minute.
    before: u64,
    /// When it was lowered last.
    at_ns: u64,
    /// When it last grew.
    grown_ns: u64,
}

/// Counts what was sent, window by window.
#[derive(Clone, Debug)]
struct Seen {
    window_ns: u64,
    now: u64,
    last: u64,
}

/// The least that a rate is lowered to, per minute: one request a second finds out whether the
/// endpoint has recovered, and keeps no caller waiting for long if it has.
const FLOOR: u64 = 60;
/// A longer `Retry-After` holds nobody else: it is for the one who was refused to hear of it.
const HOLD_NS_MAX: u64 = 120 * NS_PER_S;
/// How long one uid's `Retry-After` holds the others at most.
const SHARED_HOLD_NS_MAX: u64 = 5 * NS_PER_S;
/// What was sent is counted in windows of this.
const WINDOW_NS: u64 = 10 * NS_PER_S;

impl Throttle {
    /// An endpoint that has refused nothing.
    pub fn new(now_ns: u64) -> Throttle {
        let seen = Seen { window_ns: now_ns, now: 0, last: 0 };
        Throttle { lowered: None, held_until_ns: 0, refused: None, seen }
    }

    /// The endpoint refused a request of this uid that was sent at `sent_ns`, with this
    /// `Retry-After`. Requests that were on their way when the rate was lowered do not lower it
    /// again.
    pub fn refused(&mut self, uid: u32, retry_after_ns: Option<u64>, sent_ns: u64, now_ns: u64) {
        if let Some(wait_ns) = retry_after_ns.filter(|wait_ns| *wait_ns <= HOLD_NS_MAX) {
            self.hold(uid, wait_ns, now_ns);
        }
        self.grow(now_ns);
        let (now_rate, before) = match &self.lowered {
            Some(lowered) if sent_ns <= lowered.at_ns => return,
            Some(lowered) => (lowered.bucket.rate().per_minute, lowered.before),
            None => {
                let seen = self.seen.per_minute(now_ns).max(FLOOR);
                (seen, seen)
            }
        };
        let mut bucket = Bucket::new(Rate::per_minute((now_rate / 2).max(FLOOR)), now_ns);
        // Empty: it goes on at the new rate, not with a burst of it.
        let _spent = bucket.take(bucket.rate().burst, now_ns);
        self.lowered = Some(Lowered { bucket, before, at_ns: now_ns, grown_ns: now_ns });
    }

    fn hold(&mut self, uid: u32, wait_ns: u64, now_ns: u64) {
        let until_ns = now_ns.saturating_add(wait_ns);
        let earlier = self.refused.filter(|(_, earlier_ns)| *earlier_ns > now_ns);
        let shared_ns = match earlier {
            // Two were refused while the first still had to wait: it is not about one of them.
            Some((other, other_ns)) if other != uid => until_ns.min(other_ns),
            _ => until_ns.min(now_ns.saturating_add(SHARED_HOLD_NS_MAX)),
        };
        self.held_until_ns = self.held_until_ns.max(shared_ns);
        self.refused = match earlier {
            // Who has to wait longer; the other one waits with everybody.
            Some(other) if other.1 > until_ns => Some(other),
            _ => Some((uid, until_ns)),
        };
    }

    /// Until when nothing of this uid is sent.
    fn held_until_ns(&self, uid: u32) -> u64 {
        let own = self.refused.filter(|(refused, _)| *refused == uid);
        own.map_or(0, |(_, until_ns)| until_ns).max(self.held_until_ns)
    }

    /// Counts a request; the one who asked [`Throttle::due_ns`] sends it now.
    pub fn sent(&mut self, now_ns: u64) {
        self.seen.count(now_ns);
        if let Some(lowered) = &mut self.lowered {
            let _spent = lowered.bucket.take(1, now_ns);
        }
    }

    /// When the next request of this uid may be sent; `None`: now.
    pub fn due_ns(&mut self, uid: u32, now_ns: u64) -> Option<u64> {
        self.grow(now_ns);
        let lowered = self.lowered.as_mut();
        let refilled_ns = lowered.map_or(now_ns, |lowered| lowered.bucket.due_ns(0, 1, now_ns));
        let due_ns = refilled_ns.max(self.held_until_ns(uid));
        (due_ns > now_ns).then_some(due_ns)
    }

    /// Whether this uid waits for what it was told itself, longer than the others have to.
    pub fn holds_alone(&self, uid: u32, now_ns: u64) -> bool {
        let held_ns = self.held_until_ns(uid);
        held_ns > now_ns && held_ns > self.held_until_ns
    }

    /// When a request of this uid may be sent behind so many others, by the rate of now.
    pub fn due_behind_ns(&mut self, uid: u32, ahead: u64, now_ns: u64) -> u64 {
        self.grow(now_ns);
        let from_ns = self.held_until_ns(uid).max(now_ns);
        let lowered = self.lowered.as_mut();
        lowered.map_or(from_ns, |lowered| lowered.bucket.due_ns(ahead, 1, now_ns).max(from_ns))
    }

    /// The rate per minute that the endpoint is held to; `None` for none.
    pub fn per_minute(&mut self, now_ns: u64) -> Option<u64> {
        self.grow(now_ns);
        if self.held_until_ns > now_ns {
            return Some(0);
        }
        self.lowered.as_ref().map(|lowered| lowered.bucket.rate().per_minute)
    }

    /// Grows by what the whole seconds since bring. A rate that grew while nobody looked counts
    /// from the look.
    fn grow(&mut self, now_ns: u64) {
        let Some(lowered) = &mut self.lowered else { return };
        let from_ns = lowered.grown_ns.max(self.held_until_ns);
        let seconds = now_ns.saturating_sub(from_ns) / NS_PER_S;
        if seconds == 0 {
            return;
        }
        let gained = (lowered.before / 10).max(1).saturating_mul(seconds);
        let rate = lowered.bucket.rate().per_minute.saturating_add(gained);
        if rate >= lowered.before.saturating_mul(2) {
            self.lowered = None;
            return;
        }
        lowered.bucket.set_per_minute(rate, now_ns);
        lowered.grown_ns = from_ns + seconds * NS_PER_S;
    }
}

impl Seen {
    fn count(&mut self, now_ns: u64) {
        self.turn(now_ns);
        self.now += 1;
    }

    /// What was sent per minute over the last one to two windows.
    fn per_minute(&mut self, now_ns: u64) -> u64 {
        self.turn(now_ns);
        let passed_ns = now_ns.saturating_sub(self.window_ns);
        let (count, over_ns) = match self.last {
            0 => (self.now, passed_ns.max(WINDOW_NS)),
            last => (self.now + last, passed_ns + WINDOW_NS),
        };
        // Below 2^64: a count of requests times a minute, over at least ten seconds.
        (u128::from(count) * 60 * u128::from(NS_PER_S) / u128::from(over_ns)) as u64
    }

    fn turn(&mut self, now_ns: u64) {
        let windows = now_ns.saturating_sub(self.window_ns) / WINDOW_NS;
        if windows > 0 {
            self.last = if windows == 1 { self.now } else { 0 };
            self.now = 0;
            self.window_ns += windows * WINDOW_NS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = NS_PER_S;

    /// Sends as often as it may within a time; how often that was.
    fn send_for(throttle: &mut Throttle, from_ns: u64, for_ns: u64, at_most: u64) -> u64 {
        let (mut now_ns, mut sent) = (from_ns, 0);
        while sent < at_most {
            now_ns = throttle.due_ns(1, now_ns).unwrap_or(now_ns);
            if now_ns >= from_ns + for_ns {
                break;
            }
            throttle.sent(now_ns);
            sent += 1;
        }
        sent
    }

    #[test]
    fn a_refusal_halves_what_was_sent_and_it_comes_back() {
        let mut throttle = Throttle::new(0);
        for request in 0..1000 {
            throttle.sent(request * SECOND / 100);
        }
        let now_ns = 10 * SECOND;
        assert_eq!(throttle.per_minute(now_ns), None);
        throttle.refused(1, None, now_ns, now_ns);
        assert_eq!(throttle.per_minute(now_ns), Some(3000));
        assert_eq!(throttle.per_minute(now_ns + SECOND), Some(3600));
        assert_eq!(throttle.per_minute(now_ns + 14 * SECOND), Some(11_400));
        assert_eq!(throttle.per_minute(now_ns + 15 * SECOND), None, "lifted");
    }

    #[test]
    fn refusals_of_one_wave_count_once_and_further_ones_again() {
        let mut throttle = Throttle::new(0);
        (0..4000).for_each(|_| throttle.sent(0));
        for _ in 0..50 {
            throttle.refused(1, None, SECOND, SECOND);
        }
        assert_eq!(throttle.per_minute(SECOND), Some(12_000));
        throttle.refused(1, None, 2 * SECOND, 2 * SECOND);
        assert_eq!(throttle.per_minute(2 * SECOND), Some(7200), "half of what had come back");
        for n in 3..30 {
            throttle.refused(1, None, n * SECOND, n * SECOND);
        }
        let settled = throttle.per_minute(30 * SECOND).unwrap();
        assert!((FLOOR..6000).contains(&settled), "{settled}");
    }

    #[test]
    fn nothing_is_sent_before_retry_after_unless_it_is_too_long() {
        let mut throttle = Throttle::new(0);
        throttle.refused(1, Some(5 * SECOND), 0, 0);
        throttle.refused(1, Some(2 * SECOND), 0, 0);
        assert_eq!(throttle.due_ns(1, 0), Some(5 * SECOND));
        assert_eq!(throttle.per_minute(4 * SECOND), Some(0));
        assert_eq!(send_for(&mut throttle, 0, 5 * SECOND, 9), 0);
        throttle.refused(1, Some(121 * SECOND), 6 * SECOND, 6 * SECOND);
        assert_eq!(throttle.due_ns(1, 7 * SECOND), None);
    }

    #[test]
    fn one_uids_wait_is_shared_when_a_second_one_is_refused() {
        let mut throttle = Throttle::new(0);
        throttle.refused(1, Some(60 * SECOND), 0, 0);
        let due_ns = |throttle: &mut Throttle, uid| throttle.due_ns(uid, 10 * SECOND);
        assert_eq!(due_ns(&mut throttle, 1), Some(60 * SECOND));
        assert_eq!(due_ns(&mut throttle, 2), None, "others find out by themselves");
        throttle.refused(1, Some(50 * SECOND), 10 * SECOND, 10 * SECOND);
        assert_eq!(throttle.due_ns(2, 15 * SECOND), None, "the same once more");
        throttle.refused(2, Some(30 * SECOND), 15 * SECOND, 15 * SECOND);
        for (uid, until_s) in [(1, 60), (2, 45), (3, 45)] {
            assert_eq!(throttle.due_ns(uid, 16 * SECOND), Some(until_s * SECOND), "{uid}");
        }
        // When the first is over, the next one is alone again.
        throttle.refused(2, Some(60 * SECOND), 61 * SECOND, 61 * SECOND);
        assert_eq!(throttle.due_ns(1, 67 * SECOND), None);
        assert_eq!(throttle.due_ns(2, 67 * SECOND), Some(121 * SECOND));
    }

    proptest! {
        /// A lowered rate holds what is sent, and never for ever: without further refusals
        /// everything is lifted within a fixed time.
        #[test]
        fn property_it_slows_and_recovers(
            before in 0u64..5000,
            waits in prop::collection::vec(prop::option::of(0..200 * SECOND), 1..20),
            start_ns in prop_oneof![Just(0), Just(u64::MAX - 10_000 * SECOND)],
        ) {
            let mut throttle = Throttle::new(start_ns);
            (0..before).for_each(|_| throttle.sent(start_ns));
            let mut now_ns = start_ns + SECOND;
            for wait_ns in waits {
                throttle.refused(1, wait_ns, now_ns, now_ns);
                // Half of what was sent, over half a second and the burst of a held time.
                let rate = (before * 6 / 2).max(FLOOR);
                let most = 2 + rate * 3 / 2 / 60;
                prop_assert!(send_for(&mut throttle, now_ns, SECOND / 2, 10_000) <= most);
                now_ns += SECOND;
            }
            prop_assert_eq!(throttle.due_ns(1, now_ns + 160 * SECOND), None);
            prop_assert_eq!(throttle.per_minute(now_ns + 160 * SECOND), None);
        }
    }
}
