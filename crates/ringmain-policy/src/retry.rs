//! Whether a request that failed may be sent once more, and when.

use std::time::Duration;

use crate::backoff::Backoff;

/// A `Retry-After` above this is not waited for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// How often and how long one request is tried. The one place that decides about attempts: nothing
/// below it tries again by itself.
///
/// ```
/// use std::time::Duration;
/// use ringmain_policy::retry::{Fault, Hints, Next, RetryPolicy, Standing};
///
/// let policy = RetryPolicy::default();
/// let standing = Standing {
///     is_idempotent: true,
///     made: 1,
///     waited: Duration::ZERO,
///     left: Duration::from_secs(60),
///     has_elsewhere: false,
/// };
/// let hints = Hints { retry_after_ms: Some(1500), should_retry: None };
/// let next = policy.next(Fault::Refused { status: 429 }, hints, standing, 0);
/// assert_eq!(next, Next::Wait(Duration::from_millis(1500)));
/// let next = policy.next(Fault::Refused { status: 400 }, Hints::default(), standing, 0);
/// assert_eq!(next, Next::Never);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included.
    pub attempts: u32,
    /// Longest time that one request waits between its attempts, in total.
    pub wait: Duration,
    /// Waits where the provider does not say how long.
    pub backoff: Backoff,
}

/// What became of an attempt that gave no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The provider provably did not process it.
    Unprocessed(Again),
    /// It answered with an error status.
    Refused {
        /// The status.
        status: u16,
    },
    /// Its answer broke before its first content: an error object under a good status, a body
    /// without anything, a stream that was cut short.
    Broken,
    /// It may have been processed, and there is no answer; or nothing would be better next time.
    Final,
}

/// When the same endpoint may be asked again for what it did not process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// At once, the first time: a connection was closed under the request, another one will do.
    Now,
    /// After a wait.
    Later,
    /// It would end in the same way.
    Never,
}

/// What the provider says about coming again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Milliseconds until it wants to hear again.
    pub retry_after_ms: Option<u64>,
    /// `x-should-retry`.
    pub should_retry: Option<bool>,
}

/// How the request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Doing it twice does no harm.
    pub is_idempotent: bool,
    /// Attempts made.
    pub made: u32,
    /// Time waited between them.
    pub waited: Duration,
    /// Time left until its deadline.
    pub left: Duration,
    /// There is an endpoint that was not asked yet and takes requests.
    pub has_elsewhere: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask another endpoint, at once.
    Elsewhere,
    /// Ask again after this time.
    Wait(Duration),
    /// Pass the failure on.
    Never,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts: 3,
            wait: Duration::from_secs(20),
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(8)),
        }
    }
}

impl RetryPolicy {
    /// Decides about the next attempt; `random` is evenly drawn. The budget of the endpoint that
    /// would be asked is not looked at here.
    pub fn next(&self, fault: Fault, hints: Hints, standing: Standing, random: u64) -> Next {
        if standing.made >= self.attempts || !may_repeat(fault, hints, standing.is_idempotent) {
            return Next::Never;
        }
        // Another endpoint has nothing to do with the wishes of the one that failed.
        if standing.has_elsewhere {
            return Next::Elsewhere;
        }
        match fault {
            Fault::Unprocessed(Again::Never) => return Next::Never,
            Fault::Unprocessed(Again::Now) if standing.made == 1 => {
                return Next::Wait(Duration::ZERO);
            }
            _ => {}
        }
        let retry = standing.made.saturating_sub(1);
        let wait = match hints.retry_after_ms.map(Duration::from_millis) {
            Some(asked) if asked > RETRY_AFTER_MAX => return Next::Never,
            Some(asked) => asked,
            None => self.backoff.delay(retry, random),
        };
        let left = self.wait.saturating_sub(standing.waited).min(standing.left);
        if wait < left { Next::Wait(wait) } else { Next::Never }
    }
}

fn may_repeat(fault: Fault, hints: Hints, is_idempotent: bool) -> bool {
    match fault {
        Fault::Unprocessed(_) => true,
        Fault::Final => false,
        // What may have been done is done twice only where that does no harm.
        _ if !is_idempotent => false,
        Fault::Broken => hints.should_retry != Some(false),
        Fault::Refused { status } => {
            hints.should_retry.unwrap_or(matches!(status, 408 | 409 | 429 | 500..))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn standing() -> Standing {
        Standing {
            is_idempotent: true,
            made: 1,
            waited: Duration::ZERO,
            left: Duration::from_secs(100),
            has_elsewhere: false,
        }
    }

    fn faults() -> impl Strategy<Value = Fault> {
        prop_oneof![
            prop_oneof![Just(Again::Now), Just(Again::Later), Just(Again::Never)]
                .prop_map(Fault::Unprocessed),
            (400u16..600).prop_map(|status| Fault::Refused { status }),
            Just(Fault::Broken),
            Just(Fault::Final),
        ]
    }

    fn next(fault: Fault, hints: Hints, standing: Standing) -> Next {
        RetryPolicy::default().next(fault, hints, standing, 0)
    }

    fn after(ms: u64) -> Hints {
        Hints { retry_after_ms: Some(ms), should_retry: None }
    }

    #[test]
    fn statuses_that_may_be_repeated() {
        let retried = (400..600).filter(|status| {
            next(Fault::Refused { status: *status }, Hints::default(), standing()) != Next::Never
        });
        let expected = [408, 409, 429].into_iter().chain(500..600);
        assert!(retried.eq(expected));
    }

    #[test]
    fn the_provider_has_the_last_word_on_what_it_answered() {
        let says = |should_retry| Hints { retry_after_ms: None, should_retry: Some(should_retry) };
        let refused = |status| Fault::Refused { status };
        assert_eq!(next(refused(503), says(false), standing()), Next::Never);
        assert_ne!(next(refused(400), says(true), standing()), Next::Never);
        assert_eq!(next(Fault::Broken, says(false), standing()), Next::Never);
        let once = Standing { is_idempotent: false, ..standing() };
        assert_eq!(next(refused(400), says(true), once), Next::Never);
    }

    #[test]
    fn waits_are_bounded_and_a_longer_one_is_passed_on() {
        let busy = Fault::Refused { status: 429 };
        assert_eq!(next(busy, after(1500), standing()), Next::Wait(Duration::from_millis(1500)));
        assert_eq!(next(busy, after(20_000), standing()), Next::Never, "as long as all waits");
        assert_eq!(next(busy, after(u64::MAX), standing()), Next::Never);
        let late = Standing { left: Duration::from_secs(1), ..standing() };
        assert_eq!(next(busy, after(1500), late), Next::Never, "the deadline is earlier");
        let waited = Standing { waited: Duration::from_secs(19), ..standing() };
        assert_eq!(next(busy, after(1500), waited), Next::Never, "waited long enough");
        let patient = RetryPolicy { wait: Duration::from_secs(1000), ..RetryPolicy::default() };
        let long = Standing { left: Duration::from_secs(1000), ..standing() };
        assert_eq!(patient.next(busy, after(120_000), long, 0), Next::Wait(RETRY_AFTER_MAX));
        assert_eq!(patient.next(busy, after(120_001), long, 0), Next::Never);
    }

    #[test]
    fn another_endpoint_is_asked_at_once() {
        let elsewhere = Standing { has_elsewhere: true, ..standing() };
        assert_eq!(next(Fault::Refused { status: 429 }, after(60_000), elsewhere), Next::Elsewhere);
        let lasting = Fault::Unprocessed(Again::Never);
        assert_eq!(next(lasting, Hints::default(), elsewhere), Next::Elsewhere);
        assert_eq!(next(lasting, Hints::default(), standing()), Next::Never);
    }

    #[test]
    fn a_connection_that_was_closed_under_a_request_costs_no_wait_once() {
        let closed = Fault::Unprocessed(Again::Now);
        let policy = RetryPolicy::default();
        let next =
            |made| policy.next(closed, Hints::default(), Standing { made, ..standing() }, u64::MAX);
        assert_eq!(next(1), Next::Wait(Duration::ZERO));
        assert_eq!(next(2), Next::Wait(Duration::from_secs(1)));
    }

    proptest! {
        /// At most the attempts allowed, waits that together stay within their bound and before
        /// the deadline, and nothing twice that may have been done and must not be.
        #[test]
        fn property_one_request_is_tried_within_its_bounds(
            answers in prop::collection::vec(
                (faults(), any::<Option<u16>>(), any::<Option<bool>>(), any::<bool>()), 1..40),
            is_idempotent in any::<bool>(),
            left_ms in 0u64..60_000,
            attempts in 1u32..8,
            random in any::<u64>(),
        ) {
            let policy = RetryPolicy { attempts, ..RetryPolicy::default() };
            let (mut made, mut waited) = (0, Duration::ZERO);
            let deadline = Duration::from_millis(left_ms);
            for (fault, retry_after, should_retry, has_elsewhere) in answers {
                made += 1;
                let retry_after_ms = retry_after.map(u64::from);
                let hints = Hints { retry_after_ms, should_retry };
                let left = deadline.saturating_sub(waited);
                let standing = Standing { is_idempotent, made, waited, left, has_elsewhere };
                match policy.next(fault, hints, standing, random) {
                    Next::Never => break,
                    Next::Elsewhere => prop_assert!(has_elsewhere),
                    Next::Wait(wait) => waited += wait,
                }
                let unprocessed = matches!(fault, Fault::Unprocessed(_));
                prop_assert!(is_idempotent || unprocessed);
                prop_assert!(made < attempts);
                prop_assert!(waited <= policy.wait && (waited.is_zero() || waited < deadline));
            }
        }
    }
}
