//! When an exchange has to be over, and why.

use std::time::Duration;

/// How long each part of an exchange may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeLimits {
    /// Making a connection, where there is none.
    pub connect: Duration,
    /// Sending the request, from a connection to its last byte.
    pub write: Duration,
    /// From the request's last byte to the response head.
    pub head: Duration,
    /// From the response head to the first content.
    pub first_content: Duration,
    /// Between one content and the next.
    pub idle: Duration,
    /// The whole exchange.
    pub total: Duration,
    /// How long a full lane may stay full.
    pub slow_consumer: Duration,
}

impl Default for ExchangeLimits {
    fn default() -> Self {
        ExchangeLimits {
            connect: Duration::from_secs(5),
            write: Duration::from_secs(30),
            head: Duration::from_secs(300),
            first_content: Duration::from_secs(300),
            idle: Duration::from_secs(120),
            total: Duration::from_secs(900),
            slow_consumer: Duration::from_secs(60),
        }
    }
}

/// The instant at which an exchange ends whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Nanoseconds of the clock that `now_ns` came from.
    pub at_ns: u64,
    /// Whose limit it is.
    pub origin: DeadlineOrigin,
}

/// Whose limit a deadline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadlineOrigin {
    /// The caller asked for it.
    Caller,
    /// The total limit of an exchange came earlier.
    Total,
}

impl Deadline {
    /// The earlier of the caller's deadline and the total limit.
    ///
    /// ```
    /// use ringmain_policy::{Deadline, DeadlineOrigin};
    /// use std::time::Duration;
    /// let second = Duration::from_secs(1);
    /// let deadline = Deadline::capped(5, Some(7), second);
    /// assert_eq!(deadline, Deadline { at_ns: 7, origin: DeadlineOrigin::Caller });
    /// let deadline = Deadline::capped(5, Some(u64::MAX), second);
    /// assert_eq!(deadline, Deadline { at_ns: 1_000_000_005, origin: DeadlineOrigin::Total });
    /// ```
    pub fn capped(now_ns: u64, caller_ns: Option<u64>, total: Duration) -> Deadline {
        let total_ns = u64::try_from(total.as_nanos()).unwrap_or(u64::MAX);
        let cap_ns = now_ns.saturating_add(total_ns);
        match caller_ns {
            Some(at_ns) if at_ns <= cap_ns => Deadline { at_ns, origin: DeadlineOrigin::Caller },
            _ => Deadline { at_ns: cap_ns, origin: DeadlineOrigin::Total },
        }
    }

    /// Time left; zero when it has passed.
    pub fn left(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(self.at_ns.saturating_sub(now_ns))
    }

    /// Whether it has passed.
    pub fn has_passed(&self, now_ns: u64) -> bool {
        self.at_ns <= now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn property_never_later_than_either_limit(
            now in any::<u64>(),
            caller in any::<Option<u64>>(),
            total_ns in any::<u64>(),
        ) {
            let deadline = Deadline::capped(now, caller, Duration::from_nanos(total_ns));
            prop_assert!(deadline.at_ns <= now.saturating_add(total_ns));
            prop_assert!(caller.is_none_or(|caller| deadline.at_ns <= caller));
            prop_assert_eq!(deadline.left(now).is_zero(), deadline.has_passed(now));
        }
    }

    #[test]
    fn an_endless_limit_does_not_overflow() {
        let deadline = Deadline::capped(u64::MAX - 1, None, Duration::MAX);
        assert_eq!(deadline.at_ns, u64::MAX);
    }
}
