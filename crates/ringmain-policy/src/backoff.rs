//! How long to wait before trying again.

use std::time::Duration;

/// Exponential back-off with full jitter: the n-th wait is drawn evenly from zero to
/// `base * 2^n`, at most `cap`. Many processes that lose the same broker come back spread out.
///
/// ```
/// use std::time::Duration;
/// use ringmain_policy::Backoff;
///
/// let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
/// assert_eq!(backoff.delay(0, u64::MAX), Duration::from_millis(10));
/// assert_eq!(backoff.delay(60, u64::MAX), Duration::from_millis(500));
/// assert_eq!(backoff.delay(3, 0), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// Waits that begin at `base` and never exceed `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Backoff {
        Backoff { base, cap }
    }

    /// The most of the first wait.
    pub const fn base(&self) -> Duration {
        self.base
    }

    /// The most of any wait.
    pub const fn cap(&self) -> Duration {
        self.cap
    }

    /// The wait before retry `attempt` (from 0), for an evenly drawn `random`.
    pub fn delay(&self, attempt: u32, random: u64) -> Duration {
        let factor = 1u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let ceiling = self.base.saturating_mul(factor).min(self.cap);
        // Bound: nanoseconds of a Duration below 2^64 times a 64-bit draw fit into 128 bits.
        let ceiling_ns = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        let drawn = (u128::from(ceiling_ns) * (u128::from(random) + 1)) >> 64;
        Duration::from_nanos(drawn as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn property_a_wait_stays_below_its_ceiling(attempt in any::<u32>(), random in any::<u64>()) {
            let (base, cap) = (Duration::from_millis(20), Duration::from_secs(2));
            let delay = Backoff::new(base, cap).delay(attempt, random);
            prop_assert!(delay <= cap);
            prop_assert!(delay <= base.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)));
        }
    }
}
