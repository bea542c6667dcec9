//! Streams from a provider on loopback through a broker to a caller.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::caller::{hear, small};
use common::provider::{deltas, event};
use common::{Caller, Provider, Served, Step, endpoint, everything, route, soon, until};
use ringmain_broker::{BrokerConfig, RouteTable};
use ringmain_shm::monotonic_ns;
use ringmain_wire::control::Message;
use ringmain_wire::{Code, Geometry, Kind, Mode, RequestHead, ResponseHead};
use tokio::sync::Notify;

fn limited(change: impl FnOnce(&mut BrokerConfig)) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    change(&mut config);
    config
}

/// A script with one delta, then a wait that the test ends, then the rest.
fn gated(rest: &[Step]) -> (Arc<Notify>, Vec<Step>) {
    let gate = Arc::new(Notify::new());
    let begin = [Step::Delta("a".into()), Step::Gate(gate.clone())];
    (gate, begin.into_iter().chain(rest.iter().cloned()).collect())
}

async fn a_stream_arrives_whole() {
    let provider = Provider::of(deltas(&["hel", "lo ", "world"])).await;
    let served = Served::with(&provider);
    let mut caller = Caller::attach(&served.socket).await;
    for lane in [0, 1, 0, 0, 3] {
        let id = caller.chat(lane, "tiny");
        let got = caller.finish(lane).await;
        assert_eq!((got.text().as_str(), got.end), ("hello world", Some(11)), "{got:?}");
        assert!(caller.loan_is_back(lane, id));
        let (kind, payload) = &got.frames[0];
        assert_eq!(*kind, Kind::Head);
        let head = ResponseHead::parse(payload).unwrap();
        assert_eq!((head.status, head.attempt), (200, 1));
        assert_eq!((head.route, head.endpoint), ("*", "local"));
        assert_eq!(head.upstream_request_id, Some("req-1"));
        assert!(head.log_id.starts_with("rm-") && head.log_id.len() == 19);
    }
    let snapshot = served.broker.snapshot();
    assert_eq!((snapshot.ended, snapshot.failed, snapshot.exchanges), (5, 0, 0));
    assert_eq!((snapshot.content_frames, snapshot.content_bytes), (15, 55));
    drop(caller);
    served.at_rest().await;
}

#[tokio::test]
async fn a_stream_arrives_whole_on_one_thread() {
    a_stream_arrives_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_arrives_whole_on_two_threads() {
    a_stream_arrives_whole().await;
}

#[tokio::test]
async fn events_come_byte_for_byte() {
    let provider = Provider::of(deltas(&["x", "y"])).await;
    let served = Served::with(&provider);
    let mut caller = Caller::attach(&served.socket).await;
    caller.request(0, Mode::Events, &common::caller::head("tiny"), b"{}");
    let got = caller.finish(0).await;
    let events = got.frames.iter().filter(|(kind, _)| *kind == Kind::Event);
    let all: Vec<u8> = events.flat_map(|(_, payload)| payload.clone()).collect();
    let sent = [event("x"), event("y"), b"data: [DONE]\n\n".to_vec()].concat();
    assert_eq!(String::from_utf8_lossy(&all), String::from_utf8_lossy(&sent));
    assert!(got.end.is_some());
}

/// The consumer of one lane reads nothing: its upstream is held back, the other lane goes on, and
/// nothing is lost when it reads again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_holds_its_upstream_back_and_nobody_else() {
    const PIECE: usize = 1000;
    const PIECES: usize = 30_000;
    let long = vec![Step::Delta("z".repeat(PIECE)); PIECES].into_iter().chain([Step::Done]);
    let scripts = [("long", long.collect()), ("short", deltas(&["quick"]))];
    let provider = Provider::start(&scripts).await;
    let endpoints = ["long", "short"].map(|name| {
        let mut config = ringmain_upstream::EndpointConfig::new(name, provider.base_url_of(name));
        config.usage = ringmain_upstream::UsageSplice::Off;
        Arc::new(ringmain_upstream::Endpoint::new(config).unwrap())
    });
    let routes = vec![route("long", "long"), route("short", "short")];
    let table = RouteTable::new(routes, endpoints.to_vec()).unwrap();
    let served = Served::start(BrokerConfig::default(), table);
    let geometry = Geometry::new(4, 64 * 1024, 64 * 1024).unwrap();
    let mut caller = Caller::try_attach(&served.socket, geometry).await.unwrap();
    caller.chat(0, "long");

    let written = || provider.seen.bytes_written.load(SeqCst);
    let mut before = 0;
    // Held back when nothing moves for many looks.
    let mut still = 0;
    until(|| {
        let now = written();
        still = if now == before && now > 0 { still + 1 } else { 0 };
        before = now;
        still > 100
    })
    .await;
    assert!(written() < (PIECE * PIECES) as u64 * 3 / 4, "{} bytes were taken", written());
    for _ in 0..3 {
        caller.chat(1, "short");
        assert_eq!(caller.finish(1).await.text(), "quick");
    }
    let got = caller.finish(0).await;
    assert_eq!(got.text().len(), PIECE * PIECES);
    assert_eq!(got.end, Some((PIECE * PIECES) as u64));
}

#[tokio::test]
async fn a_consumer_that_never_reads_is_told_at_the_limit() {
    let long = vec![Step::Delta("z".repeat(500)); 100];
    let provider = Provider::of([long, vec![Step::Hang]].concat()).await;
    let config = limited(|c| c.limits.slow_consumer = Duration::from_millis(50));
    let served = Served::start(config, everything(&provider));
    let mut caller = Caller::attach(&served.socket).await;
    caller.chat(0, "tiny");
    until(|| provider.dropped() == 1).await;
    let got = caller.finish(0).await;
    assert_eq!(got.code(), Code::SlowConsumer);
    assert!(got.text().chars().all(|c| c == 'z') && !got.text().is_empty());
}

#[tokio::test]
async fn payloads_beyond_a_frame_are_split_and_come_whole() {
    let text = "é".repeat(20_000);
    let provider = Provider::of(deltas(&[&text])).await;
    let served = Served::with(&provider);
    let mut caller = Caller::attach(&served.socket).await;
    caller.chat(2, "tiny");
    assert_eq!(caller.finish(2).await.text(), text);
}

#[tokio::test]
async fn contract_10_cancel_drops_the_upstream_in_every_phase() {
    let hang_late = vec![Step::Delta("a".into()), Step::Hang];
    for (script, first) in [(vec![Step::HangWithoutHead], false), (hang_late, true)] {
        let provider = Provider::of(script).await;
        let served = Served::with(&provider);
        let mut caller = Caller::attach(&served.socket).await;
        let id = caller.chat(0, "tiny");
        match first {
            true => caller.wait_for(0, Kind::Delta).await,
            false => until(|| provider.requests() == 1).await,
        }
        caller.cancel(0, id);
        caller.cancel(0, id);
        let got = caller.finish(0).await;
        assert_eq!(got.code(), Code::Cancelled);
        until(|| provider.dropped() == 1).await;
        // A late cancel of an exchange that ended means nobody.
        caller.cancel(0, id);
        let again = caller.chat(0, "tiny");
        until(|| provider.requests() == 2).await;
        caller.cancel(0, id);
        caller.cancel(0, again);
        assert_eq!(caller.finish(0).await.code(), Code::Cancelled);
    }
}

#[tokio::test]
async fn contract_11_the_death_of_a_client_cancels_all_it_had() {
    let provider = Provider::of(vec![Step::Delta("a".into()), Step::Hang]).await;
    let served = Served::with(&provider);
    let mut caller = Caller::attach(&served.socket).await;
    for lane in 0..4 {
        caller.chat(lane, "tiny");
    }
    caller.wait_for(3, Kind::Delta).await;
    until(|| provider.requests() == 4).await;
    drop(caller);
    until(|| provider.dropped() == 4).await;
    served.at_rest().await;
    assert_eq!(served.broker.snapshot().sessions, 0);
}

#[tokio::test]
async fn a_violation_in_mid_stream_ends_all_streams_of_the_session() {
    let provider = Provider::of(vec![Step::Delta("a".into()), Step::Hang]).await;
    let served = Served::with(&provider);
    let mut caller = Caller::attach(&served.socket).await;
    caller.chat(0, "tiny");
    caller.chat(1, "tiny");
    caller.wait_for(0, Kind::Delta).await;
    until(|| provider.requests() == 2).await;
    let mut entry = ringmain_wire::Entry::ping(caller.lane(2));
    entry.reserved[1] = 1;
    caller.push(entry);
    assert_eq!(caller.goodbye().await.code, Code::ViolationEntry);
    until(|| provider.dropped() == 2).await;
    drop(caller);
    served.at_rest().await;
}

#[tokio::test]
async fn contract_07_a_cut_stream_is_its_prefix_and_one_error() {
    let provider = Provider::of(vec![Step::Delta("begin".into()), Step::Cut]).await;
    let served = Served::with(&provider);
    let mut caller = Caller::attach(&served.socket).await;
    caller.chat(0, "tiny");
    let got = caller.finish(0).await;
    assert_eq!(got.text(), "begin");
    assert!(matches!(got.code(), Code::UpstreamTruncated | Code::UpstreamReset), "{got:?}");
    assert!(got.message().contains("(rm-"), "{}", got.message());
    assert_eq!(served.broker.snapshot().failed, 1);
}

#[tokio::test]
async fn contract_03_no_call_outlives_its_deadline() {
    let provider = Provider::of(vec![Step::Delta("a".into()), Step::Hang]).await;
    let served = Served::with(&provider);
    let mut caller = Caller::attach(&served.socket).await;
    let soon = Some(monotonic_ns() + 30_000_000);
    caller.request_until(0, Mode::Deltas, &common::caller::head("tiny"), b"", soon);
    let got = caller.finish(0).await;
    assert_eq!((got.code(), got.text().as_str()), (Code::DeadlineExceeded, "a"));
    until(|| provider.dropped() == 1).await;
}

#[tokio::test]
async fn each_limit_has_a_code_of_its_own() {
    let short = Duration::from_millis(40);
    type Change = fn(&mut BrokerConfig, Duration);
    let cases: [(Vec<Step>, Change, Code); 3] = [
        (vec![Step::HangWithoutHead], |c, t| c.limits.head = t, Code::HeadTimeout),
        (vec![Step::Delta("a".into()), Step::Hang], |c, t| c.limits.idle = t, Code::IdleTimeout),
        (vec![Step::Delta("a".into()), Step::Hang], |c, t| c.limits.total = t, Code::TotalTimeout),
    ];
    for (script, change, code) in cases {
        let provider = Provider::of(script).await;
        let served = Served::start(limited(|c| change(c, short)), everything(&provider));
        let mut caller = Caller::attach(&served.socket).await;
        caller.chat(0, "tiny");
        assert_eq!(caller.finish(0).await.code(), code);
    }
    let gate = Arc::new(Notify::new());
    let provider = Provider::of(vec![Step::Gate(gate)]).await;
    let change = |c: &mut BrokerConfig| c.limits.first_content = short;
    let served = Served::start(limited(change), everything(&provider));
    let mut caller = Caller::attach(&served.socket).await;
    caller.chat(0, "tiny");
    assert_eq!(caller.finish(0).await.code(), Code::FirstContentTimeout);
}

/// Takes connections and never reads what is sent.
fn deaf() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Whether nothing is left of a request that was given up: over HTTP/1.1 its connection is cut,
/// over HTTP/2 it can serve others.
fn is_let_go(endpoint: &ringmain_upstream::Endpoint) -> bool {
    let gauges = endpoint.gauges();
    let http2 = endpoint.config().http2 == ringmain_upstream::Http2::PriorKnowledge;
    gauges.streams == 0 && (http2 || gauges.open == 0)
}

/// A broker whose only endpoint is a deaf one, and a caller with room for a large body.
async fn before_deaf(
    deaf: &std::net::TcpListener,
    http2: ringmain_upstream::Http2,
    config: BrokerConfig,
) -> (Served, Caller, Arc<ringmain_upstream::Endpoint>) {
    let url = format!("http://{}/v1", deaf.local_addr().unwrap());
    let mut endpoint = ringmain_upstream::EndpointConfig::new("deaf", url);
    endpoint.http2 = http2;
    let endpoint = Arc::new(ringmain_upstream::Endpoint::new(endpoint).unwrap());
    let table = RouteTable::new(vec![], vec![endpoint.clone()]).unwrap();
    let served = Served::start(config, table);
    let geometry = Geometry::new(1, 4096, 64 << 20).unwrap();
    let caller = Caller::try_attach(&served.socket, geometry).await.unwrap();
    (served, caller, endpoint)
}

/// The loan, the connection and the quota come back while the endpoint stands and reads nothing.
#[tokio::test]
async fn a_request_that_the_endpoint_does_not_take_ends_at_the_write_limit() {
    use ringmain_upstream::Http2;
    for http2 in [Http2::Off, Http2::PriorKnowledge] {
        let deaf = deaf();
        let config = limited(|c| c.limits.write = Duration::from_millis(100));
        let (served, mut caller, endpoint) = before_deaf(&deaf, http2, config).await;
        let body = vec![b' '; 32 << 20];
        let id = caller.request(0, Mode::Body, &common::caller::head("tiny"), &body);
        let got = caller.finish(0).await;
        assert_eq!(got.code(), Code::WriteTimeout, "{got:?}");
        let since = std::time::Instant::now();
        until(|| caller.loan_is_back(0, id)).await;
        until(|| is_let_go(&endpoint)).await;
        assert!(since.elapsed() < Duration::from_secs(1), "{http2:?} {:?}", since.elapsed());
        drop(caller);
        served.at_rest().await;
        assert!(since.elapsed() < Duration::from_secs(2), "{http2:?} {:?}", since.elapsed());
        drop(deaf);
    }
}

/// The same when the caller dies instead.
#[tokio::test]
async fn contract_11_a_dead_callers_request_is_let_go_by_a_deaf_endpoint() {
    use ringmain_upstream::Http2;
    for http2 in [Http2::Off, Http2::PriorKnowledge] {
        let deaf = deaf();
        let (served, mut caller, endpoint) = before_deaf(&deaf, http2, limited(|_| {})).await;
        let body = vec![b' '; 32 << 20];
        caller.request(0, Mode::Body, &common::caller::head("tiny"), &body);
        until(|| endpoint.gauges().streams == 1).await;
        drop(caller);
        let since = std::time::Instant::now();
        served.at_rest().await;
        until(|| is_let_go(&endpoint)).await;
        assert!(since.elapsed() < Duration::from_secs(2), "{http2:?} {:?}", since.elapsed());
        drop(deaf);
    }
}

#[tokio::test]
async fn contract_18_drain_finishes_what_runs_and_refuses_what_is_new() {
    let (gate, script) = gated(&deltas(&["b"]));
    let provider = Provider::of(script).await;
    let mut served = Served::with(&provider);
    let mut caller = Caller::attach(&served.socket).await;
    caller.chat(0, "tiny");
    caller.wait_for(0, Kind::Delta).await;
    served.drain();
    let (message, _) = soon(hear(&caller.control)).await.unwrap();
    assert_eq!(message, Message::Draining);
    // The path is free for a successor while the old broker still streams.
    let successor = ringmain_shm::Listener::bind(&served.socket, 0o600, None).unwrap();
    caller.chat(1, "tiny");
    assert_eq!(caller.finish(1).await.code(), Code::Draining);
    gate.notify_one();
    let got = caller.finish(0).await;
    assert_eq!((got.text().as_str(), got.end), ("b", Some(2)));
    let report = served.ended().await;
    assert_eq!((report.in_flight, report.cut, report.sessions), (1, 0, 1));
    assert_eq!(caller.goodbye().await.code, Code::Drained);
    drop(successor);
}

#[tokio::test]
async fn contract_18_drain_cuts_at_its_limit() {
    let provider = Provider::of(vec![Step::Delta("a".into()), Step::Hang]).await;
    let config = limited(|c| c.drain = Duration::from_millis(30));
    let mut served = Served::start(config, everything(&provider));
    let mut caller = Caller::attach(&served.socket).await;
    caller.chat(0, "tiny");
    caller.wait_for(0, Kind::Delta).await;
    served.drain();
    let report = served.ended().await;
    assert_eq!((report.in_flight, report.cut), (1, 1));
    assert_eq!(caller.finish(0).await.code(), Code::Drained);
    until(|| provider.dropped() == 1).await;
    // The segments are punched on a thread of their own before the quota is back.
    until(|| served.broker.is_at_rest()).await;
}

#[tokio::test]
async fn a_reload_swaps_routes_and_touches_no_stream() {
    let (gate, script) = gated(&deltas(&["old"]));
    let old = Provider::of(script).await;
    let new = Provider::of(deltas(&["new"])).await;
    let served = Served::with(&old);
    let mut caller = Caller::attach(&served.socket).await;
    caller.chat(0, "tiny");
    caller.wait_for(0, Kind::Delta).await;
    let table =
        RouteTable::new(vec![route("fresh", "next")], vec![endpoint("next", &new)]).unwrap();
    served.broker.swap_routes(table);
    caller.chat(1, "fresh");
    assert_eq!(caller.finish(1).await.text(), "new");
    caller.chat(1, "tiny");
    assert_eq!(caller.finish(1).await.code(), Code::UnknownRoute);
    gate.notify_one();
    assert_eq!(caller.finish(0).await.text(), "old");
}

/// A large body is lent to the HTTP client and comes back when it is sent; the provider counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_is_lent_and_its_loan_comes_back() {
    let provider = Provider::of(deltas(&["ok"])).await;
    let served = Served::with(&provider);
    let geometry = Geometry::new(4, 4096, 16 << 20).unwrap();
    let mut caller = Caller::try_attach(&served.socket, geometry).await.unwrap();
    let body = vec![b' '; 3 << 20];
    let mut head = Vec::new();
    RequestHead::new("tiny", "/chat/completions").encode(&mut head).unwrap();
    for _ in 0..5 {
        let id = caller.request(0, Mode::Deltas, &head, &body);
        assert_eq!(caller.finish(0).await.text(), "ok");
        until(|| caller.loan_is_back(0, id)).await;
    }
    assert_ne!(geometry, small());
}

/// Many callers at once, each lane used again and again: every stream whole, nothing left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_at_once_lose_nothing() {
    let provider = Provider::of(deltas(&["one ", "two ", "three"])).await;
    let served = Served::with(&provider);
    let run = |socket: std::path::PathBuf| async move {
        let mut caller = Caller::attach(&socket).await;
        for round in 0..10 {
            for lane in 0..4 {
                caller.chat(lane, "tiny");
            }
            for lane in 0..4 {
                let got = caller.finish(lane).await;
                assert_eq!((got.text().as_str(), got.end), ("one two three", Some(13)), "{round}");
            }
        }
    };
    let tasks: Vec<_> = (0..10).map(|_| tokio::spawn(run(served.socket.clone()))).collect();
    for task in tasks {
        soon(task).await.unwrap();
    }
    served.at_rest().await;
    assert_eq!(served.broker.snapshot().ended, 400);
}
