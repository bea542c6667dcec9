//! Errors before and after the head, in the caller's own shape.

use serde_json::{Value, json};

use crate::common::Config;
use crate::{World, chat, plain};

#[test]
fn http_a_provider_s_refusal_passes_as_it_is() {
    let world = World::start();
    let reply = world.chat("status=422");
    assert_eq!((reply.status, reply.is_whole), (422, true));
    assert!(reply.text().contains("the simulated provider answers 422"), "{}", reply.text());
    let limited = world.chat("status=429 retry_after=200");
    assert_eq!((limited.status, limited.header("retry-after")), (429, Some("200")));
}

/// What a caller's library reads of an answer's head, it reads here.
#[test]
fn http_limits_of_the_provider_are_passed_on() {
    const TOLD: [(&str, &str); 8] = [
        ("x-ratelimit-limit-requests", "5000"),
        ("x-ratelimit-remaining-tokens", "159972"),
        ("x-ratelimit-reset-tokens", "6m0s"),
        ("anthropic-ratelimit-requests-remaining", "49"),
        ("anthropic-ratelimit-tokens-reset", "2026-01-01T00:00:00Z"),
        ("retry-after-ms", "1500.5"),
        ("retry-after", "130"),
        ("x-request-id", "req_1"),
    ];
    let fields: String = TOLD.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    for status in [200, 429] {
        let answer = crate::canned::answer(status, "application/json", b"{\"a\": 1}");
        let answer = String::from_utf8(answer).unwrap();
        let answer = answer.replacen("\r\n", &format!("\r\n{fields}set-cookie: a=b\r\n"), 1);
        let addr = crate::canned::provider(move |_| answer.clone().into_bytes());
        let tail = format!(
            "[retry]\nattempts = 1\n[[endpoint]]\nname = \"canned\"\n\
             base_url = \"http://{addr}/v1\"\n\
             [[route]]\nmodel = \"canned\"\nendpoints = [{{ name = \"canned\" }}]\n"
        );
        let config = Config { tail, ..Config::default() };
        let world = World::of("", config, ringmain_sim::ProviderConfig::default());
        let reply = world.post("/v1/embeddings", &json!({"model": "canned", "input": "a"}));
        assert_eq!((u64::from(reply.status), reply.text()), (status, "{\"a\": 1}"));
        for (name, value) in TOLD {
            assert_eq!(reply.header(name), Some(value), "{status}: {name}");
        }
        assert_eq!(reply.header("set-cookie"), None);
    }
}

/// Retries of the broker and of its caller's library would multiply.
#[test]
fn http_what_was_tried_again_is_not_to_be_tried_again() {
    let world = World::start();
    let reply = world.chat("status=503");
    let attempts = world.provider.log().len();
    assert_eq!(reply.status, 503);
    assert!(attempts > 1, "{attempts} attempts");
    assert_eq!(reply.header("x-should-retry"), Some("false"));
}

#[test]
fn http_errors_of_the_broker_have_the_shape_of_the_api() {
    let world = World::start();
    let unknown = world.post("/v1/chat/completions", &json!({"model": "tinny"}));
    let error = &unknown.json()["error"];
    assert_eq!((unknown.status, error["code"].as_str()), (404, Some("UnknownRoute")));
    assert_eq!((&error["type"], &error["param"]), (&json!("invalid_request_error"), &Value::Null));
    assert!(error["message"].as_str().unwrap().contains("nearest of 1 is \"tiny\""));
    let id = unknown.header("x-request-id").unwrap().to_owned();
    assert!(error["message"].as_str().unwrap().ends_with(&format!("({id})")));
    let object = world.post("/v1/messages", &json!({"model": "tinny"})).json();
    assert_eq!(
        (&object["type"], &object["error"]["code"]),
        (&json!("error"), &json!("UnknownRoute"))
    );
    assert_eq!(object["error"]["type"], "not_found_error");
    for (path, status) in [("/v2/x", 404), ("/", 404), ("/v1/chat/completions", 405)] {
        assert_eq!(world.get(path).status, status, "{path}");
    }
    for path in ["/v1/a%2e%2e", "/v1/a//b", "/v1/%2fadmin"] {
        let headers = [("x-ringmain-route", "tiny")];
        let reply = world.connect().post(path, &headers, b"{}");
        assert_eq!((reply.status, reply.code().as_str()), (400, "InvalidHead"), "{path}");
    }
}

/// After status 200 an error is an event, and then the framing stays open: never a clean end.
#[test]
fn http_a_stream_that_breaks_ends_with_an_error_and_without_an_end() {
    let world = World::start();
    for (fault, code) in [("close_early", "UpstreamReset"), ("no_done", "UpstreamTruncated")] {
        let fault_at = if fault == "no_done" { "" } else { " at=2" };
        let reply = world.chat(&format!("n=5 gap_us=1000 fault={fault}{fault_at}"));
        if fault == "no_done" && reply.is_whole {
            // A finish reason and a framed end are a good end too.
            continue;
        }
        assert_eq!((reply.status, reply.is_whole), (200, false), "{fault}");
        let last: Value = serde_json::from_str(reply.data().last().unwrap()).unwrap();
        let told = last["error"]["code"].as_str().unwrap();
        assert!(told == code || told == "UpstreamTruncated", "{fault}: {last}");
        assert!(reply.text().ends_with("\n\n") && !reply.text().contains("[DONE]"), "{fault}");
    }
}

/// The end of the connection is a good end of such an answer, so this one has another end.
#[test]
fn http_a_broken_answer_to_http_1_0_is_a_reset() {
    let world = World::start();
    let ask = |script: &str| {
        let body = chat(script).to_string();
        let mut connection = world.connect();
        connection.send(
            format!(
                "POST /v1/chat/completions HTTP/1.0\r\nhost: localhost\r\ncontent-length: {}\r\n\
                 content-type: application/json\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        assert_eq!(connection.head().status, 200);
        connection.rest_and_end()
    };
    let (rest, ended_well) = ask("n=5 gap_us=1000");
    assert!(ended_well && String::from_utf8(rest).unwrap().ends_with("[DONE]\n\n"));
    let (rest, ended_well) = ask("n=5 gap_us=1000 fault=close_early at=2");
    assert!(!ended_well && String::from_utf8(rest).unwrap().contains("\"error\""));
}

/// Over a Unix socket there is no reset, so what has no end of its own goes out with a length.
#[test]
fn http_a_plain_answer_to_http_1_0_has_a_length_or_is_an_error() {
    const LARGE: usize = 300_000;
    let canned = |cut: usize| {
        let text = format!("{{\"x\":\"{}\"}}", "y".repeat(LARGE));
        let mut answer = crate::canned::answer(200, "application/json", text.as_bytes());
        answer.truncate(answer.len() - cut);
        crate::canned::provider(move |_| answer.clone())
    };
    let config = |cut: usize, kind: &str| {
        let addr = canned(cut);
        let tail = format!(
            "[quota]\n{kind}\n[[endpoint]]\nname = \"canned\"\nbase_url = \"http://{addr}/v1\"\n\
             [[route]]\nmodel = \"canned\"\nendpoints = [{{ name = \"canned\" }}]\n"
        );
        Config { tail, ..Config::default() }
    };
    let ask = |lines: &str, config: Config| {
        let world = World::of(lines, config, ringmain_sim::ProviderConfig::default());
        let body = json!({"model": "canned", "messages": []}).to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let head = head.replacen("\r\n", "\r\nhost: localhost\r\n", 1);
        let unix = crate::wire::Connection::unix(&world.socket).ask(&head);
        let tcp = world.connect().ask(&head);
        assert_eq!((unix.status, unix.is_whole), (tcp.status, tcp.is_whole));
        assert!(unix.header("content-length").is_some(), "{unix:?}");
        world.await_rest();
        unix
    };
    let whole = ask("", config(0, ""));
    assert_eq!((whole.status, whole.is_whole, whole.body.len()), (200, true, LARGE + 8));
    let broken = ask("", config(5, ""));
    assert_eq!((broken.status, broken.is_whole), (502, true), "{broken:?}");
    let bounded = ask("body_max = \"128KiB\"\n", config(0, ""));
    assert_eq!((bounded.status, bounded.code().as_str()), (502, "UpstreamTooLarge"));
    let charged = ask("", config(0, "copy_bytes = 100000"));
    assert_eq!((charged.status, charged.code().as_str()), (429, "QuotaExceeded"));
}

#[test]
fn http_every_response_has_an_id() {
    let world = World::start();
    for path in ["/healthz", "/metrics", "/v1/models", "/v1/models/nope", "/nope"] {
        assert!(world.get(path).header("x-request-id").is_some(), "{path}");
    }
    let unknown = world.post("/v1/messages", &json!({"model": "tinny"}));
    assert_eq!(unknown.header("request-id"), unknown.header("x-request-id"));
    assert!(world.chat("n=1").header("x-request-id").is_some());
}

#[test]
fn http_an_event_that_was_cut_off_does_not_swallow_the_error() {
    let world = World::start();
    let reply = world.chat("n=5 gap_us=1000 fault=half_event at=2");
    assert!(!reply.is_whole, "{reply:?}");
    let last: Value = serde_json::from_str(reply.data().last().unwrap()).unwrap();
    assert!(last["error"]["code"].is_string(), "{last}");
}

#[test]
fn http_an_error_event_of_the_provider_is_told_once() {
    let world = World::start();
    let reply = world.chat("n=5 gap_us=1000 fault=error_event at=2");
    assert_eq!((reply.status, reply.is_whole), (200, false));
    let errors = reply.data().iter().filter(|data| data.contains("\"error\"")).count();
    assert_eq!(errors, 1, "{}", reply.text());
}

/// What stock clients take for the end of an empty answer is an error here.
#[test]
fn http_what_is_no_answer_is_an_error_status() {
    let config = Config { tail: "[retry]\nattempts = 1\n".to_owned(), ..Config::default() };
    let world = World::of("", config, ringmain_sim::ProviderConfig::default());
    for fault in ["empty", "not_sse"] {
        let reply = world.chat(&format!("n=3 fault={fault}"));
        assert_eq!((reply.status, reply.code().as_str()), (502, "UpstreamProtocol"), "{fault}");
    }
    let reply = world.chat("n=3 fault=reset at=0");
    assert_eq!(reply.status, 502, "{}", reply.text());
}

#[test]
fn http_a_plain_answer_that_breaks_is_an_error_status() {
    let world = World::start();
    let body = plain("n=500 fault=close_early");
    let reply = world.post("/v1/chat/completions", &body);
    assert_eq!(reply.status, 502, "{reply:?}");
    assert_eq!(reply.json()["error"]["type"], "server_error");
}

/// Comments show that a silent stream lives: between events, without a blank line of their own.
#[test]
fn http_heartbeats_stand_between_events() {
    let world = World::with("heartbeat = \"50ms\"\n");
    let reply = world.chat("n=3 gap_us=400000 seed=1");
    let beats = reply.text().matches(": x\n").count();
    assert!(beats >= 2, "{beats} in {}", reply.text());
    let without = reply.text().replace(": x\n", "");
    let direct = crate::wire::Connection::tcp(world.provider.addr()).post(
        "/v1/chat/completions",
        &[],
        chat("n=3 seed=1").to_string().as_bytes(),
    );
    assert_eq!(without, direct.text());
    let quiet = World::with("heartbeat = \"0s\"\n").chat("n=3 gap_us=100000");
    assert!(!quiet.text().contains(": x"));
}
