//! How requests are tried: `[retry]`, and what endpoints and routes set for themselves.

use std::ops::RangeInclusive;
use std::time::Duration;

use ringmain_broker::rules::{EndpointRules, RouteRules};
use ringmain_policy::Backoff;
use ringmain_policy::breaker::BreakerRule;
use ringmain_policy::budget::BudgetRule;
use ringmain_policy::retry::RetryPolicy;
use ringmain_policy::timeouts::{AdaptiveRule, LimitChanges};

use super::section::Section;

/// More attempts than this only multiply a provider's trouble.
const ATTEMPTS: RangeInclusive<u64> = 1..=16;
/// Failures in a row, and requests of a window.
const COUNTS: RangeInclusive<u64> = 0..=1_000_000;
/// Shares.
const PERCENT: RangeInclusive<u64> = 0..=100;

/// What `[retry]` or the `retry` of a route says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetrySection {
    /// Attempts in all.
    pub attempts: Option<u32>,
    /// Longest wait between attempts, in total.
    pub wait: Option<Duration>,
    /// Most of the first wait where the provider does not say how long; doubled with each further
    /// one.
    pub backoff: Option<Duration>,
    /// Most of any such wait.
    pub backoff_max: Option<Duration>,
}

impl RetrySection {
    /// Reads the table.
    pub(super) fn read(mut table: Section<'_>) -> RetrySection {
        let attempts = table.integer("attempts", ATTEMPTS).map(|attempts| attempts as u32);
        let section = RetrySection {
            attempts,
            wait: table.duration("wait"),
            backoff: limit(&mut table, "backoff"),
            backoff_max: limit(&mut table, "backoff_max"),
        };
        if let (Some(first), Some(most)) = (section.backoff, section.backoff_max)
            && first > most
        {
            table.fault_at("backoff", "is longer than `backoff_max`");
        }
        table.finish();
        section
    }

    /// What this says, and what `others` says elsewhere.
    #[must_use]
    pub fn or(self, others: RetrySection) -> RetrySection {
        RetrySection {
            attempts: self.attempts.or(others.attempts),
            wait: self.wait.or(others.wait),
            backoff: self.backoff.or(others.backoff),
            backoff_max: self.backoff_max.or(others.backoff_max),
        }
    }

    /// The policy of a route with this many targets: each of them is tried at least once unless the
    /// number of attempts is set.
    pub fn policy(&self, targets: usize) -> RetryPolicy {
        let usual = RetryPolicy::default();
        // Bound: what a configuration may set.
        let least = targets.min(*ATTEMPTS.end() as usize) as u32;
        RetryPolicy {
            attempts: self.attempts.unwrap_or(usual.attempts.max(least)),
            wait: self.wait.unwrap_or(usual.wait),
            backoff: self.backoff(usual.backoff),
        }
    }
}

impl RetrySection {
    /// What is set alone moves the other one along, if it would be beyond it.
    fn backoff(&self, usual: Backoff) -> Backoff {
        let first =
            self.backoff.unwrap_or(usual.base().min(self.backoff_max.unwrap_or(usual.cap())));
        Backoff::new(first, self.backoff_max.unwrap_or(usual.cap()).max(first))
    }
}

/// Reads `timeouts`, `connect_timeout`, `breaker` and `retry_budget` of an endpoint.
pub(super) fn read_endpoint_rules(table: &mut Section<'_>) -> EndpointRules {
    let mut limits: LimitChanges = table.table("timeouts").map(read_timeouts).unwrap_or_default();
    if let Some(connect) = limit(table, "connect_timeout") {
        if limits.connect.is_some() {
            table.fault_at("connect_timeout", "stands beside `timeouts.connect`; keep one of them");
        }
        limits.connect = Some(connect);
    }
    EndpointRules {
        limits,
        breaker: table.table("breaker").map(read_breaker).unwrap_or_default(),
        budget: table.table("retry_budget").map(read_budget).unwrap_or_default(),
    }
}

/// Reads `timeouts` and `adaptive` of a route.
pub(super) fn read_route_rules(table: &mut Section<'_>) -> RouteRules {
    RouteRules {
        limits: table.table("timeouts").map(read_timeouts).unwrap_or_default(),
        retry: None,
        adaptive: table.table("adaptive").map(read_adaptive),
    }
}

fn read_timeouts(mut table: Section<'_>) -> LimitChanges {
    let limits = LimitChanges {
        connect: limit(&mut table, "connect"),
        write: limit(&mut table, "write"),
        head: limit(&mut table, "head"),
        first_content: limit(&mut table, "first_content"),
        idle: limit(&mut table, "idle"),
        total: limit(&mut table, "total"),
        slow_consumer: limit(&mut table, "slow_consumer"),
    };
    table.finish();
    limits
}

fn read_breaker(mut table: Section<'_>) -> BreakerRule {
    let usual = BreakerRule::default();
    let count = |table: &mut Section<'_>, key, usual: u32| {
        table.integer(key, COUNTS).map_or(usual, |count| count as u32)
    };
    let rule = BreakerRule {
        failures: count(&mut table, "failures", usual.failures),
        percent: table.integer("percent", PERCENT).map_or(usual.percent, |share| share as u32),
        requests_min: count(&mut table, "requests_min", usual.requests_min),
        window: limit(&mut table, "window").unwrap_or(usual.window),
        open: limit(&mut table, "open").unwrap_or(usual.open),
        open_max: limit(&mut table, "open_max").unwrap_or(usual.open_max),
    };
    table.finish();
    rule
}

fn read_budget(mut table: Section<'_>) -> BudgetRule {
    let usual = BudgetRule::default();
    let floor = table.integer("floor_per_s", 0..=1_000_000);
    let rule = BudgetRule {
        percent: table.integer("percent", PERCENT).map_or(usual.percent, |share| share as u32),
        floor_per_s: floor.map_or(usual.floor_per_s, |floor| floor as u32),
    };
    table.finish();
    rule
}

fn read_adaptive(mut table: Section<'_>) -> AdaptiveRule {
    let usual = AdaptiveRule::default();
    let samples = table.integer("samples", 1..=1024);
    let rule = AdaptiveRule {
        floor: limit(&mut table, "floor").unwrap_or(usual.floor),
        ceiling: limit(&mut table, "ceiling").unwrap_or(usual.ceiling),
        samples_min: samples.map_or(usual.samples_min, |samples| samples as u32),
    };
    if rule.floor > rule.ceiling {
        table.fault_at("floor", "is longer than `ceiling`");
    }
    table.finish();
    rule
}

/// A duration that is not zero.
fn limit(table: &mut Section<'_>, key: &'static str) -> Option<Duration> {
    let given = table.duration(key)?;
    if given.is_zero() {
        table.fault_at(key, "is zero: nothing could ever be in time");
        return None;
    }
    Some(given)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn parse(source: &str) -> Result<Config, String> {
        let config = Config::parse(Path::new("/etc/ringmain/ringmain.toml"), source);
        config.map_err(|error| error.to_string())
    }

    const TRIED: &str = r#"
[retry]
attempts = 4
backoff = "100ms"

[[endpoint]]
name = "a"
base_url = "http://127.0.0.1/v1"
timeouts = { head = "10s", total = "1m" }
breaker = { failures = 0, open = "1s" }
retry_budget = { percent = 10 }

[[endpoint]]
name = "b"
base_url = "http://127.0.0.2/v1"

[[route]]
model = "tiny"
endpoints = [{ name = "a" }]
fallback = [{ name = "b", model = "other" }, { name = "a", model = "small" }]
retry = { wait = "5s" }
timeouts = { idle = "3s" }
adaptive = { floor = "2s", samples = 50 }
"#;

    #[test]
    fn rules_of_endpoints_and_routes_are_read() {
        let config = parse(TRIED).unwrap();
        let [a, b] = &config.endpoints[..] else { panic!("{:?}", config.endpoints) };
        assert_eq!(a.rules.limits.head, Some(Duration::from_secs(10)));
        assert_eq!((a.rules.breaker.failures, a.rules.breaker.percent), (0, 50));
        assert_eq!(a.rules.budget, BudgetRule { percent: 10, ..BudgetRule::default() });
        assert_eq!(b.rules, EndpointRules::default());
        let route = &config.routes[0];
        let tiers: Vec<_> = route.targets.iter().map(|target| target.tier).collect();
        assert_eq!(tiers, [0, 1, 2]);
        let policy = route.retry.or(config.retry).policy(route.targets.len());
        assert_eq!((policy.attempts, policy.wait), (4, Duration::from_secs(5)));
        assert_eq!(policy.backoff, backoff(100, 8000));
        assert_eq!(route.rules.limits.idle, Some(Duration::from_secs(3)));
        let adaptive = route.rules.adaptive.unwrap();
        assert_eq!((adaptive.floor, adaptive.samples_min), (Duration::from_secs(2), 50));
    }

    #[test]
    fn every_target_is_tried_unless_the_attempts_are_set() {
        let attempts = |section: RetrySection, targets| section.policy(targets).attempts;
        assert_eq!(attempts(RetrySection::default(), 1), 3);
        assert_eq!(attempts(RetrySection::default(), 5), 5);
        assert_eq!(attempts(RetrySection::default(), 60), 16);
        assert_eq!(attempts(RetrySection { attempts: Some(1), ..RetrySection::default() }, 5), 1);
    }

    fn backoff(base_ms: u64, cap_ms: u64) -> Backoff {
        Backoff::new(Duration::from_millis(base_ms), Duration::from_millis(cap_ms))
    }

    #[test]
    fn one_end_of_the_back_off_moves_the_other_along() {
        let policy = |base: Option<u64>, cap: Option<u64>| {
            let (backoff, backoff_max) =
                (base.map(Duration::from_millis), cap.map(Duration::from_millis));
            RetrySection { backoff, backoff_max, ..RetrySection::default() }.policy(1).backoff
        };
        assert_eq!(policy(None, None), backoff(500, 8000));
        assert_eq!(policy(Some(20_000), None), backoff(20_000, 20_000));
        assert_eq!(policy(None, Some(100)), backoff(100, 100));
        assert_eq!(policy(Some(1), Some(2)), backoff(1, 2));
    }

    #[test]
    fn faulty_rules_are_named() {
        let fault = |lines: &str| {
            let endpoint = "[[endpoint]]\nname = \"a\"\nbase_url = \"http://h/v1\"\n";
            parse(&format!("{endpoint}{lines}\n")).unwrap_err()
        };
        let zero = fault("timeouts = { idle = \"0s\" }");
        assert!(zero.contains("idle") && zero.contains("nothing could ever be in time"), "{zero}");
        let twice = fault("connect_timeout = \"1s\"\ntimeouts = { connect = \"2s\" }");
        assert!(twice.contains("line 4") && twice.contains("keep one of them"), "{twice}");
        let unknown = fault("breaker = { failure = 3 }");
        assert!(unknown.contains("failures"), "the nearest key: {unknown}");
        let crossed = fault("[retry]\nbackoff = \"9s\"\nbackoff_max = \"1s\"");
        assert!(crossed.contains("line 5") && crossed.contains("`backoff_max`"), "{crossed}");
        let many = fault("[retry]\nattempts = 17");
        assert!(many.contains("between 1 and 16"), "{many}");
    }
}
