//! Which of several endpoints takes the next request.

use std::time::Duration;

/// How fast an old observation loses its weight.
const DECAY_NS: f64 = 10e9;
/// The least that a failure is charged, in ns: an endpoint that fails fast is not a fast endpoint.
const PENALTY_NS: f64 = 5e9;
/// A difference of costs below this factor is noise: then the turn by weight decides.
const MARGIN: f64 = 1.25;

/// The time to the first content of an endpoint, as an average that rises at once and falls slowly:
/// a peak is believed when it is seen, an improvement only when it lasts.
///
/// ```
/// use std::time::Duration;
/// use ringmain_policy::balance::PeakEwma;
/// let mut load = PeakEwma::default();
/// load.observe(Duration::from_millis(10), 0);
/// load.observe(Duration::from_millis(500), 0);
/// assert_eq!(load.at(0), Some(Duration::from_millis(500)));
/// load.observe(Duration::from_millis(10), 1_000_000);
/// assert!(load.at(1_000_000).unwrap() > Duration::from_millis(499));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PeakEwma {
    /// In ns; 0 before the first observation.
    value: f64,
    seen_ns: u64,
}

/// What the choice knows of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Its time to first content; `None`: not known.
    pub latency: Option<Duration>,
    /// Requests under way that have no content yet.
    pub pending: u32,
    /// Its configured share, above 0.
    pub weight: u32,
}

impl PeakEwma {
    /// A request had its first content after this time.
    pub fn observe(&mut self, took: Duration, now_ns: u64) {
        let took = took.as_nanos() as f64;
        let old = self.decayed(now_ns);
        let keep = (-(now_ns.saturating_sub(self.seen_ns) as f64) / DECAY_NS).exp();
        // What is better than expected counts by the time since the last look alone.
        self.value = if took > old { took } else { self.value * keep + took * (1.0 - keep) };
        self.seen_ns = self.seen_ns.max(now_ns);
    }

    /// A request failed after this time. It counts as slow, however fast it failed.
    pub fn charge(&mut self, took: Duration, now_ns: u64) {
        let penalty = (self.decayed(now_ns) * 2.0).clamp(PENALTY_NS, PENALTY_NS * 12.0);
        let charged = Duration::from_nanos(penalty as u64).max(took);
        self.observe(charged, now_ns);
    }

    /// What is to be expected now: an endpoint that nobody asked for a while gets better, until
    /// somebody asks it again. `None` before the first observation.
    pub fn at(&self, now_ns: u64) -> Option<Duration> {
        let value = self.decayed(now_ns);
        (self.value > 0.0).then(|| Duration::from_nanos(value as u64))
    }

    fn decayed(&self, now_ns: u64) -> f64 {
        let passed = now_ns.saturating_sub(self.seen_ns) as f64;
        self.value * (-passed / DECAY_NS).exp()
    }
}

/// Whether `other` should take the request that is `first`'s by turn: only when it is clearly
/// cheaper. The cost is the expected latency times the requests that wait for content, each counted
/// by the endpoint's share. Where the latency of one is not known, only the requests count.
pub fn is_cheaper(other: Load, first: Load) -> bool {
    let mean = f64::midpoint(f64::from(other.weight.max(1)), f64::from(first.weight.max(1)));
    let queue = |load: Load| 1.0 + f64::from(load.pending) * mean / f64::from(load.weight.max(1));
    let (a, b) = match (other.latency, first.latency) {
        (Some(a), Some(b)) => (a.as_secs_f64(), b.as_secs_f64()),
        _ => (1.0, 1.0),
    };
    queue(other) * a * MARGIN < queue(first) * b
}

/// Draws an index by weight for an evenly drawn `random`; `None` when no weight is above 0.
///
/// ```
/// use ringmain_policy::balance::draw;
/// assert_eq!(draw([0, 1, 0], u64::MAX), Some(1));
/// assert_eq!(draw([1, 1], u64::MAX / 2 + 1), Some(1));
/// assert_eq!(draw([0, 0], 7), None);
/// ```
pub fn draw<I>(weights: I, random: u64) -> Option<usize>
where
    I: IntoIterator<Item = u32>,
    I::IntoIter: Clone,
{
    let weights = weights.into_iter();
    let total: u64 = weights.clone().map(u64::from).sum();
    // Bound: below `total`, so that the search ends inside.
    let drawn = ((u128::from(total) * u128::from(random)) >> 64) as u64;
    let mut passed = 0;
    weights.into_iter().position(|weight| {
        passed += u64::from(weight);
        drawn < passed
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn load(latency_ms: u64, pending: u32, weight: u32) -> Load {
        let latency = (latency_ms > 0).then(|| Duration::from_millis(latency_ms));
        Load { latency, pending, weight }
    }

    #[test]
    fn a_failure_never_makes_an_endpoint_look_fast() {
        let mut failing = PeakEwma::default();
        failing.charge(Duration::from_micros(100), 0);
        assert!(failing.at(0).unwrap() >= Duration::from_secs(5));
        let mut slow = PeakEwma::default();
        slow.observe(Duration::from_secs(20), 0);
        slow.charge(Duration::from_millis(1), MS);
        assert!(slow.at(MS).unwrap() >= Duration::from_secs(39));
        (0..100).for_each(|_| slow.charge(Duration::ZERO, MS));
        assert!(slow.at(MS).unwrap() <= Duration::from_secs(60), "and not for ever");
    }

    #[test]
    fn who_is_not_asked_is_forgiven() {
        let mut load = PeakEwma::default();
        load.charge(Duration::ZERO, 0);
        assert!(load.at(60_000 * MS).unwrap() < Duration::from_millis(20));
    }

    #[test]
    fn only_a_clear_difference_overrules_the_turn() {
        assert!(!is_cheaper(load(100, 0, 1), load(110, 0, 1)));
        assert!(is_cheaper(load(100, 0, 1), load(130, 0, 1)));
        assert!(is_cheaper(load(100, 0, 1), load(100, 1, 1)));
        assert!(!is_cheaper(load(0, 0, 1), load(9000, 0, 1)), "not known is not better");
        assert!(is_cheaper(load(0, 0, 1), load(9000, 1, 1)), "but a queue is a queue");
        assert!(!is_cheaper(load(100, 10, 1), load(100, 30, 3)), "three times the share");
        assert!(is_cheaper(load(100, 10, 1), load(100, 60, 3)));
    }

    proptest! {
        #[test]
        fn property_between_the_extremes_and_peaks_at_once(
            samples in prop::collection::vec((1u64..10_000, 0u64..20_000), 1..100),
        ) {
            let (mut load, mut now_ns, mut most) = (PeakEwma::default(), 0, 0);
            for (took_ms, pause_ms) in samples {
                now_ns += pause_ms * MS;
                let took = Duration::from_millis(took_ms);
                let before = load.at(now_ns);
                load.observe(took, now_ns);
                most = most.max(took_ms);
                let after = load.at(now_ns).unwrap();
                prop_assert!(after <= Duration::from_millis(most));
                prop_assert!(before.is_none_or(|before| before >= took) || after == took);
            }
        }

        #[test]
        fn property_each_is_drawn_by_its_weight(
            weights in prop::collection::vec(0u32..5, 1..6),
            steps in 1u64..200,
        ) {
            let total: u32 = weights.iter().sum();
            let mut drawn = vec![0u64; weights.len()];
            let draws = u64::from(total) * steps;
            for step in 0..draws {
                let random = ((u128::from(step) << 64) / u128::from(draws)) as u64;
                drawn[draw(weights.iter().copied(), random).unwrap()] += 1;
            }
            for (weight, drawn) in weights.iter().zip(drawn) {
                let expected = u64::from(*weight) * steps;
                prop_assert!(drawn.abs_diff(expected) <= 1, "{drawn} of {expected}");
            }
        }

        #[test]
        fn property_two_are_never_cheaper_than_each_other(
            a in (0u64..1000, 0u32..100, 1u32..10),
            b in (0u64..1000, 0u32..100, 1u32..10),
        ) {
            let (a, b) = (load(a.0, a.1, a.2), load(b.0, b.1, b.2));
            prop_assert!(!(is_cheaper(a, b) && is_cheaper(b, a)));
        }
    }
}
