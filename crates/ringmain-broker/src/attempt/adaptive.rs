//! Limits of a route that follow how long its endpoints take.

use std::time::Duration;

use parking_lot::Mutex;
use ringmain_policy::ExchangeLimits;
use ringmain_policy::timeouts::{AdaptiveLimit, AdaptiveRule};

use crate::alarm::Expired;

/// A part of an answer whose limit can follow what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Up to the response head.
    Head = 0,
    /// From there to the first content.
    FirstContent = 1,
    /// From one content to the next.
    Idle = 2,
}

/// What was seen of one route, by phase.
pub(crate) struct Adaptive {
    rule: AdaptiveRule,
    seen: Mutex<[AdaptiveLimit; 3]>,
}

impl Adaptive {
    pub fn new(rule: AdaptiveRule) -> Adaptive {
        Adaptive { rule, seen: Mutex::new(std::array::from_fn(|_| AdaptiveLimit::new(rule))) }
    }

    pub fn rule(&self) -> AdaptiveRule {
        self.rule
    }

    /// A phase took this long.
    pub fn saw(&self, phase: Phase, took: Duration) {
        self.seen.lock()[phase as usize].saw(took);
    }

    /// A limit passed: the phase took at least that long.
    pub fn expired(&self, expired: Expired) {
        match expired {
            Expired::Head(limit) => self.saw(Phase::Head, limit),
            Expired::FirstContent(limit) => self.saw(Phase::FirstContent, limit),
            Expired::Idle(limit) => self.saw(Phase::Idle, limit),
            Expired::Deadline(_) | Expired::Write(_) | Expired::Room(_) => {}
        }
    }

    /// The limits now.
    pub fn limits(&self, usual: ExchangeLimits) -> ExchangeLimits {
        let limits = self.seen.lock();
        let of = |phase: Phase, usual| limits[phase as usize].limit(usual);
        ExchangeLimits {
            head: of(Phase::Head, usual.head),
            first_content: of(Phase::FirstContent, usual.first_content),
            idle: of(Phase::Idle, usual.idle),
            ..usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_follows_what_it_saw() {
        let floor = Duration::from_millis(1);
        let rule = AdaptiveRule { floor, samples_min: 2, ..AdaptiveRule::default() };
        let adaptive = Adaptive::new(rule);
        let usual = ExchangeLimits::default();
        assert_eq!(adaptive.limits(usual), usual);
        (0..2).for_each(|_| adaptive.saw(Phase::Idle, Duration::from_secs(1)));
        let limits = adaptive.limits(usual);
        assert!(limits.idle < Duration::from_secs(2) && limits.idle > Duration::from_secs(1));
        assert_eq!(ExchangeLimits { idle: usual.idle, ..limits }, usual);
    }
}
