//! What a configuration means where it says nothing: the limits and rules in effect, in words.

use std::time::Duration;

use ringmain_broker::rules::EndpointRules;
use ringmain_policy::ExchangeLimits;
use ringmain_policy::breaker::BreakerRule;
use ringmain_policy::retry::RetryPolicy;
use ringmain_policy::timeouts::{AdaptiveRule, LimitChanges};
use ringmain_upstream::{EndpointConfig, RequestEncoding};

/// How long each part of an exchange may take.
pub fn limits(limits: &ExchangeLimits) -> String {
    changes(&LimitChanges {
        connect: Some(limits.connect),
        write: Some(limits.write),
        head: Some(limits.head),
        first_content: Some(limits.first_content),
        idle: Some(limits.idle),
        total: Some(limits.total),
        slow_consumer: Some(limits.slow_consumer),
    })
}

/// The limits that are set here; empty for none.
pub fn changes(changes: &LimitChanges) -> String {
    let parts = [
        ("connect", changes.connect),
        ("write", changes.write),
        ("head", changes.head),
        ("first content", changes.first_content),
        ("idle", changes.idle),
        ("total", changes.total),
        ("slow consumer", changes.slow_consumer),
    ];
    let told = parts.iter().filter_map(|(name, limit)| Some(format!("{name} {}", time((*limit)?))));
    told.collect::<Vec<_>>().join(", ")
}

/// How often and how long a request is tried.
pub fn retry(policy: &RetryPolicy) -> String {
    let RetryPolicy { attempts, wait, backoff } = policy;
    let (first, most, wait) = (time(backoff.base()), time(backoff.cap()), time(*wait));
    format!("{attempts} attempts; waits up to {first}, doubling up to {most}, {wait} in total")
}

/// Limits that follow what was seen.
pub fn adaptive(rule: &AdaptiveRule) -> String {
    let AdaptiveRule { floor, ceiling, samples_min } = rule;
    let (floor, ceiling) = (time(*floor), time(*ceiling));
    format!(
        "head, first content and idle follow 1.5 x what 99 of 100 took, {floor} to {ceiling}, \
         after {samples_min} samples"
    )
}

/// The connections of an endpoint.
pub fn connections(config: &EndpointConfig) -> String {
    let EndpointConfig { connections_min, connections_max, streams_max, .. } = config;
    let (idle, age) = (time(config.idle_timeout), time(config.lifetime_max));
    format!(
        "connections {connections_min} to {connections_max}, {streams_max} streams on one over \
         HTTP/2; gone after {idle} unused, {age} old"
    )
}

/// When an endpoint is not asked, and how many retries it is sent.
pub fn breaker(rules: &EndpointRules) -> String {
    let BreakerRule { failures, percent, requests_min, window, open, open_max } = rules.breaker;
    let row = (failures > 0).then(|| format!("{failures} failures in a row"));
    let share = (percent > 0)
        .then(|| format!("{percent} % of at least {requests_min} requests in {}", time(window)));
    let causes = row.into_iter().chain(share).collect::<Vec<_>>().join(" or ");
    let rests = match causes.as_str() {
        "" => "never rests".to_owned(),
        causes => format!("rests {} to {} after {causes}", time(open), time(open_max)),
    };
    let budget = rules.budget;
    format!("{rests}; retries: {} % of requests and {}/s", budget.percent, budget.floor_per_s)
}

/// How bodies are compressed and whether the endpoint is probed; empty where neither is so.
pub fn extras(config: &EndpointConfig) -> String {
    let coding = match config.request_encoding {
        RequestEncoding::Off => None,
        RequestEncoding::Auto => Some("as costs least"),
        RequestEncoding::Deflate => Some("by deflate"),
        RequestEncoding::Gzip => Some("by gzip"),
        RequestEncoding::Zstd => Some("by zstd"),
        _ => Some("in another way"),
    };
    let above = config.encode_above;
    let coding = coding.map(|how| format!("bodies of {above} bytes and more compressed {how}"));
    let probe = config.probe.as_ref();
    let probe = probe.map(|probe| format!("GET {} every {}", probe.path, time(probe.interval)));
    coding.into_iter().chain(probe).collect::<Vec<_>>().join("; ")
}

/// A time as the file would say it.
fn time(time: Duration) -> String {
    let ms = time.as_millis();
    match ms {
        ms if ms % 3_600_000 == 0 && ms > 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 && ms > 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmain_policy::Backoff;
    use ringmain_policy::budget::BudgetRule;

    #[test]
    fn defaults_are_told_with_their_units() {
        assert_eq!(
            limits(&ExchangeLimits::default()),
            "connect 5s, write 30s, head 5m, first content 5m, idle 2m, total 15m, slow consumer 1m"
        );
        assert_eq!(
            retry(&RetryPolicy::default()),
            "3 attempts; waits up to 500ms, doubling up to 8s, 20s in total"
        );
        assert_eq!(
            breaker(&EndpointRules::default()),
            "rests 5s to 1m after 5 failures in a row or 50 % of at least 20 requests in 10s; \
             retries: 20 % of requests and 3/s"
        );
        let config = EndpointConfig::new("e", "http://h");
        assert_eq!(
            connections(&config),
            "connections 0 to 8192, 100 streams on one over HTTP/2; gone after 20s unused, 30m old"
        );
        assert_eq!(extras(&config), "");
    }

    #[test]
    fn what_is_set_is_told() {
        let rules = EndpointRules {
            breaker: BreakerRule { failures: 0, percent: 0, ..BreakerRule::default() },
            budget: BudgetRule { percent: 0, floor_per_s: 1 },
            ..EndpointRules::default()
        };
        assert_eq!(breaker(&rules), "never rests; retries: 0 % of requests and 1/s");
        let second = Duration::from_secs(1);
        let policy =
            RetryPolicy { backoff: Backoff::new(second, second), ..RetryPolicy::default() };
        assert!(retry(&policy).contains("waits up to 1s, doubling up to 1s"));
        let set = LimitChanges { idle: Some(90 * second), ..LimitChanges::default() };
        assert_eq!(changes(&set), "idle 90s");
        assert_eq!(
            [0, 1500, 7_200_000].map(|ms| time(Duration::from_millis(ms))),
            ["0s", "1500ms", "2h"]
        );
        assert!(adaptive(&AdaptiveRule::default()).contains("1s to 5m, after 200 samples"));
    }
}
