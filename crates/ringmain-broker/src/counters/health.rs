//! How well an endpoint does, as the counters tell it.

use ringmain_policy::breaker::BreakerState;

use crate::attempt::health::Condition;

/// How well an endpoint does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointHealth {
    /// Whether it is asked.
    pub breaker: BreakerState,
    /// How often its breaker opened.
    pub breaker_opened: u64,
    /// Retries that it was sent.
    pub retries: u64,
    /// Time to first content that is expected of it, microseconds; 0 while it is not known.
    pub latency_us: u64,
    /// Requests that wait for their first content.
    pub pending: u64,
    /// Uids that it rests for alone: their callers have waited in vain.
    pub resting_uids: u64,
}

impl EndpointHealth {
    pub(super) fn of(condition: &Condition) -> EndpointHealth {
        EndpointHealth {
            breaker: condition.breaker,
            breaker_opened: condition.breaker_opened,
            retries: condition.retries,
            latency_us: u64::try_from(condition.latency.as_micros()).unwrap_or(u64::MAX),
            pending: u64::from(condition.pending),
            resting_uids: u64::from(condition.resting_uids),
        }
    }

    pub(super) fn words(&self) -> [u64; 6] {
        let breaker = match self.breaker {
            BreakerState::Closed => 0,
            BreakerState::Open => 1,
            BreakerState::HalfOpen => 2,
        };
        let EndpointHealth { breaker_opened, retries, latency_us, pending, resting_uids, .. } =
            *self;
        [breaker, breaker_opened, retries, latency_us, pending, resting_uids]
    }

    pub(super) fn of_words(words: [u64; 6]) -> EndpointHealth {
        let [breaker, breaker_opened, retries, latency_us, pending, resting_uids] = words;
        let breaker = match breaker {
            1 => BreakerState::Open,
            2 => BreakerState::HalfOpen,
            _ => BreakerState::Closed,
        };
        EndpointHealth { breaker, breaker_opened, retries, latency_us, pending, resting_uids }
    }
}
