//! Every endpoint of the face; routes, headers, encodings.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::common::Config;
use crate::{World, chat, plain};

#[test]
fn http_a_stream_arrives_as_the_provider_wrote_it() {
    let world = World::start();
    let reply = world.chat("n=50 seed=3");
    assert_eq!((reply.status, reply.is_whole), (200, true));
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let direct = crate::wire::Connection::tcp(world.provider.addr()).post(
        "/v1/chat/completions",
        &[],
        chat("n=50 seed=3").to_string().as_bytes(),
    );
    assert_eq!(reply.body, direct.body);
    assert_eq!(reply.data().last(), Some(&"[DONE]"));
    assert!(reply.header("x-request-id").unwrap().starts_with("req-sim-"));
    assert!(reply.header("x-ringmain-id").unwrap().starts_with("rm-"));
}

#[test]
fn http_plain_answers_have_a_length() {
    let world = World::start();
    let reply = world.post("/v1/chat/completions", &plain("n=3"));
    assert_eq!((reply.status, reply.is_whole), (200, true));
    assert!(reply.header("content-length").is_some(), "{reply:?}");
    assert!(reply.json()["choices"][0]["message"]["content"].is_string());
    let body = json!({"model": "tiny", "prompt": "[[sim n=2]]"});
    assert_eq!(world.post("/v1/completions", &body).json()["object"], "text_completion");
}

#[test]
fn http_embeddings_come_in_both_encodings() {
    let world = World::start();
    let ask = |format: &str| {
        let body = json!({"model": "tiny", "input": ["a", "b"], "encoding_format": format});
        world.post("/v1/embeddings", &body).json()
    };
    assert!(ask("float")["data"][1]["embedding"].is_array());
    assert!(ask("base64")["data"][1]["embedding"].is_string());
}

#[test]
fn http_the_models_are_the_routes() {
    let world = World::with(
        "[[route]]\nmodel = \"other\"\nendpoints = [{ name = \"local\" }]\n\
         [[route]]\nmodel = \"pre-*\"\nendpoints = [{ name = \"local\" }]\n\
         [[route]]\nmodel = \"secret\"\nallow = [\"uid:4242\"]\nendpoints = [{ name = \"local\" }]\n",
    );
    let models = world.get("/v1/models").json();
    let ids: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["tiny", "other"], "no patterns, and nothing of others");
    assert_eq!(world.get("/v1/models/pre-x").json()["id"], "pre-x");
    for name in ["secret", "tinny"] {
        let reply = world.get(&format!("/v1/models/{name}"));
        assert_eq!((reply.status, reply.code().as_str()), (404, "UnknownRoute"), "{name}");
    }
    let refused = world.post("/v1/chat/completions", &json!({"model": "secret"}));
    assert_eq!((refused.status, refused.code().as_str()), (403, "NotAllowed"));
}

#[test]
fn http_a_request_finds_its_route_in_four_ways() {
    let world = World::with(
        "default_route = \"tiny\"\n\
         [[route]]\nmodel = \"named\"\nendpoints = [{ name = \"local\" }]\n",
    );
    let routed = |headers: &[(&str, &str)], body: &[u8]| {
        let seen = world.provider.log().len();
        world.connect().post("/v1/audio/transcriptions", headers, body);
        assert_eq!(world.provider.log().len(), seen + 1);
        // The line is written behind the answer.
        let lines = || -> Vec<String> {
            let log = world.broker.log();
            log.lines().filter(|line| line.contains(" exchange ")).map(str::to_owned).collect()
        };
        crate::common::eventually("the exchange is logged", || lines().len() > seen);
        let line = lines().remove(seen);
        let route = line.split("route=").nth(1).unwrap().split(' ').next().unwrap();
        (route.to_owned(), world.provider.log()[seen].clone())
    };
    assert_eq!(routed(&[("x-ringmain-route", "named")], b"not JSON").0, "named");
    assert_eq!(routed(&[], br#"{"model":"named"}"#).0, "named");
    assert_eq!(routed(&[], b"{}").0, "tiny");
    let form = "--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nnamed\r\n--B--\r\n";
    let kind = "multipart/form-data; boundary=B";
    let (route, seen) = routed(&[("content-type", kind)], form.as_bytes());
    assert_eq!((route.as_str(), seen.header("content-type")), ("named", Some(kind)));
    assert_eq!(
        (seen.path.as_str(), seen.body_bytes),
        ("/v1/audio/transcriptions", form.len() as u64)
    );
}

#[test]
fn http_without_a_route_the_way_to_name_one_is_told() {
    let world = World::start();
    let reply = world.post("/v1/audio/speech", &json!({"input": "hello"}));
    assert_eq!((reply.status, reply.code().as_str()), (400, "InvalidRequest"));
    assert!(reply.text().contains("x-ringmain-route"), "{}", reply.text());
}

/// What a provider stores belongs to the account that all callers share.
#[test]
fn http_stored_objects_are_refused_with_a_reason() {
    let of = |lines: &str, endpoint: &str| {
        let config = Config { endpoint: endpoint.to_owned(), ..Config::default() };
        World::of(lines, config, ringmain_sim::ProviderConfig::default())
    };
    let ask = |world: &World, path: &str, headers: &[(&str, &str)]| {
        // As the libraries send it: without a body.
        world.connect().post(path, headers, b"")
    };
    let world = of("", "");
    let named = [("x-ringmain-route", "tiny")];
    for path in [
        "/v1/responses/resp_1/cancel",
        "/v1/threads",
        "/v1/threads/t_1/runs",
        "/v1/batches",
        "/v1/batches/b_1/cancel",
        "/v1/files",
        "/v1/messages/batches",
    ] {
        let reply = ask(&world, path, &[]);
        assert_eq!((reply.status, reply.code().as_str()), (400, "InvalidRequest"), "{path}");
        assert!(reply.text().contains("x-ringmain-route"), "{path}: {}", reply.text());
        let reply = ask(&world, path, &named);
        assert_eq!((reply.status, reply.code().as_str()), (403, "NotAllowed"), "{path}");
        assert!(reply.text().contains("stored"), "{path}: {}", reply.text());
    }
    let gone = |method: &str, path: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let reply = world.connect().ask(&head);
        assert_eq!((reply.status, reply.code().as_str()), (405, "InvalidRequest"), "{path}");
        assert!(reply.text().contains("not shown to its callers"), "{}", reply.text());
    };
    gone("GET", "/v1/responses/resp_1");
    gone("DELETE", "/v1/responses/resp_1");
    gone("GET", "/v1/files");
    gone("DELETE", "/v1/models/tiny");
    assert!(world.provider.log().is_empty());
    // Where the operator says that callers share it, it is passed on.
    let shared = of("default_route = \"tiny\"\n", "stored = \"shared\"");
    for headers in [&[][..], &named] {
        ask(&shared, "/v1/responses/resp_1/cancel", headers);
    }
    let paths: Vec<String> = shared.provider.log().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/v1/responses/resp_1/cancel"; 2]);
}

/// The bare parts of an answer are its own: one choice of two may never come.
#[test]
fn http_a_choice_that_never_appears_leaves_the_others_whole() {
    let event = |choice: &str| format!("data: {{\"choices\":[{choice}]}}\n\n");
    let stream = [
        event(r#"{"index":0,"delta":{"content":"a"}}"#),
        event(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#),
    ];
    for end in ["data: [DONE]\n\n", ""] {
        let body = format!("{}{end}", stream.concat());
        let answer = crate::canned::answer(200, "text/event-stream", body.as_bytes());
        let addr = crate::canned::provider(move |_| answer.clone());
        let tail = format!(
            "[[endpoint]]\nname = \"canned\"\nbase_url = \"http://{addr}/v1\"\n\
             [[route]]\nmodel = \"canned\"\nendpoints = [{{ name = \"canned\" }}]\n"
        );
        let config = Config { tail, ..Config::default() };
        let world = World::of("", config, ringmain_sim::ProviderConfig::default());
        let asked = json!({"model": "canned", "stream": true, "n": 2, "messages": []});
        let reply = world.post("/v1/chat/completions", &asked);
        assert_eq!((reply.status, reply.is_whole, reply.text()), (200, true, body.as_str()));
    }
}

#[test]
fn http_unknown_fields_survive_and_credentials_do_not() {
    let config = crate::common::Config {
        endpoint: "usage = \"off\"".to_owned(),
        ..crate::common::Config::default()
    };
    let world = World::of("", config, ringmain_sim::ProviderConfig::default());
    let body = r#"{ "x-new":[1, 2.50],"model":"tiny" ,"messages":[]}"#;
    let headers = [
        ("authorization", "Bearer sk-caller"),
        ("x-api-key", "sk-caller"),
        ("cookie", "a=b"),
        ("openai-organization", "org"),
        ("openai-beta", "assistants=v2"),
        ("x-stainless-lang", "python"),
        ("idempotency-key", "once"),
    ];
    world.connect().post("/v1/chat/completions?x=1", &headers, body.as_bytes());
    let seen = world.provider.log().remove(0);
    assert_eq!(seen.body_hash, ringmain_sim::text::hash_whole(body.as_bytes()));
    assert!(!seen.authorization && seen.path == "/v1/chat/completions?x=1", "{seen:?}");
    for name in ["x-api-key", "cookie", "openai-organization", "x-stainless-lang"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("openai-beta"), Some("assistants=v2"));
    assert_eq!(seen.header("idempotency-key"), Some("once"));
}

#[test]
fn http_compressed_bodies_are_expanded_within_the_bound() {
    let world = World::with("body_max = \"64KiB\"\n");
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let post = |encoding: &str, body: &[u8]| {
        let headers = [("content-encoding", encoding)];
        world.connect().post("/v1/chat/completions", &headers, body)
    };
    let body = plain("n=2").to_string();
    assert_eq!(post("gzip", &gzip(body.as_bytes())).status, 200);
    let packed = zstd::encode_all(body.as_bytes(), 1).unwrap();
    assert_eq!(post("zstd", &packed).status, 200);
    assert_eq!(post("br", body.as_bytes()).status, 415);
    assert_eq!(post("gzip", body.as_bytes()).status, 400);
    let bomb = post("gzip", &gzip(&vec![b' '; 10 << 20]));
    assert_eq!((bomb.status, bomb.code().as_str()), (413, "BodyTooLarge"));
    assert_eq!(world.provider.log().len(), 2);
}

/// What a body expands to is charged while it does, before the memory is taken.
#[test]
fn http_what_expands_is_charged_for() {
    let tail = "[quota]\ncopy_bytes = 1048576\n".to_owned();
    let config = Config { tail, ..Config::default() };
    let world = World::of("", config, ringmain_sim::ProviderConfig::default());
    let packed = zstd::encode_all(&vec![b' '; 20 << 20][..], 1).unwrap();
    let headers = [("content-encoding", "zstd")];
    let reply = world.connect().post("/v1/chat/completions", &headers, &packed);
    assert_eq!((reply.status, reply.code().as_str()), (429, "QuotaExceeded"));
    let body = json!({"model": "tiny", "x": "y".repeat(300_000)}).to_string();
    let packed = zstd::encode_all(body.as_bytes(), 1).unwrap();
    for _ in 0..4 {
        let reply = world.connect().post("/v1/chat/completions", &headers, &packed);
        assert_ne!((reply.status, reply.code().as_str()), (429, "QuotaExceeded"));
    }
}

#[test]
fn http_health_and_metrics_are_there() {
    let world = World::start();
    assert_eq!(world.get("/healthz").status, 200);
    assert_eq!(world.get("/readyz").status, 200);
    world.chat("n=1");
    let page = world.get("/metrics");
    assert!(page.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    assert!(page.text().contains("ringmain_exchanges_total 1\n"), "{}", page.text());
    assert!(
        page.text().contains("gen_ai_client_token_usage_sum{gen_ai_token_type=\"output\"} 1\n")
    );
    assert!(page.text().contains("gen_ai_server_request_duration_seconds_count 1\n"));
    assert!(page.text().contains("ringmain_endpoint_requests_total{endpoint=\"local\"} 1\n"));
}

#[test]
fn http_the_unix_socket_serves_the_same() {
    let world = World::start();
    let body = plain("n=1").to_string();
    let mut connection = crate::wire::Connection::unix(&world.socket);
    let headers = [("host", "anything.example")];
    let reply = connection.post("/v1/chat/completions", &headers, body.as_bytes());
    assert_eq!(reply.status, 200);
    let uid = nix::unistd::getuid();
    world.broker.await_log(&format!("uid={uid}"));
}

#[test]
fn http_cjk_and_emoji_arrive_whole() {
    let world = World::start();
    let text = "日本語 한국어 中文 👩‍👩‍👧‍👦 é";
    let body = json!({"model": "tiny", "messages": [{"role": "user", "content": text}]});
    world.post("/v1/chat/completions", &body);
    let sent = body.to_string();
    assert_eq!(world.provider.log()[0].body_bytes, sent.len() as u64);
    let models: Value = world.get("/v1/models").json();
    assert_eq!(models["object"], "list");
}
