//! The `[[limit]]` tables and `[queue]`: how much may be sent, and how many may wait for it.

use std::time::Duration;

use ringmain_policy::{LimitRule, LimitUid, QueueBounds, Rate};

use super::endpoint::EndpointSection;
use super::report::did_you_mean;
use super::route::RouteSection;
use super::section::{Section, wrong_type};

/// Largest rate per minute: far above any provider, and far below what overflows.
const PER_MINUTE_MAX: u64 = 1_000_000_000_000;
/// How much of a rate may pass at once, if nothing else is said.
const BURST: Duration = Duration::from_secs(1);
/// Longest burst: a day's worth is a quota, not a burst.
const BURST_MAX: Duration = Duration::from_secs(3600);

/// Reads all `[[limit]]` tables.
pub(super) fn read_limits(
    tables: Vec<Section<'_>>,
    endpoints: &[EndpointSection],
    routes: &[RouteSection],
) -> Vec<LimitRule> {
    tables.into_iter().map(|table| read(table, endpoints, routes)).collect()
}

/// Reads `[queue]`.
pub(super) fn read_queue(mut table: Section<'_>) -> QueueBounds {
    let usual = QueueBounds::default();
    let mut bound =
        |key, usual: usize| table.integer(key, 0..=1_000_000).map_or(usual, |bound| bound as usize);
    let queue = QueueBounds {
        total: bound("total", usual.total),
        per_uid: bound("per_uid", usual.per_uid),
    };
    table.finish();
    queue
}

/// What a limit is about, as `check` tells it.
pub fn scope(rule: &LimitRule) -> String {
    let endpoint = rule.endpoint.as_ref().map(|name| format!("endpoint {name}"));
    let route = rule.route.as_ref().map(|model| format!("route {model}"));
    let uid = rule.uid.map(|uid| match uid {
        LimitUid::Each => "each uid".to_owned(),
        LimitUid::One(uid) => format!("uid {uid}"),
    });
    endpoint.into_iter().chain(route).chain(uid).collect::<Vec<_>>().join(", ")
}

/// How much a limit lets through, as `check` tells it.
pub fn amounts(rule: &LimitRule) -> String {
    let rate = |rate: Option<Rate>, what: &str| {
        rate.map(|Rate { per_minute, burst }| format!("{per_minute} {what}/min (burst {burst})"))
    };
    let in_flight = rule.in_flight.map(|most| format!("{most} in flight"));
    let refusals = rule.ignores_refusals.then(|| "429 ignored".to_owned());
    let told = rate(rule.requests, "requests").into_iter().chain(rate(rule.tokens, "tokens"));
    told.chain(in_flight).chain(refusals).collect::<Vec<_>>().join(", ")
}

fn read(
    mut table: Section<'_>,
    endpoints: &[EndpointSection],
    routes: &[RouteSection],
) -> LimitRule {
    let names = endpoints.iter().map(|endpoint| endpoint.name.as_str());
    let endpoint = known(&mut table, "endpoint", "the name of an [[endpoint]]", names);
    let models = routes.iter().map(|route| route.model.as_str());
    let route = known(&mut table, "route", "the model of a [[route]]", models);
    let uid = read_uid(&mut table);
    if !["endpoint", "route", "uid"].iter().any(|key| table.has(key)) {
        table.fault(table.span(), "endpoint", "is missing, and so are `route` and `uid`");
    }
    let requests = table.integer("requests_per_minute", 1..=PER_MINUTE_MAX);
    let tokens = table.integer("tokens_per_minute", 1..=PER_MINUTE_MAX);
    let in_flight = table.integer("in_flight", 1..=1_000_000);
    let refusals = table.parsed("refusals", parse_refusals);
    if refusals.is_some() && !table.has("endpoint") {
        table.fault_at("refusals", "stands without `endpoint`, whose refusals it is about");
    }
    let amounts = ["requests_per_minute", "tokens_per_minute", "in_flight", "refusals"];
    if !amounts.iter().any(|key| table.has(key)) {
        let sentence = "is missing, and so are `tokens_per_minute` and `in_flight`";
        table.fault(table.span(), "requests_per_minute", sentence);
    }
    let burst = read_burst(&mut table);
    let queue = table.integer("queue", 0..=1_000_000);
    table.finish();
    let rate = |per_minute| Rate { per_minute, burst: amount_of(per_minute, burst) };
    LimitRule {
        endpoint,
        route,
        uid,
        requests: requests.map(rate),
        tokens: tokens.map(rate),
        in_flight,
        queue,
        ignores_refusals: refusals.is_some_and(|at| at.value),
    }
}

/// Whether they are ignored.
fn parse_refusals(text: &str) -> Result<bool, String> {
    match text {
        "heed" => Ok(false),
        "ignore" => Ok(true),
        _ => Err(format!("{text:?} is neither \"heed\" nor \"ignore\"")),
    }
}

/// A name that stands elsewhere in the file.
fn known<'a>(
    table: &mut Section<'_>,
    key: &'static str,
    what: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Option<String> {
    let given = table.text(key)?;
    if !names.clone().any(|name| name == given.value) {
        let near = did_you_mean(&given.value, names);
        table.fault(given.span, key, format!("{:?} is not {what}{near}", given.value));
    }
    Some(given.value)
}

/// `"each"`, or the number of one.
fn read_uid(table: &mut Section<'_>) -> Option<LimitUid> {
    let value = table.take("uid")?;
    let integer = value.get_ref().as_integer();
    let uid = integer.and_then(|n| u32::from_str_radix(n.as_str(), n.radix()).ok());
    match (uid, value.get_ref().as_str()) {
        (Some(uid), _) => Some(LimitUid::One(uid)),
        (None, Some("each")) => Some(LimitUid::Each),
        _ => {
            let expected = "\"each\" or the number of a uid";
            let sentence = match value.get_ref().as_str() {
                Some(text) => format!("must be {expected}, not {text:?}"),
                None => wrong_type(expected, value),
            };
            table.fault(value.span(), "uid", sentence);
            None
        }
    }
}

fn read_burst(table: &mut Section<'_>) -> Duration {
    match table.duration("burst") {
        Some(burst) if burst.is_zero() || burst > BURST_MAX => {
            table.fault_at("burst", "is not between 1ms and 1h of the rates");
            BURST
        }
        burst => burst.unwrap_or(BURST),
    }
}

/// What a rate amounts to over this time, at least one.
fn amount_of(per_minute: u64, time: Duration) -> u64 {
    // At most 10^12 x 3.6 x 10^6.
    (u128::from(per_minute) * time.as_millis() / 60_000).max(1) as u64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, ConfigError};

    fn parse(limits: &str) -> Result<Config, Vec<String>> {
        let endpoint = "[[endpoint]]\nname = \"local\"\nbase_url = \"http://h/v1\"\n";
        let route = "[[route]]\nmodel = \"tiny\"\nendpoints = [{ name = \"local\" }]\n";
        match Config::parse(Path::new("/x.toml"), &format!("{endpoint}{route}{limits}")) {
            Ok(config) => Ok(config),
            Err(ConfigError::Faults { faults, .. }) => {
                Err(faults.iter().map(ToString::to_string).collect())
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn limits_are_read_with_a_burst_of_a_second() {
        let config = parse(
            "[[limit]]\nendpoint = \"local\"\nrequests_per_minute = 600\n\
             tokens_per_minute = 60000\n\
             [[limit]]\nroute = \"tiny\"\nuid = \"each\"\nrequests_per_minute = 6\nburst = \"30s\"\n\
             in_flight = 2\nqueue = 0\n\
             [[limit]]\nuid = 1000\nin_flight = 5\n\
             [[limit]]\nendpoint = \"local\"\nrefusals = \"ignore\"\n[queue]\nper_uid = 7\n",
        )
        .unwrap();
        let [both, each, one, calm] = &config.rates[..] else { panic!("{:?}", config.rates) };
        assert_eq!(both.requests, Some(Rate { per_minute: 600, burst: 10 }));
        assert_eq!(both.tokens, Some(Rate { per_minute: 60_000, burst: 1000 }));
        assert_eq!((both.endpoint.as_deref(), both.uid), (Some("local"), None));
        assert_eq!(each.requests, Some(Rate { per_minute: 6, burst: 3 }));
        assert_eq!(
            (each.uid, each.in_flight, each.queue),
            (Some(LimitUid::Each), Some(2), Some(0))
        );
        assert_eq!((one.uid, one.in_flight), (Some(LimitUid::One(1000)), Some(5)));
        assert!(calm.ignores_refusals && !both.ignores_refusals);
        assert_eq!(amounts(calm), "429 ignored");
        assert_eq!(config.queue, QueueBounds { per_uid: 7, ..QueueBounds::default() });
        assert_eq!(scope(each), "route tiny, each uid");
        assert_eq!(amounts(each), "6 requests/min (burst 3), 2 in flight");
        assert!(parse("").unwrap().rates.is_empty());
    }

    #[test]
    fn faulty_limits_are_told_by_line_and_key() {
        let found = parse(
            "[[limit]]\nendpoint = \"locl\"\nuid = \"all\"\nrequest_per_minute = 1\n\
             [[limit]]\nroute = \"tny\"\nin_flight = 0\n\
             [[limit]]\nrefusals = \"heed\"\nin_flight = 1\nuid = 1.5\nburst = \"2h\"\n[[limit]]\n",
        )
        .unwrap_err();
        assert_eq!(
            found,
            [
                "line 7: limit[1].requests_per_minute: is missing, and so are `tokens_per_minute` and `in_flight`",
                "line 8: limit[1].endpoint: \"locl\" is not the name of an [[endpoint]]; did you mean `local`?",
                "line 9: limit[1].uid: must be \"each\" or the number of a uid, not \"all\"",
                "line 10: limit[1].request_per_minute: is not a key that Ringmain knows; did you mean `requests_per_minute`?",
                "line 12: limit[2].route: \"tny\" is not the model of a [[route]]; did you mean `tiny`?",
                "line 13: limit[2].in_flight: is 0, which is not between 1 and 1000000",
                "line 15: limit[3].refusals: stands without `endpoint`, whose refusals it is about",
                "line 17: limit[3].uid: must be \"each\" or the number of a uid, not a float",
                "line 18: limit[3].burst: is not between 1ms and 1h of the rates",
                "line 19: limit[4].endpoint: is missing, and so are `route` and `uid`",
                "line 19: limit[4].requests_per_minute: is missing, and so are `tokens_per_minute` and `in_flight`",
            ]
        );
    }
}
