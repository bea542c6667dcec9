//! What a file says, and what is said about a faulty one.

use std::path::Path;
use std::time::Duration;

use ringmain_broker::{BrokerConfig, Server};
use ringmain_upstream::{Dialect, EndpointConfig, Http2, KeySource, Stored, UsageSplice};

use super::*;

fn parse(source: &str) -> Result<Config, Vec<String>> {
    match Config::parse(Path::new("/etc/ringmain/ringmain.toml"), source) {
        Ok(config) => Ok(config),
        Err(ConfigError::Faults { faults, .. }) => {
            Err(faults.iter().map(ToString::to_string).collect())
        }
        Err(other) => panic!("{other}"),
    }
}

fn faults(source: &str) -> Vec<String> {
    parse(source).expect_err("the text has faults")
}

const WHOLE: &str = r#"
[broker]
socket = "/run/ringmain/broker.sock"
socket_mode = "0600"
socket_group = "root"
allow = ["uid:1000", "gid:root"]
drain = "30s"
body_max = "1GiB"
copied_body_max = "64KiB"
threads = 2
log = "debug"

[limits]
idle = "3s"

[quota]
sessions = 7

[[endpoint]]
name = "local"
base_url = "http://127.0.0.1:18080/v1/"
dialect = "openai"
key_file = "keys/local"
usage = "off"
stored = "shared"
http2 = "prior-knowledge"
connect_timeout = "250ms"
event_max = "1MiB"

[[endpoint]]
name = "other"
base_url = "https://api.example.com/v1"
dialect = "anthropic"
key_env = "OTHER_KEY"

[[route]]
model = "tiny"
endpoints = [{ name = "local" }, { name = "other", model = "tiny-2", weight = 3 }]

[[route]]
model = "nasty-*"
endpoints = [{ name = "other" }]
allow = ["uid:0"]
"#;

#[test]
fn a_whole_file_is_read() {
    let config = parse(WHOLE).unwrap();
    let broker = &config.broker;
    assert_eq!(broker.socket_mode, 0o600);
    assert_eq!(broker.socket_group, Some(0));
    assert_eq!(broker.allow, Some(vec![Identity::Uid(1000), Identity::Gid(0)]));
    assert_eq!(broker.drain, Duration::from_secs(30));
    assert_eq!((broker.body_max, broker.copied_body_max), (1 << 30, 64 << 10));
    assert_eq!(broker.threads, Some(2));
    assert_eq!(
        config.limits,
        ExchangeLimits { idle: Duration::from_secs(3), ..Default::default() }
    );
    assert_eq!(config.quota, Quotas { sessions: 7, ..Quotas::default() });
    let [local, other] = &config.endpoints[..] else { panic!("{:?}", config.endpoints) };
    assert_eq!(local.base_url, "http://127.0.0.1:18080/v1");
    assert_eq!(local.key, KeySource::File("/etc/ringmain/keys/local".into()));
    assert_eq!((local.usage, local.http2), (UsageSplice::Off, Http2::PriorKnowledge));
    assert_eq!(local.rules.limits.connect, Some(Duration::from_millis(250)));
    let event_max = [local, other].map(|endpoint| {
        let mut config = EndpointConfig::new("", "");
        endpoint.pool.apply(&mut config);
        config.event_bytes_max
    });
    assert_eq!(event_max, [1 << 20, 16 << 20]);
    assert_eq!(other.key, KeySource::Env("OTHER_KEY".to_owned()));
    let line = WHOLE.lines().position(|line| line.starts_with("key_env")).map(|at| at + 1);
    assert_eq!((other.usage, Some(other.lines.of("key_env"))), (UsageSplice::Inject, line));
    assert_eq!((local.dialect, other.dialect), (Dialect::OpenAi, Dialect::Anthropic));
    assert_eq!((local.stored, other.stored), (Stored::Shared, Stored::Refused));
    let tiny = &config.routes[0];
    assert_eq!(tiny.targets[1].model.as_deref(), Some("tiny-2"));
    assert_eq!((tiny.targets[0].weight, tiny.targets[1].weight), (1, 3));
    assert_eq!(config.routes[1].allow, Some(vec![Identity::Uid(0)]));
}

#[test]
fn one_endpoint_without_a_route_takes_every_model() {
    let config = parse("[[endpoint]]\nname = \"a\"\nbase_url = \"http://h/v1\"\n").unwrap();
    assert_eq!(config.routes.len(), 1);
    assert_eq!(config.routes[0].model, "*");
    assert_eq!(config.routes[0].targets[0].server, Server::Endpoint("a".to_owned()));
    assert_eq!(config.broker, BrokerSection::default());
}

#[test]
fn sizes_of_bodies_have_bounds_and_the_defaults_of_the_broker() {
    let fault = |line: &str| {
        faults(&format!("[broker]\n{line}\n[[endpoint]]\nname = \"a\"\nbase_url = \"http://h\""))
    };
    assert_eq!(
        fault("body_max = \"2GiB\""),
        ["line 2: broker.body_max: is not between 1KiB and 1GiB"]
    );
    assert!(fault("copied_body_max = \"32\"")[0].contains("is not a size such as"));
    let (section, broker) = (BrokerSection::default(), BrokerConfig::default());
    assert_eq!(section.body_max, broker.body_bytes_max);
    assert_eq!(section.copied_body_max, broker.copied_body_bytes_max);
    assert_eq!((section.drain, section.loan), (broker.drain, broker.loan));
}

#[test]
fn routes_may_lead_to_producers_alone() {
    let text = r#"
[[producer]]
name = "words"
allow = ["uid:4242"]
[[route]]
model = "m"
endpoints = [{ producer = "words", model = "w" }, { producer = "other" }]
"#;
    let config = parse(text).unwrap();
    let allow = Some(vec![Identity::Uid(4242)]);
    assert_eq!(config.producers, [ProducerSection { name: "words".to_owned(), allow }]);
    let targets = &config.routes[0].targets;
    assert_eq!(targets[0].server, Server::Producer("words".to_owned()));
    assert_eq!(targets[0].model.as_deref(), Some("w"));
    let found = faults(
        "[[producer]]\nname = \"a b\"\n[[route]]\nmodel = \"m\"\n\
         endpoints = [{ producer = \"p\", name = \"e\" }]\n",
    );
    assert!(found[0].starts_with("line 2: producer \"a b\".name: "), "{found:?}");
    assert!(found[1].ends_with("stands beside `producer`; keep one of the two"), "{found:?}");
}

#[test]
fn every_fault_is_told_with_its_line_and_key() {
    let found = faults(
        r#"[broker]
sokcet = "/x"
drain = 120
socket_mode = "rw"
[[endpoint]]
name = "local"
base_url = "ftp://h"
key_fil = "x"
stored = "no"
[[route]]
model = "a*b"
endpoints = [{ name = "locl", wieght = 2 }]
[[rout]]
"#,
    );
    assert_eq!(
        found,
        [
            "line 2: broker.sokcet: is not a key that Ringmain knows; did you mean `socket`?",
            "line 3: broker.drain: must be text in quotes, not an integer",
            "line 4: broker.socket_mode: \"rw\" is not a file mode such as \"0660\"",
            "line 7: endpoint \"local\".base_url: begins with \"ftp\", which is neither http, https nor unix",
            "line 8: endpoint \"local\".key_fil: is not a key that Ringmain knows; did you mean `key_file`?",
            "line 9: endpoint \"local\".stored: \"no\" is neither \"refused\" nor \"shared\"",
            "line 11: route \"a*b\".model: \"a*b\" has a `*` that is not its last character",
            "line 12: route \"a*b\".endpoints.name: \"locl\" is not the name of an [[endpoint]]; did you mean `local`?",
            "line 12: route \"a*b\".endpoints.wieght: is not a key that Ringmain knows; did you mean `weight`?",
            "line 13: rout: is not a key that Ringmain knows; did you mean `route`?",
        ]
    );
}

#[test]
fn what_is_missing_is_told_at_its_table() {
    let found = faults("\n[[endpoint]]\n\n[[route]]\n");
    assert_eq!(
        found,
        [
            "line 2: endpoint[1].name: is required and missing",
            "line 2: endpoint[1].base_url: is required and missing",
            "line 4: route[1].model: is required and missing",
            "line 4: route[1].endpoints: is required and missing",
        ]
    );
    assert_eq!(faults(""), ["line 1: endpoint: at least one [[endpoint]] is required"]);
}

#[test]
fn a_text_that_is_not_toml_is_told_with_its_line() {
    let found = faults("[broker]\ndrain = \n[[endpoint]]\nname=\"a\"\nbase_url=\"http://h\"\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("line 2: this is not TOML: "), "{found:?}");
    // What the rest of it seems to say, or not to say, is nobody's fault.
    for text in
        ["what is this\n", "#!/bin/sh\necho hello\n", "[[endpoint]\nname = \"a\"\nkey = 1\n"]
    {
        let found = faults(text);
        assert!(!found.is_empty(), "{text}");
        assert!(found.iter().all(|fault| fault.contains("this is not TOML")), "{found:?}");
    }
}

#[test]
fn names_and_patterns_are_given_once() {
    let found = faults(
        r#"[[endpoint]]
name = "a"
base_url = "http://h"
[[endpoint]]
name = "a"
base_url = "http://u:secret@h"
[[route]]
model = "m"
endpoints = [{ name = "a" }]
[[route]]
model = "m"
endpoints = []
"#,
    );
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].starts_with("line 5: endpoint \"a\".name: is already"));
    assert!(found[1].starts_with("line 6: ") && !found[1].contains("secret"));
    let by_line = |line: &str| found.iter().find(|fault| fault.starts_with(line)).unwrap();
    assert!(by_line("line 11: ").ends_with("route \"m\".model: has a route already"));
    assert!(by_line("line 10: ").contains("endpoints: is empty"));
}

#[test]
fn two_keys_for_one_endpoint_are_a_fault() {
    let found =
        faults("[[endpoint]]\nname=\"a\"\nbase_url=\"http://h\"\nkey_file=\"k\"\nkey_env=\"K\"\n");
    assert_eq!(
        found,
        ["line 5: endpoint \"a\".key_env: stands beside `key_file`; keep one of the two"]
    );
}

#[test]
fn no_text_makes_the_reader_panic() {
    // Every prefix of a whole file, and every file with one byte taken out.
    for at in 0..WHOLE.len() {
        let _ = parse(&WHOLE[..at]);
        let _ = parse(&format!("{}{}", &WHOLE[..at], &WHOLE[at + 1..]));
    }
}
