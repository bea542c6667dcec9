//! Time limits of an exchange: what is configured where, and what is learned from what was seen.

use std::time::Duration;

use crate::deadline::ExchangeLimits;

/// Limits that one endpoint or route sets for itself.
///
/// ```
/// use std::time::Duration;
/// use ringmain_policy::ExchangeLimits;
/// use ringmain_policy::timeouts::LimitChanges;
/// let changes = LimitChanges { idle: Some(Duration::from_secs(5)), ..LimitChanges::default() };
/// let limits = changes.over(ExchangeLimits::default());
/// assert_eq!((limits.idle.as_secs(), limits.total.as_secs()), (5, 900));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitChanges {
    /// Making a connection.
    pub connect: Option<Duration>,
    /// Sending the request.
    pub write: Option<Duration>,
    /// From the request's last byte to the response head.
    pub head: Option<Duration>,
    /// From the response head to the first content.
    pub first_content: Option<Duration>,
    /// Between one content and the next.
    pub idle: Option<Duration>,
    /// The whole exchange.
    pub total: Option<Duration>,
    /// How long a full lane may stay full.
    pub slow_consumer: Option<Duration>,
}

impl LimitChanges {
    /// These limits where they are set, and the others elsewhere.
    #[must_use]
    pub fn over(&self, others: ExchangeLimits) -> ExchangeLimits {
        ExchangeLimits {
            connect: self.connect.unwrap_or(others.connect),
            write: self.write.unwrap_or(others.write),
            head: self.head.unwrap_or(others.head),
            first_content: self.first_content.unwrap_or(others.first_content),
            idle: self.idle.unwrap_or(others.idle),
            total: self.total.unwrap_or(others.total),
            slow_consumer: self.slow_consumer.unwrap_or(others.slow_consumer),
        }
    }
}

/// How limits follow what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveRule {
    /// The least that a limit becomes.
    pub floor: Duration,
    /// The most that a limit becomes.
    pub ceiling: Duration,
    /// Times seen before the configured limit gives way.
    pub samples_min: u32,
}

impl Default for AdaptiveRule {
    fn default() -> Self {
        AdaptiveRule {
            floor: Duration::from_secs(1),
            ceiling: Duration::from_secs(300),
            samples_min: 200,
        }
    }
}

/// A limit of one phase that follows 1.5 times the time within which 99 of 100 were done.
///
/// The times are counted in buckets an eighth of an octave wide, of this span and the one before,
/// so that a change of the provider's habits is followed within two spans.
#[derive(Clone, Debug)]
pub struct AdaptiveLimit {
    rule: AdaptiveRule,
    now: Histogram,
    before: Histogram,
}

/// Times counted before the older ones are forgotten.
const SPAN: u32 = 1024;
/// Buckets per octave.
const STEPS: u32 = 8;
/// Octaves from 1 ms: up to two hours.
const OCTAVES: u32 = 23;
const BUCKETS: usize = (STEPS * OCTAVES) as usize;

// Bound: two histograms of 736 bytes per limit.
#[derive(Clone, Debug)]
struct Histogram {
    counts: [u32; BUCKETS],
    total: u32,
}

impl AdaptiveLimit {
    /// One that has seen nothing.
    pub fn new(rule: AdaptiveRule) -> AdaptiveLimit {
        AdaptiveLimit { rule, now: Histogram::new(), before: Histogram::new() }
    }

    /// The phase took this long. One that was cut by its limit took at least that limit, and counts
    /// with it: else the limit would only ever see those below it, and shrink.
    pub fn saw(&mut self, took: Duration) {
        self.now.count(bucket_of(took));
        if self.now.total == SPAN {
            self.before = std::mem::replace(&mut self.now, Histogram::new());
        }
    }

    /// The limit now; `usual` until enough was seen.
    pub fn limit(&self, usual: Duration) -> Duration {
        let total = self.now.total + self.before.total;
        if total < self.rule.samples_min.max(1) {
            return usual;
        }
        let p99 = self.upper_end_of(total - total / 100);
        (p99 * 3 / 2).clamp(self.rule.floor, self.rule.ceiling.max(self.rule.floor))
    }

    /// The upper end of the bucket in which the time of this rank lies.
    fn upper_end_of(&self, rank: u32) -> Duration {
        let mut passed = 0;
        let counts = self.now.counts.iter().zip(&self.before.counts);
        let bucket = counts.map(|(now, before)| now + before).position(|count| {
            passed += count;
            passed >= rank
        });
        end_of(bucket.unwrap_or(BUCKETS - 1))
    }
}

impl Histogram {
    fn new() -> Histogram {
        Histogram { counts: [0; BUCKETS], total: 0 }
    }

    fn count(&mut self, bucket: usize) {
        self.counts[bucket] += 1;
        self.total += 1;
    }
}

/// The bucket of a time: the octave, and the three bits behind its leading one.
fn bucket_of(took: Duration) -> usize {
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    // In units of 1/8 ms, so that the first octave has whole steps.
    let units = (us.saturating_mul(8) / 1000).max(8);
    let octave = units.ilog2() - 3;
    let step = (units >> octave) & 7;
    let bucket = u64::from(octave * STEPS) + step;
    (bucket as usize).min(BUCKETS - 1)
}

/// The time at which a bucket ends.
fn end_of(bucket: usize) -> Duration {
    let (octave, step) = (bucket as u32 / STEPS, bucket as u64 % u64::from(STEPS));
    let units = (8 + step + 1) << octave;
    Duration::from_micros(units.saturating_mul(125))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USUAL: Duration = Duration::from_secs(300);

    fn rule(samples_min: u32) -> AdaptiveRule {
        let floor = Duration::from_millis(1);
        AdaptiveRule { floor, ceiling: Duration::from_secs(10_000), samples_min }
    }

    proptest! {
        /// Against the sorted list: between 1.5 times the true value and an eighth above it.
        #[test]
        fn property_the_limit_is_above_the_99th(
            times_ms in prop::collection::vec(1u64..1_000_000, 100..900),
        ) {
            let mut limit = AdaptiveLimit::new(rule(100));
            times_ms.iter().for_each(|ms| limit.saw(Duration::from_millis(*ms)));
            let mut sorted = times_ms;
            sorted.sort_unstable();
            let rank = sorted.len() - sorted.len() / 100;
            let p99 = Duration::from_millis(sorted[rank - 1]);
            let got = limit.limit(USUAL);
            prop_assert!(got >= p99 * 3 / 2 && got <= p99 * 3 / 2 * 9 / 8 + Duration::from_millis(1));
        }

        #[test]
        fn property_every_time_has_its_bucket(ns in any::<u64>()) {
            let took = Duration::from_nanos(ns);
            let bucket = bucket_of(took);
            prop_assert!(bucket < BUCKETS);
            let is_last = bucket == BUCKETS - 1;
            prop_assert!(is_last || end_of(bucket) > took);
            prop_assert!(bucket == 0 || end_of(bucket - 1) <= took + Duration::from_micros(125));
        }
    }

    #[test]
    fn it_acts_when_it_has_seen_enough_and_follows() {
        let mut limit = AdaptiveLimit::new(AdaptiveRule { samples_min: 200, ..rule(0) });
        (0..199).for_each(|_| limit.saw(Duration::from_millis(100)));
        assert_eq!(limit.limit(USUAL), USUAL);
        limit.saw(Duration::from_millis(100));
        let fast = limit.limit(USUAL);
        assert!(fast > Duration::from_millis(150) && fast < Duration::from_millis(175), "{fast:?}");
        (0..2 * SPAN).for_each(|_| limit.saw(Duration::from_secs(10)));
        assert!(limit.limit(USUAL) > Duration::from_secs(15), "the old ones are forgotten");
    }

    #[test]
    fn floor_and_ceiling_hold() {
        let rule = AdaptiveRule { samples_min: 1, ..AdaptiveRule::default() };
        let mut limit = AdaptiveLimit::new(rule);
        limit.saw(Duration::from_millis(1));
        assert_eq!(limit.limit(USUAL), rule.floor);
        (0..100).for_each(|_| limit.saw(Duration::MAX));
        assert_eq!(limit.limit(USUAL), rule.ceiling);
    }
}
