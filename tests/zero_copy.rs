//! Where bytes lie and what a token costs: bodies leave from the mapping, deltas are borrowed in
//! the lane, and a consumer in steady state allocates nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::ops::Range;
use std::sync::Arc;

use allocation_counter::measure;
use parking_lot::Mutex;
use ringmain_broker::BrokerConfig;
use ringmain_client::{ChatBody, Client, Config, Item, Mode, Request, Session};
use ringmain_sim::text::hash_whole;
use ringmain_sim::{Provider, ProviderConfig};
use ringmain_upstream::{EndpointConfig, Witness};

use common::in_process::InProcess;
use common::proc::{Mapping, addresses, mappings};
use common::{Broker, Config as BrokerFile, eventually};

/// Names that the broker gives to the segments of a session.
const CALLER: &str = "ringmain-caller";
const RESPONDER: &str = "ringmain-responder";
/// Tokens before a measurement: by then every page was touched and every buffer has its size.
const WARM_UP: u64 = 200;
const MEASURED: u64 = 600;

fn provider() -> Provider {
    Provider::start(ProviderConfig::default()).unwrap()
}

fn deltas() -> Request<'static> {
    Request::new("tiny", "/chat/completions").mode(Mode::Deltas).usage_requested()
}

fn chat(script: &str) -> String {
    format!(
        r#"{{"model":"tiny","stream":true,"stream_options":{{"include_usage":true}},"messages":[{{"role":"user","content":"{script}"}}]}}"#
    )
}

/// A chat whose body is too large to be copied for being small.
fn long_chat(script: &str) -> String {
    chat(&format!("{} {script}", "a long prompt ".repeat(10_000)))
}

/// Fails unless each range lies in a mapping that its holder cannot write.
fn assert_inside(ranges: &[Range<usize>], segment: &str) {
    let mapped: Vec<Mapping> = mappings(segment);
    assert!(!mapped.is_empty(), "no {segment} is mapped");
    for range in ranges {
        let inside = mapped.iter().any(|mapping| !mapping.is_writable && mapping.holds(range));
        assert!(inside, "{range:x?} lies in none of {mapped:x?}");
    }
}

#[test]
fn zero_copy_bodies_leave_from_the_mapping() {
    let provider = provider();
    let broker = InProcess::start(
        EndpointConfig::new("local", provider.base_url()),
        BrokerConfig::default(),
        0o600,
    );
    let pieces: Arc<Mutex<Vec<Range<usize>>>> = Arc::default();
    let seen = pieces.clone();
    broker.endpoint.set_witness(Witness::new(move |piece| seen.lock().push(piece)));
    let mut session = Session::attach(Config::at(broker.socket())).unwrap();
    for round in 0..3 {
        let body = long_chat(&format!("[[sim n={round}]]"));
        let exchange = session.submit(&deltas(), body.as_bytes()).unwrap();
        while session.next(exchange).unwrap().is_some() {}
        let pieces = std::mem::take(&mut *pieces.lock());
        assert_inside(&pieces, CALLER);
        let handed: usize = pieces.iter().map(Range::len).sum();
        assert_eq!(handed, body.len(), "every byte was seen, and once");
        let record = provider.log().pop().unwrap();
        assert_eq!(record.body_bytes, body.len() as u64);
        assert_eq!(record.body_hash, hash_whole(body.as_bytes()), "and arrived unchanged");
    }
}

/// Small bodies are copied, for an owner of their own costs more; and it shows that the addresses
/// tell one from the other.
#[test]
fn zero_copy_small_bodies_are_copied() {
    let provider = provider();
    let broker = InProcess::start(
        EndpointConfig::new("local", provider.base_url()),
        BrokerConfig::default(),
        0o600,
    );
    let pieces: Arc<Mutex<Vec<Range<usize>>>> = Arc::default();
    let seen = pieces.clone();
    broker.endpoint.set_witness(Witness::new(move |piece| seen.lock().push(piece)));
    let mut session = Session::attach(Config::at(broker.socket())).unwrap();
    let exchange = session.submit(&deltas(), chat("[[sim n=1]]").as_bytes()).unwrap();
    while session.next(exchange).unwrap().is_some() {}
    let (pieces, mapped) = (pieces.lock().clone(), mappings(CALLER));
    let inside = |piece: &Range<usize>| mapped.iter().any(|mapping| mapping.holds(piece));
    assert!(!pieces.is_empty() && !pieces.iter().any(inside), "{pieces:x?} in {mapped:x?}");
}

#[test]
fn zero_copy_deltas_are_borrowed_in_the_lane() {
    let provider = provider();
    // A process of its own: what is mapped here is the client's.
    let broker = Broker::start(provider.addr(), BrokerFile::default());
    let client = Client::at(broker.socket()).unwrap();
    // More than a lap of the lane, pieces above a quarter of it, and every kind of text.
    for script in ["n=3000", "n=40 size=9000", "n=20 reasoning=30 gap_us=300"] {
        let body = chat(&format!("[[sim {script}]]"));
        let mut stream = client.submit(&deltas(), body.as_bytes()).unwrap();
        let mut borrowed = Vec::new();
        while let Some(item) = stream.next().unwrap() {
            match item {
                Item::Delta { text, .. } | Item::Reasoning { text, .. } => {
                    borrowed.push(addresses(text.as_bytes()));
                }
                _ => {}
            }
        }
        assert!(borrowed.len() >= 40, "{script}: {}", borrowed.len());
        assert_inside(&borrowed, RESPONDER);
    }
    // Whole events and the bytes of a plain answer, which are cut where it suits the lane.
    for mode in [Mode::Events, Mode::Body] {
        let mut stream = client.submit(&deltas().mode(mode), chat("[[sim n=500]]").as_bytes());
        let stream = stream.as_mut().unwrap();
        let mut borrowed = Vec::new();
        while let Some(item) = stream.next().unwrap() {
            if let Item::Event(bytes) | Item::Body(bytes) = item {
                borrowed.push(addresses(bytes));
            }
        }
        assert!(!borrowed.is_empty());
        assert_inside(&borrowed, RESPONDER);
    }
    assert!(mappings(RESPONDER).iter().all(|mapping| !mapping.is_writable));
}

#[test]
fn zero_copy_deltas_of_an_async_stream_are_borrowed_too() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), BrokerFile::default());
    let client = Client::at(broker.socket()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let body = chat("[[sim n=1500 gap_us=50]]");
        let mut stream = client.submit_async(&deltas(), body.as_bytes()).await.unwrap();
        let mut borrowed = Vec::new();
        while let Some(item) = stream.next().await.unwrap() {
            if let Item::Delta { text, .. } = item {
                borrowed.push(addresses(text.as_bytes()));
            }
        }
        assert_eq!(borrowed.len(), 1500);
        assert_inside(&borrowed, RESPONDER);
    });
}

/// The scripts in which a consumer is measured: never asleep, and asleep before each token.
const PACES: [&str; 2] = ["n=2000", "n=900 gap_us=400"];

#[test]
fn zero_copy_consumer_of_a_session_allocates_nothing() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), BrokerFile::default());
    let mut session = Session::attach(Config::at(broker.socket())).unwrap();
    let mut consume = |pace: &str| {
        let body = chat(&format!("[[sim {pace}]]"));
        let exchange = session.submit(&deltas(), body.as_bytes()).unwrap();
        let mut read = |tokens: u64| {
            for _ in 0..tokens {
                assert!(session.next(exchange).unwrap().is_some());
            }
        };
        read(WARM_UP);
        let info = measure(|| read(MEASURED));
        assert_eq!(info.count_total, 0, "{pace}: allocations in {MEASURED} tokens");
        while session.next(exchange).unwrap().is_some() {}
        session.sleeps()
    };
    consume(PACES[0]);
    // On a busy machine tokens come together, and there is little to sleep for.
    eventually("the consumer sleeps before most tokens", || consume(PACES[1]) > MEASURED / 2);
}

#[test]
fn zero_copy_consumer_of_a_stream_allocates_nothing() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), BrokerFile::default());
    let client = Client::at(broker.socket()).unwrap();
    for pace in PACES {
        let body = chat(&format!("[[sim {pace}]]"));
        let mut stream = client.submit(&deltas(), body.as_bytes()).unwrap();
        let mut read = |tokens: u64| {
            for _ in 0..tokens {
                assert!(stream.next_text().unwrap().is_some());
            }
        };
        read(WARM_UP);
        let info = measure(|| read(MEASURED));
        assert_eq!(info.count_total, 0, "{pace}: allocations in {MEASURED} tokens");
    }
}

#[test]
fn zero_copy_consumer_of_an_async_stream_allocates_nothing() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), BrokerFile::default());
    let client = Client::at(broker.socket()).unwrap();
    // One thread: what the session's reactor task allocates is counted with it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for pace in PACES {
        let body = chat(&format!("[[sim {pace}]]"));
        let mut stream = runtime.block_on(client.submit_async(&deltas(), body.as_bytes())).unwrap();
        let mut read = |tokens: u64| {
            runtime.block_on(async {
                for _ in 0..tokens {
                    assert!(stream.next().await.unwrap().is_some());
                }
            });
        };
        read(WARM_UP);
        let info = measure(|| read(MEASURED));
        println!("async, {pace}: {} allocations in {MEASURED} tokens", info.count_total);
        assert_eq!(info.count_total, 0, "{pace}: allocations in {MEASURED} tokens");
    }
}

#[test]
fn zero_copy_count_sees_an_allocation() {
    let body = ChatBody::new("tiny").message("user", "hello");
    let info = measure(|| drop(std::hint::black_box(body.clone())));
    assert!(info.count_total > 0, "what counts nothing shows nothing");
}
