//! Faults that stand below what a client library shows: TLS, rules, and a table without a gap.
// The lint's excuse for tests covers test functions; the helpers here are as much a test.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::{Certificate, Client};
use ringmain_sim::fault::{Place, Versions};
use ringmain_sim::{Fault, Provider, ProviderConfig, Script};
use serde_json::json;

fn body(script: &Script) -> String {
    let messages = json!([{ "role": "user", "content": script.to_string() }]);
    json!({ "model": "tiny", "stream": true, "messages": messages }).to_string()
}

/// What the provider sends for this script over a bare connection, until it closes it.
fn raw(provider: &Provider, script: &Script) -> String {
    let body = body(script);
    let mut stream = TcpStream::connect(provider.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let length = body.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    write!(stream, "{head}content-length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn framing_is_byte_for_byte() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let answer = |fault| raw(&provider, &Script::tokens(3).with_fault(fault));
    let twice = answer(Fault::LengthTwice);
    assert_eq!(twice.matches("content-length: ").count(), 2, "{twice}");
    assert!(answer(Fault::BadStatusLine).starts_with("HTTP/1.1 OK fine\r\n"));
    assert!(answer(Fault::Http10).starts_with("HTTP/1.0 200 OK\r\n"));
    assert!(answer(Fault::EarlyHints).starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 "));
    let unended = answer(Fault::ChunkUnended);
    assert!(unended.ends_with("data: [DONE]\n\n\r\n"), "{unended}");
    for fault in [Fault::LengthTwice, Fault::EarlyHints, Fault::ChunkUnended] {
        let heads = answer(fault).matches("HTTP/1.1 200").count();
        assert_eq!(heads, 1, "{fault}: the head of the server library is left out");
    }
}

#[test]
fn faults_of_connections_are_refused_in_prompts() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    for row in Fault::ROWS.iter().filter(|row| row.place == Place::Connection) {
        let answer = raw(&provider, &Script::tokens(1).with_fault(row.fault));
        assert!(answer.starts_with("HTTP/1.1 400"), "{}: {answer}", row.name);
    }
    for row in Fault::ROWS.iter().filter(|row| row.versions == Versions::Two) {
        let answer = raw(&provider, &Script::tokens(1).with_fault(row.fault));
        assert!(answer.starts_with("HTTP/1.1 400"), "{}: {answer}", row.name);
    }
    let wrong = ProviderConfig { connections: Some(Fault::Stall), ..ProviderConfig::default() };
    assert!(Provider::start(wrong).is_err());
}

#[test]
fn rules_stand_over_prompts() {
    let rules = "2 status=503\nconnection 4 fault=accept_close\n".parse().unwrap();
    let provider = Provider::start(ProviderConfig { rules, ..ProviderConfig::default() }).unwrap();
    let script = Script::tokens(2);
    assert!(raw(&provider, &script).starts_with("HTTP/1.1 200"));
    assert!(raw(&provider, &script).starts_with("HTTP/1.1 503"));
    assert!(raw(&provider, &script).starts_with("HTTP/1.1 200"));
    assert_eq!(raw(&provider, &script), "");
}

#[test]
fn a_transient_fault_is_met_once() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let script = Script::tokens(2).with_fault(Fault::UnavailableThenFine);
    let (one, other) = (script.clone().with_id("one"), script.with_id("other"));
    for (script, status) in [(&one, 503), (&other, 503), (&one, 200), (&other, 200)] {
        let answer = raw(&provider, script);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    assert_eq!(provider.log()[2].fault(), None, "what was answered is what is logged");
}

#[tokio::test]
async fn tls_is_trusted_by_those_who_trust_its_authority() {
    let start = |connections| {
        let config = ProviderConfig { tls: true, connections, ..ProviderConfig::default() };
        Provider::start(config).unwrap()
    };
    let ask = async |provider: &Provider| {
        let ca = Certificate::from_pem(provider.ca_pem().unwrap().as_bytes()).unwrap();
        let client = Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
        let url = format!("{}/chat/completions", provider.base_url());
        let answer = client.post(url).body(body(&Script::tokens(3))).send().await?;
        let version = answer.version();
        answer.text().await.map(|text| (version, text))
    };
    let (version, text) = ask(&start(None)).await.unwrap();
    assert_eq!(version, http::Version::HTTP_2);
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let (version, _) = ask(&start(Some(Fault::TlsNoAlpn))).await.unwrap();
    assert_eq!(version, http::Version::HTTP_11);
    for fault in [Fault::TlsExpired, Fault::TlsForeign, Fault::TlsWrongName, Fault::TlsPlain] {
        let error = ask(&start(Some(fault))).await.unwrap_err();
        assert!(error.is_connect(), "{fault}: {error:?}");
    }
}
