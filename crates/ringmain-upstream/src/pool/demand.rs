//! How many connections the demand of late asked for.

use std::time::{Duration, Instant};

/// Length of the windows whose peaks are kept.
pub(super) const WINDOW: Duration = Duration::from_secs(5);

/// The most connections in use at once, in this window and the one before.
#[derive(Debug)]
pub(super) struct Demand {
    since: Instant,
    peak: usize,
    before: usize,
}

impl Demand {
    pub fn new(now: Instant) -> Demand {
        Demand { since: now, peak: 0, before: 0 }
    }

    /// So many are in use.
    pub fn note(&mut self, in_use: usize) {
        self.peak = self.peak.max(in_use);
    }

    /// How many to keep for a demand like that of late: its peak and a quarter more.
    pub fn target(&mut self, in_use: usize, now: Instant) -> usize {
        let age = now.saturating_duration_since(self.since);
        if age >= WINDOW {
            self.before = if age >= 2 * WINDOW { 0 } else { self.peak };
            (self.peak, self.since) = (in_use, now);
        }
        let peak = self.peak.max(self.before);
        peak + peak.div_ceil(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_remembered_for_one_window_or_two() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        demand.note(8);
        assert_eq!(demand.target(0, start), 10);
        assert_eq!(demand.target(1, start + WINDOW), 10);
        assert_eq!(demand.target(1, start + 2 * WINDOW), 2);
        demand.note(4);
        assert_eq!(demand.target(0, start + 5 * WINDOW), 0);
    }
}
