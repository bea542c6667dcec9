//! A token bucket in integers: so many events per second, with a burst of one second.

use crate::clock::NS_PER_S;

/// Lets at most `per_s` events through in any second after a burst of `per_s`.
///
/// The level is kept in billionths of an event, so that nothing is lost to rounding however
/// often it is asked.
///
/// ```
/// use ringmain_policy::RateBucket;
/// let mut bucket = RateBucket::new(2, 0);
/// assert!(bucket.take(0) && bucket.take(0) && !bucket.take(0));
/// assert!(!bucket.take(499_999_999) && bucket.take(500_000_000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateBucket {
    per_s: u32,
    level: u64,
    filled_ns: u64,
}

impl RateBucket {
    /// A full bucket.
    pub fn new(per_s: u32, now_ns: u64) -> RateBucket {
        RateBucket { per_s, level: full(per_s), filled_ns: now_ns }
    }

    /// Takes one event if there is one. A clock that goes backwards adds nothing.
    pub fn take(&mut self, now_ns: u64) -> bool {
        self.fill(now_ns);
        let left = self.level.checked_sub(NS_PER_S);
        self.level = left.unwrap_or(self.level);
        left.is_some()
    }

    /// Whether nothing was taken for so long that a new bucket would be the same.
    pub fn is_full(&self, now_ns: u64) -> bool {
        let mut copy = *self;
        copy.fill(now_ns);
        copy.level == full(self.per_s)
    }

    fn fill(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.filled_ns);
        let gained = passed_ns.saturating_mul(u64::from(self.per_s));
        self.level = self.level.saturating_add(gained).min(full(self.per_s));
        self.filled_ns = self.filled_ns.max(now_ns);
    }
}

// Bound: 2^32 x 10^9 is below 2^62.
fn full(per_s: u32) -> u64 {
    u64::from(per_s) * NS_PER_S
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In any window the bucket lets through what it held plus what the window refills.
        #[test]
        fn property_never_more_than_burst_and_refill(
            per_s in 0u32..1000,
            steps in prop::collection::vec(0u64..20_000_000, 1..300),
        ) {
            let mut bucket = RateBucket::new(per_s, 0);
            let (mut now_ns, mut passed) = (0u64, 0u64);
            for step in steps {
                now_ns += step;
                passed += u64::from(bucket.take(now_ns));
                let most = u64::from(per_s) * (NS_PER_S + now_ns) / NS_PER_S;
                prop_assert!(passed <= most, "{passed} of {most}");
            }
        }

        /// However often it is asked in between, a refused event comes exactly in its time.
        #[test]
        fn property_nothing_is_lost_to_rounding(per_s in 1u32..10_000, asks in 1u64..50) {
            let mut bucket = RateBucket::new(per_s, 0);
            while bucket.take(0) {}
            let due_ns = NS_PER_S.div_ceil(u64::from(per_s));
            for ask in 0..asks {
                prop_assert!(!bucket.take((due_ns - 1) * ask / asks));
            }
            prop_assert!(bucket.take(due_ns));
        }
    }

    #[test]
    fn a_clock_that_goes_backwards_adds_nothing() {
        let mut bucket = RateBucket::new(1, NS_PER_S);
        assert!(bucket.take(NS_PER_S) && !bucket.take(0) && !bucket.take(NS_PER_S));
        assert!(bucket.take(2 * NS_PER_S) && bucket.is_full(u64::MAX));
    }
}
