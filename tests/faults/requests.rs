//! What callers do wrong.

use std::thread;
use std::time::{Duration, Instant};

use ringmain_broker::BrokerConfig;
use ringmain_client::{Client, Code, Config, Item, Mode, Request, Sent, Session};
use ringmain_sim::contract::End;
use ringmain_sim::hostile::Hostile;
use ringmain_sim::{Provider, ProviderConfig, Script};
use ringmain_upstream::EndpointConfig;
use ringmain_wire::RequestHead;

use crate::common::in_process::InProcess;
use crate::common::record::{Plan, assert_kept, history};
use crate::common::{Broker, Config as BrokerFile, WATCHDOG, peer, proc, wait_until};
use crate::{ask, ask_for, client, world};

#[test]
fn unknown_routes_are_refused_by_name() {
    let (provider, broker) = world();
    let client = client(&broker);
    let got = ask_for(&client, &Request::new("tyny", "/chat/completions"), "n=1");
    let error = got.error.unwrap();
    assert_eq!((error.code(), error.sent()), (Code::UnknownRoute, Sent::No), "{error}");
    assert!(error.message().contains("tyny"), "{error}");
    assert_eq!(provider.log().len(), 0);
    // The session goes on.
    assert!(ask(&client, Mode::Deltas, "n=1").error.is_none());
}

#[test]
fn bodies_over_the_arena_are_refused_with_the_limit() {
    let (provider, broker) = world();
    let mut session = Session::attach(Config::at(broker.socket())).unwrap();
    let limit = session.body_bytes_max().unwrap();
    let request = Request::new("tiny", "/chat/completions");
    let body = vec![b' '; usize::try_from(limit).unwrap() + 1];
    let error = session.submit(&request, &body[..]).unwrap_err();
    assert_eq!(error.code(), Code::BodyTooLarge, "{error}");
    let limit = error.limit().unwrap();
    assert!(error.message().contains(&limit.to_string()), "{error}");
    assert_eq!(provider.log().len(), 0);
    session.ping().unwrap();
}

/// The limit of the broker binds those who do not ask the client library, too.
#[test]
fn bodies_over_the_limit_of_the_broker_are_refused() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let mut config = BrokerConfig::default();
    config.body_bytes_max = 10_000;
    let endpoint = EndpointConfig::new("local", provider.base_url());
    let broker = InProcess::start(endpoint, config, 0o600);
    let mut session = Session::attach(Config::at(broker.socket())).unwrap();
    let request = Request::new("tiny", "/chat/completions");
    let error = session.submit(&request, &[b' '; 10_001][..]).unwrap_err();
    assert_eq!((error.code(), error.limit()), (Code::BodyTooLarge, Some(10_000)), "{error}");
    let mut raw = Hostile::attach(&broker.socket()).unwrap();
    peer::ask(&mut raw, 0, &peer::head_of("tiny"), &[b' '; 10_001]);
    let (code, message) = peer::end_of(&raw, 0).unwrap();
    assert_eq!(code, Code::BodyTooLarge);
    assert!(message.contains("10001") && message.contains("10000"), "{message}");
    assert_eq!(provider.log().len(), 0);
}

#[test]
fn invalid_heads_are_refused_and_the_session_goes_on() {
    let (provider, broker) = world();
    let mut raw = Hostile::attach(&broker.socket()).unwrap();
    let mut good = Vec::new();
    let mut head = RequestHead::new("tiny", "/chat/completions");
    head.headers.push(("x-note", "plain words"));
    head.encode(&mut good).unwrap();
    // Each puts something of the same length in the place of what an honest caller wrote.
    for (what, honest, spoiled) in [
        ("a line break in a header", "plain words", &b"a\r\nb: words"[..]),
        ("a line feed in a header", "plain words", b"plain\nwords"),
        ("a zero in a header", "plain words", b"plain\0words"),
        ("a header of the broker's", "x-note:plain", b"host:.plain "),
        ("a route that is no text", "tiny", b"ti\xff\xfe"),
        ("a control character in the route", "tiny", b"ti\x07y"),
        ("a path that climbs", "/chat/completions", b"/chat/../../admin"),
        ("a path that is an address", "/chat/completions", b"http://evil/x/y/z"),
        ("a break in the path", "/chat/completions", b"/chat/ HTTP/1.1\r\n"),
    ] {
        let at = good.windows(honest.len()).position(|found| found == honest.as_bytes()).unwrap();
        let mut bad = good.clone();
        bad[at..at + honest.len()].copy_from_slice(spoiled);
        peer::ask(&mut raw, 0, &bad, b"{}");
        let (code, message) = peer::end_of_next(&raw, 0).expect(what);
        assert_eq!(code, Code::InvalidHead, "{what}: {message}");
    }
    let long = "t".repeat(257);
    let mut bad = 1u16.to_le_bytes().to_vec();
    bad.extend((long.len() as u16).to_le_bytes());
    bad.extend(long.as_bytes());
    for (what, bad) in [
        ("a route above its limit", &bad[..]),
        ("a length beyond the end", &[1, 0, 255, 255, b't']),
        ("nothing but zeroes", &[0; 32]),
        ("noise", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
    ] {
        peer::ask(&mut raw, 0, bad, b"{}");
        let (code, message) = peer::end_of_next(&raw, 0).expect(what);
        assert_eq!(code, Code::InvalidHead, "{what}: {message}");
    }
    assert_eq!(provider.log().len(), 0, "nothing of this went out");
    peer::ask(&mut raw, 0, &good, peer::chat("[[sim n=2]]").as_bytes());
    assert_eq!(peer::end_of_next(&raw, 0), None);
    assert_eq!(provider.log()[0].header("x-note"), Some("plain words"));
}

#[test]
fn invalid_heads_do_not_leave_an_honest_client() {
    let (provider, broker) = world();
    let client = client(&broker);
    let long = "v".repeat(5000);
    let chat = || Request::new("tiny", "/chat/completions");
    for request in [
        chat().header("x-a", "1\r\nx-b: 2"),
        chat().header("authorization", "Bearer mine"),
        chat().header("x-a", &long),
        Request::new("tiny", "chat/completions"),
        Request::new("", "/chat/completions"),
    ] {
        let error = ask_for(&client, &request, "n=1").error.unwrap();
        assert_eq!((error.code(), error.sent()), (Code::InvalidHead, Sent::No), "{error}");
    }
    assert_eq!(provider.log().len(), 0);
}

/// Bytes that the provider handed over for the stream with this many tokens.
fn sent_for(provider: &Provider, tokens: u64) -> u64 {
    let log = provider.log();
    let is_it = |n: u64| n == tokens;
    let record = log.iter().find(|r| r.plan.as_ref().is_some_and(|plan| is_it(plan.script.n)));
    record.map_or(0, |record| record.bytes_sent)
}

/// Waits until the provider has handed over nothing for a while, and says how much it has.
fn held_back(provider: &Provider, tokens: u64) -> u64 {
    let (mut sent, mut since) = (0, Instant::now());
    let is_held = wait_until(WATCHDOG, || {
        let now = sent_for(provider, tokens);
        if now != sent {
            (sent, since) = (now, Instant::now());
        }
        sent > 0 && since.elapsed() > Duration::from_millis(200)
    });
    assert!(is_held, "the provider is never held back: {sent} bytes by now");
    sent
}

#[test]
fn consumer_that_stops_reading_holds_back_its_provider_alone() {
    const ENDLESS: u64 = 50_000_000;
    let config = ProviderConfig { send_buffer_bytes: Some(16 << 10), ..Default::default() };
    let provider = Provider::start(config).unwrap();
    let broker = Broker::start(provider.addr(), BrokerFile::default());
    let mut session = Session::attach(Config::at(broker.socket())).unwrap();
    let request = Request::new("tiny", "/chat/completions").mode(Mode::Deltas).usage_requested();
    let endless = peer::chat(&format!("[[sim n={ENDLESS}]]"));
    let stopped = session.submit(&request, endless.as_bytes()).unwrap();
    let mut texts = 0;
    while texts < 100 {
        texts += u32::from(matches!(session.next(stopped).unwrap(), Some(Item::Delta { .. })));
    }
    let sent = held_back(&provider, ENDLESS);
    let resident = proc::resident_bytes(broker.pid());
    // Another lane of the same session, and streams of other sessions, go on meanwhile.
    let others = Client::at(broker.socket()).unwrap();
    let script = Script { gap_us: 1000, ..Script::tokens(400) };
    let other = thread::spawn(move || Plan::new(script).run(&others));
    let beside = session.submit(&request, peer::chat("[[sim n=400 gap_us=1000]]").as_bytes());
    let beside = beside.unwrap();
    let mut deltas = 0;
    while let Some(item) = session.next(beside).unwrap() {
        deltas += u32::from(matches!(item, Item::Delta { .. }));
    }
    assert_eq!(deltas, 400, "the other lane has its whole stream");
    let other = other.join().unwrap();
    assert!(matches!(other.end, Some(End::End { .. })), "{:?}", other.end);
    assert_eq!(sent_for(&provider, ENDLESS), sent, "and the stopped one not a byte more");
    let grown = proc::resident_bytes(broker.pid()).saturating_sub(resident);
    println!("the broker grew by {grown} bytes while {sent} were on their way");
    assert!(grown < 2 << 20, "the broker grew by {grown} bytes");
    // What is read makes room, and the provider goes on.
    while sent_for(&provider, ENDLESS) == sent {
        for _ in 0..1000 {
            session.next(stopped).unwrap().unwrap();
        }
    }
    session.give_up(stopped);
    assert_kept(history([other]), &provider);
}
