//! Who may use which model: a caller cannot reach past its route with what it writes into the
//! body.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Broker, Config};
use ringmain_client::{Client, Code};
use ringmain_sim::{Provider, ProviderConfig};

fn ask(client: &Client, route: &str, model: &str) -> Result<serde_json::Value, Code> {
    let body =
        format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"[[sim n=1]]"}}]}}"#);
    let reply = client.request(route, "/chat/completions").body(body.as_bytes()).send();
    reply.map(|reply| serde_json::from_slice(&reply.body).unwrap()).map_err(|error| error.code())
}

#[test]
fn a_guarded_model_cannot_be_named_behind_an_open_route() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let tail = "[[route]]\nmodel = \"secret\"\nendpoints = [{ name = \"local\" }]\n\
                allow = [\"uid:54321\"]\n";
    let broker = Broker::start(provider.addr(), Config { tail: tail.into(), ..Config::default() });
    let client = Client::at(broker.socket()).unwrap();
    assert_eq!(ask(&client, "secret", "secret").unwrap_err(), Code::NotAllowed);
    assert_eq!(provider.log().len(), 0);
    let answer = ask(&client, "tiny", "secret").unwrap();
    assert_eq!(answer["model"], "tiny", "{answer}");
}

#[test]
fn a_guarded_endpoint_takes_no_request_whose_path_chooses_the_model() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let tail = "[[route]]\nmodel = \"secret\"\nendpoints = [{ name = \"local\" }]\n\
                allow = [\"uid:54321\"]\n";
    // Even where callers share what is stored.
    let endpoint = "stored = \"shared\"".into();
    let config = Config { tail: tail.into(), endpoint, ..Config::default() };
    let broker = Broker::start(provider.addr(), config);
    let client = Client::at(broker.socket()).unwrap();
    let request = |path| client.request("tiny", path).body(&b"{}"[..]);
    for (what, refused) in [
        ("POST", request("/deployments/secret/chat/completions").send()),
        ("POST", request("/responses/resp_1/cancel").send()),
        ("GET", request("/models/secret").get().send()),
        ("GET", request("/responses/resp_1").get().send()),
        ("DELETE", request("/models/secret").delete().send()),
    ] {
        let error = refused.expect_err(what);
        assert_eq!(error.code(), Code::NotAllowed, "{what}: {error}");
        assert!(error.to_string().contains("allow list"), "{error}");
    }
    assert_eq!(provider.log().len(), 0);
    let listed = request("/models").get().send().unwrap();
    assert_eq!(listed.head.status, 200);
}

#[test]
fn a_second_spelling_of_the_model_is_refused() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let tail = "[[route]]\nmodel = \"secret\"\nendpoints = [{ name = \"local\" }]\n\
                allow = [\"uid:54321\"]\n";
    let broker = Broker::start(provider.addr(), Config { tail: tail.into(), ..Config::default() });
    let client = Client::at(broker.socket()).unwrap();
    let body = r#"{"model":"tiny","Model":"secret","messages":[]}"#.as_bytes();
    let error = client.request("tiny", "/chat/completions").body(body).send().unwrap_err();
    assert_eq!(error.code(), Code::InvalidRequest, "{error}");
    assert_eq!(provider.log().len(), 0);
}

/// A parser that leaves out what is no text reads the key that is hidden behind it.
#[test]
fn a_guarded_model_cannot_be_named_by_what_is_no_text() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let tail = "[[route]]\nmodel = \"secret\"\nendpoints = [{ name = \"local\" }]\n\
                allow = [\"uid:54321\"]\n";
    let broker = Broker::start(provider.addr(), Config { tail: tail.into(), ..Config::default() });
    let client = Client::at(broker.socket()).unwrap();
    for body in [
        &b"{\"model\":\"tiny\",\"mod\xffel\":\"secret\",\"messages\":[]}"[..],
        b"{\"model\":\"tiny\",\"messages\":[],\"user\":\"\xc3\"}",
        b"{\"model\":\"tiny\",\"mod\\ud800el\":\"secret\",\"messages\":[]}",
    ] {
        let error = client.request("tiny", "/chat/completions").body(body).send().unwrap_err();
        assert_eq!(error.code(), Code::InvalidRequest, "{error}");
    }
    assert_eq!(provider.log().len(), 0);
}

/// Whatever else a server may read for the model: a query, or a body of another form or charset.
#[test]
fn a_guarded_model_cannot_be_named_beside_the_judged_key() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let tail = "[[route]]\nmodel = \"secret\"\nendpoints = [{ name = \"local\" }]\n\
                allow = [\"uid:54321\"]\n";
    let broker = Broker::start(provider.addr(), Config { tail: tail.into(), ..Config::default() });
    let client = Client::at(broker.socket()).unwrap();
    let json = "application/json";
    let plain = r#"{"model":"tiny","messages":[]}"#;
    let form = r#"{"model":"tiny","a":"&model=secret&"}"#;
    let utf7 = r#"{"model":"tiny","+AG0-odel":"secret"}"#;
    let part = "\r\n--X\r\ncontent-disposition: form-data; name=model\r\n\r\nsecret\r\n--X--";
    let parts = format!(r#"{{"model":"tiny","a":"{part}"}}"#);
    for (path, content_type, body) in [
        ("/chat/completions?model=secret", json, plain),
        ("/chat/completions", "multipart/form-data; boundary=X", &parts),
        ("/chat/completions", json, &parts),
        ("/chat/completions", "application/x-www-form-urlencoded", form),
        ("/chat/completions", "application/json; charset=utf-7", utf7),
    ] {
        let request = client.request("tiny", path).content_type(content_type);
        let error = request.body(body.as_bytes()).send().unwrap_err();
        assert_eq!(error.code(), Code::InvalidRequest, "{path} {content_type}: {error}");
    }
    assert_eq!(provider.log().len(), 0);
    let usual = r#"{"model":"tiny","messages":[{"role":"user","content":"[[sim n=1]]"}]}"#;
    let request = client.request("tiny", "/chat/completions?beta=true");
    let request = request.content_type("application/json; charset=utf-8");
    assert_eq!(request.body(usual.as_bytes()).send().unwrap().head.status, 200);
}
