//! Latencies as histograms that can cross a process border and be merged.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies in ns, three significant digits, up to a minute.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
}

/// The counts of a histogram, for one line of JSON: value and count of each bucket in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Buckets(Vec<(u64, u64)>);

const NS_MAX: u64 = 60_000_000_000;

impl Latency {
    pub(crate) fn new() -> Latency {
        // The arguments are constants that the constructor accepts: 1 <= low, 2 x low <= high,
        // at most 5 digits. The fallback grows by itself.
        let histogram = Histogram::new_with_bounds(1, NS_MAX, 3);
        let auto = || Histogram::new(3);
        // Invariant: 3 digits are valid for both, so one of the two exists.
        let histogram = histogram.or_else(|_| auto());
        match histogram {
            Ok(histogram) => Latency { histogram },
            Err(error) => unreachable!("three digits are valid: {error}"),
        }
    }

    /// Records one latency; what is above a minute counts as a minute.
    pub(crate) fn record(&mut self, ns: u64) {
        self.histogram.saturating_record(ns.clamp(1, NS_MAX));
    }

    /// Records one latency of an open loop whose events are due every `interval_ns`. Whoever is
    /// late by several intervals has kept the events between waiting too: they are recorded with
    /// what each of them waited, or the worst moments would count once instead of many times.
    pub(crate) fn record_open_loop(&mut self, ns: u64, interval_ns: u64) {
        let mut ns = ns.clamp(1, NS_MAX);
        // Bound: a minute divided by the interval, of which no row has one below 100 us.
        loop {
            self.histogram.saturating_record(ns);
            match ns.checked_sub(interval_ns.max(100_000)) {
                Some(missed) if missed > 0 => ns = missed,
                _ => return,
            }
        }
    }

    pub(crate) fn add(&mut self, other: &Latency) {
        // Both have the same bounds, so there is nothing that cannot be added.
        let _ = self.histogram.add(&other.histogram);
    }

    pub(crate) fn quantile(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    pub(crate) fn max(&self) -> u64 {
        self.histogram.max()
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn buckets(&self) -> Buckets {
        let recorded = self.histogram.iter_recorded();
        Buckets(recorded.map(|at| (at.value_iterated_to(), at.count_at_value())).collect())
    }
}

impl Buckets {
    /// Value and count, ascending.
    pub(crate) fn pairs(&self) -> &[(u64, u64)] {
        &self.0
    }
}

impl From<&Buckets> for Latency {
    fn from(buckets: &Buckets) -> Latency {
        let mut latency = Latency::new();
        for &(value, count) in &buckets.0 {
            latency.histogram.saturating_record_n(value.clamp(1, NS_MAX), count);
        }
        latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_of_an_open_loop_counts_for_every_event_that_waited() {
        let mut latency = Latency::new();
        for _ in 0..99 {
            latency.record_open_loop(1_000, 1_000_000);
        }
        latency.record_open_loop(10_000_000, 1_000_000);
        assert_eq!(latency.count(), 109);
        assert!(latency.quantile(0.95) > 4_000_000);
    }

    #[test]
    fn buckets_carry_a_histogram_across() {
        let mut latency = Latency::new();
        for ns in [1, 500, 500, 77_777, 123_456_789] {
            latency.record(ns);
        }
        let text = serde_json::to_string(&latency.buckets()).unwrap();
        let back = Latency::from(&serde_json::from_str::<Buckets>(&text).unwrap());
        assert_eq!(back.count(), 5);
        for quantile in [0.1, 0.5, 0.9, 1.0] {
            assert_eq!(back.quantile(quantile), latency.quantile(quantile));
        }
    }
}
