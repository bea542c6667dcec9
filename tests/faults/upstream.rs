//! What providers do wrong, in each of the three modes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use ringmain_client::{Code, Mode, Request, Sent, Stage};
use ringmain_sim::{Fault, Provider, ProviderConfig};

use crate::common::{Broker, Config as BrokerFile, peer};
use crate::{ask, ask_for, client, world, world_with};

const MODES: [Mode; 3] = [Mode::Deltas, Mode::Events, Mode::Body];

/// What each fault may be told as, and what of its answer arrives before.
#[test]
fn answers_that_break_end_in_their_error() {
    let endpoint = "event_max = \"1MiB\"".to_owned();
    let (provider, broker) = world_with(BrokerFile { endpoint, ..BrokerFile::default() });
    let client = client(&broker);
    let broken = &[Code::UpstreamTruncated, Code::UpstreamReset][..];
    for (fault, codes) in [
        (Fault::CloseEarly, broken),
        (Fault::Reset, broken),
        (Fault::NoDone, &[Code::UpstreamTruncated]),
        (Fault::ErrorEvent, &[Code::UpstreamError]),
        (Fault::BigEvent, &[Code::UpstreamTooLarge]),
    ] {
        for mode in MODES {
            let got = ask(&client, mode, &format!("n=8 at=3 fault={fault}"));
            let error = got.error.as_ref();
            let what = format!("{fault}, {mode:?}");
            let error = error.unwrap_or_else(|| panic!("{what}: a good end"));
            assert!(codes.contains(&error.code()), "{what}: {error}");
            assert_eq!((error.stage(), error.sent()), (Stage::Relay, Sent::Yes), "{what}: {error}");
            assert_eq!(error.bytes(), got.content.len() as u64, "{what}: bytes delivered");
            assert!(error.bytes() > 0, "{what}: the prefix arrives");
        }
    }
    assert!(provider.log().iter().all(|record| record.status == Some(200)));
    assert!(ask(&client, Mode::Deltas, "n=3").error.is_none(), "and nothing is left of it");
}

#[test]
fn answers_that_are_no_stream_of_events() {
    let (_provider, broker) = world();
    let client = client(&broker);
    for fault in [Fault::NotSse, Fault::Empty] {
        let got = ask(&client, Mode::Deltas, &format!("n=8 fault={fault}"));
        let error = got.error.unwrap();
        let codes = [Code::UpstreamProtocol, Code::UpstreamTruncated];
        assert!(codes.contains(&error.code()), "{fault}: {error}");
        assert!(got.content.is_empty());
    }
    // Whoever asks for bytes gets them, whatever they are.
    let got = ask(&client, Mode::Body, "n=8 fault=not_sse");
    assert!(got.error.is_none(), "{:?}", got.error);
    assert_eq!(got.status, 200);
    assert!(String::from_utf8_lossy(&got.content).contains("<html"), "{got:?}");
}

#[test]
fn answers_with_an_error_status() {
    // As it is passed on in the end: what is tried again before has tests of its own.
    let tail = "[retry]\nattempts = 1\n".to_owned();
    let (provider, broker) = world_with(BrokerFile { tail, ..BrokerFile::default() });
    let client = client(&broker);
    for status in [400, 401, 404, 429, 500, 503] {
        let script = format!("status={status} retry_after_ms=1500");
        let got = ask(&client, Mode::Deltas, &script);
        let error = got.error.unwrap();
        assert_eq!((error.code(), error.http_status()), (Code::UpstreamStatus, Some(status)));
        assert_eq!(error.sent(), Sent::Yes);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)), "{error}");
        assert!(!error.provider_code().is_empty(), "{error:?}");
        assert_eq!(error.is_retryable(), matches!(status, 429 | 500 | 503), "{error}");
        for mode in [Mode::Events, Mode::Body] {
            let got = ask(&client, mode, &script);
            assert!(got.error.is_none(), "{mode:?} {status}: {:?}", got.error);
            assert_eq!(got.status, status);
            let body: serde_json::Value = serde_json::from_slice(&got.content).unwrap();
            assert!(body["error"]["message"].is_string(), "{body}");
        }
    }
    assert_eq!(provider.log().len(), 18, "each was tried once");
}

#[test]
fn upstream_that_refuses_connections() {
    let nobody = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    };
    let broker = Broker::start(nobody, BrokerFile::default());
    let client = client(&broker);
    for mode in MODES {
        let error = ask(&client, mode, "n=1").error.unwrap();
        assert_eq!(error.code(), Code::UpstreamConnect, "{mode:?}: {error}");
        assert_eq!((error.stage(), error.sent()), (Stage::Connect, Sent::No), "{error}");
        assert!(error.is_retryable() && error.message().contains("local"), "{error}");
    }
}

#[test]
fn upstream_that_stalls_meets_the_limit_of_its_stage() {
    let (provider, broker) = world_with(BrokerFile {
        tail: "[limits]\nhead = \"150ms\"\nfirst_content = \"150ms\"\nidle = \"150ms\"\n\
               write = \"150ms\"\n"
            .into(),
        ..BrokerFile::default()
    });
    let client = client(&broker);
    for (script, code, stage) in [
        ("n=8 fault=refuse_head", Code::HeadTimeout, Stage::AwaitHead),
        ("n=8 ttft_us=60000000", Code::FirstContentTimeout, Stage::AwaitContent),
        ("n=8 at=3 fault=stall", Code::IdleTimeout, Stage::Relay),
    ] {
        let got = ask(&client, Mode::Deltas, script);
        let error = got.error.unwrap();
        assert_eq!((error.code(), error.stage()), (code, stage), "{script}: {error}");
        assert_eq!(got.content.is_empty(), stage != Stage::Relay, "{script}");
    }
    // The deadline of the caller comes before any of them when it is nearer.
    for mode in MODES {
        let request = Request::new("tiny", "/chat/completions").mode(mode);
        let request = request.deadline(Duration::from_millis(60));
        let error = ask_for(&client, &request, "n=8 at=3 fault=stall").error.unwrap();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{mode:?}: {error}");
    }
    crate::common::eventually("the provider is let go of each", || {
        provider.log().iter().all(|record| record.client_gone_ns().is_some())
    });
}

#[test]
fn upstream_that_takes_no_request() {
    // It accepts and never reads: the buffers of the connection take some of the body.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    let broker = Broker::start(
        addr,
        BrokerFile { tail: "[limits]\nwrite = \"200ms\"\n".into(), ..BrokerFile::default() },
    );
    let client = client(&broker);
    let body = peer::chat(&"x".repeat(15 << 20));
    let request = Request::new("tiny", "/chat/completions").mode(Mode::Deltas).usage_requested();
    let mut stream = client.submit(&request, body.as_bytes()).unwrap();
    let error = stream.next().map(|_| ()).unwrap_err();
    assert_eq!((error.code(), error.stage()), (Code::WriteTimeout, Stage::Send), "{error}");
    assert_eq!(error.sent(), Sent::Maybe);
    drop(stream);
    // The lent memory is back once the connection is gone: the whole arena can be used again.
    let mut stream = client.submit(&request, body.as_bytes()).unwrap();
    assert_eq!(stream.next().map(|_| ()).unwrap_err().code(), Code::WriteTimeout);
}

#[test]
fn upstream_that_refuses_what_the_broker_asks_for_is_asked_twice_and_it_counts() {
    let refusal = r#"{"error":{"message":"stream_options is unknown"}}"#;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let broker = Broker::start(listener.local_addr().unwrap(), BrokerFile::default());
    let provider = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).unwrap();
                assert!(read > 0, "the request ended early");
                request.extend_from_slice(&bytes[..read]);
            }
            let length = refusal.len();
            let head = format!("HTTP/1.1 400 X\r\nconnection: close\r\ncontent-length: {length}");
            write!(stream, "{head}\r\n\r\n{refusal}").unwrap();
        }
    });
    let request = Request::new("tiny", "/chat/completions").mode(Mode::Deltas);
    let client = client(&broker);
    let mut stream = client.submit(&request, peer::chat("x").as_bytes()).unwrap();
    let error = stream.next().map(|_| ()).unwrap_err();
    assert_eq!(error.code(), Code::UpstreamStatus, "{error}");
    broker.await_log("attempts=2");
    provider.join().unwrap();
}

#[test]
fn upstream_that_says_it_is_an_error_keeps_its_words() {
    let (_provider, broker) = world();
    let error = ask(&client(&broker), Mode::Deltas, "n=8 at=2 fault=error_event").error.unwrap();
    assert_eq!(error.code(), Code::UpstreamError);
    assert!(error.message().contains("overloaded"), "{error}");
}

/// HTTP/2: a stream that breaks takes no other stream of its connection with it.
#[test]
fn upstream_streams_break_alone() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let broker = Broker::start(
        provider.addr(),
        BrokerFile { endpoint: "http2 = \"prior-knowledge\"".into(), ..BrokerFile::default() },
    );
    let client = client(&broker);
    let whole: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || ask(&client, Mode::Deltas, "n=200 gap_us=1000"))
        })
        .collect();
    for _ in 0..10 {
        let error = ask(&client, Mode::Deltas, "n=8 at=3 fault=close_early").error.unwrap();
        let codes = [Code::UpstreamReset, Code::UpstreamTruncated];
        assert!(codes.contains(&error.code()), "{error}");
    }
    for stream in whole {
        let got = stream.join().unwrap();
        assert!(got.error.is_none() && !got.content.is_empty(), "{:?}", got.error);
    }
    let log = provider.log();
    assert!(log.iter().all(|record| record.http == "2"), "{:?}", log[0].http);
    let connections: std::collections::BTreeSet<_> = log.iter().map(|r| r.connection).collect();
    assert_eq!(connections.len(), 1, "no connection was given up");
}
