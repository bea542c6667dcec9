//! Sessions over a real socket, without an upstream: the handshake, refusals, pings, violations.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::future::pending;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::caller::{head, hear, small};
use common::provider::deltas;
use common::{Caller, Provider, Served, Step, everything, route, soon, until};
use ringmain_broker::counters::Snapshot;
use ringmain_broker::{Allow, Broker, BrokerConfig, RouteTable};
use ringmain_shm::{Control, Listener, own_uid};
use ringmain_wire::control::{Hello, Message};
use ringmain_wire::head::Method;
use ringmain_wire::limits::ABI_VERSION;
use ringmain_wire::{Code, Entry, Flags, Geometry, Kind, Mode, RequestHead};
use tokio::runtime::Handle;
use tokio::time::timeout;

async fn served(change: impl FnOnce(&mut BrokerConfig)) -> Served {
    let mut config = BrokerConfig::default();
    change(&mut config);
    Served::start(config, everything(&Provider::of(vec![]).await))
}

#[tokio::test]
async fn a_broker_that_serves_no_longer_leaves_no_task_behind() {
    let folder = tempfile::tempdir().unwrap();
    let listener = Listener::bind(&folder.path().join("broker.sock"), 0o600, None).unwrap();
    let provider = Provider::of(vec![]).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let broker = Broker::new(BrokerConfig::default(), everything(&provider));
    let serving = broker.serve(listener, pending());
    assert!(timeout(Duration::from_millis(10), serving).await.is_err());
    assert!(tasks() > before);
    drop(broker);
    until(|| tasks() == before).await;
}

#[tokio::test]
async fn a_ping_is_answered_with_end() {
    let served = served(|_| {}).await;
    let mut caller = Caller::attach(&served.socket).await;
    // More than the ring holds, so that it laps.
    for _ in 0..100 {
        let id = caller.push(Entry::ping(caller.lane(0)));
        let got = caller.finish(0).await;
        assert_eq!((got.end, got.frames.len()), (Some(0), 0));
        assert!(caller.loan_is_back(0, id));
    }
    drop(caller);
    served.at_rest().await;
}

#[tokio::test]
async fn contract_20_garbage_over_the_caller_segment_ends_that_session_alone() {
    let served = served(|_| {}).await;
    let mut honest = Caller::attach(&served.socket).await;
    for seed in 0..20u64 {
        let mut hostile = Caller::attach(&served.socket).await;
        let mut word = seed;
        for offset in (0..hostile.geometry.caller_bytes()).step_by(8) {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
            hostile.own.store(offset, word);
        }
        // The publish word of the first entry is right, so that the garbage is looked at.
        hostile.own.store_release(hostile.geometry.entry_offset(0), 1);
        hostile.ringer.ring().unwrap();
        let goodbye = hostile.goodbye().await;
        assert!(goodbye.code.is_violation(), "{goodbye:?}");
        honest.push(Entry::ping(honest.lane(1)));
        assert!(honest.finish(1).await.end.is_some());
    }
    drop(honest);
    served.at_rest().await;
    assert_eq!(served.broker.snapshot().refusals.iter().map(|(_, n)| n).sum::<u64>(), 20);
}

#[tokio::test]
async fn a_cursor_that_jumps_is_a_violation() {
    let served = served(|_| {}).await;
    let mut hostile = Caller::attach(&served.socket).await;
    let lane = hostile.lane(0);
    hostile.own.store_release(hostile.geometry.cursor_offset(lane), 1 << 40);
    hostile.push(Entry::ping(lane));
    assert_eq!(hostile.goodbye().await.code, Code::ViolationLaneBusy);
}

#[tokio::test]
async fn a_request_on_a_busy_lane_is_a_violation() {
    let served = served(|_| {}).await;
    let mut hostile = Caller::attach(&served.socket).await;
    // The END of the first ping is not consumed.
    hostile.push(Entry::ping(hostile.lane(0)));
    hostile.push(Entry::ping(hostile.lane(0)));
    assert_eq!(hostile.goodbye().await.code, Code::ViolationLaneBusy);
}

#[tokio::test]
async fn a_peer_has_nothing_to_say_after_its_hello() {
    let served = served(|_| {}).await;
    let mut caller = Caller::attach(&served.socket).await;
    caller.control.send(b"hello?", &[]).unwrap();
    assert_eq!(caller.goodbye().await.code, Code::ViolationControl);
    let mut caller = Caller::attach(&served.socket).await;
    // Kernels that can refuse descriptors at the sender do.
    if caller.control.send(&[1], &[caller.bell.as_fd()]).is_ok() {
        assert_eq!(caller.goodbye().await.code, Code::ViolationControl);
    }
}

#[tokio::test]
async fn rings_by_datagram_are_heard_and_a_flood_of_them_is_not() {
    let served = served(|_| {}).await;
    let mut caller = Caller::attach(&served.socket).await;
    caller.control.send(&Message::Ring.encode(), &[]).unwrap();
    caller.push(Entry::ping(caller.lane(0)));
    assert!(caller.finish(0).await.end.is_some());
    let flood = async {
        while caller.control.send(&Message::Ring.encode(), &[]).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(flood).await;
    assert_eq!(caller.goodbye().await.code, Code::ViolationControl);
}

#[tokio::test]
async fn rings_for_nothing_mute_the_bell_and_not_the_session() {
    let served = served(|_| {}).await;
    let mut caller = Caller::attach(&served.socket).await;
    for round in 0..5 {
        for _ in 0..200 {
            caller.ringer.ring().unwrap();
            tokio::task::yield_now().await;
        }
        caller.push(Entry::ping(caller.lane(0)));
        assert!(caller.finish(0).await.end.is_some(), "round {round}");
    }
}

#[tokio::test]
async fn refusals_name_their_reason() {
    let served = served(|config| config.allow = Allow::nobody()).await;
    let refused = Caller::try_attach(&served.socket, small()).await.err().unwrap();
    assert_eq!(refused.code, Code::NotAllowed);
    assert!(refused.text.contains(&format!("uid {}", own_uid())), "{}", refused.text);

    let served = self::served(|_| {}).await;
    let control = Control::connect(&served.socket).unwrap();
    let hello = Hello::caller(Geometry::default(), 0);
    let mut datagram = Message::Hello(hello).encode();
    datagram[4..8].copy_from_slice(&(ABI_VERSION + 41).to_le_bytes());
    control.send(&datagram, &[]).unwrap();
    let Some((Message::Refused(refused), _)) = soon(hear(&control)).await else { panic!() };
    assert_eq!(refused.code, Code::Abi);
    assert!(refused.text.contains("version 42"), "{}", refused.text);

    let control = Control::connect(&served.socket).unwrap();
    control.send(b"GET / HTTP/1.1\r\n\r\n", &[]).unwrap();
    let Some((Message::Refused(refused), _)) = soon(hear(&control)).await else { panic!() };
    assert_eq!(refused.code, Code::BadHello);
    until(|| served.broker.snapshot().refusals.len() == 2).await;
    served.at_rest().await;
}

#[tokio::test]
async fn who_never_says_hello_is_refused_in_time() {
    let served = served(|config| config.hello = std::time::Duration::from_millis(50)).await;
    let control = Control::connect(&served.socket).unwrap();
    let Some((Message::Refused(refused), _)) = soon(hear(&control)).await else { panic!() };
    assert_eq!(refused.code, Code::BadHello);
    assert!(soon(hear(&control)).await.is_none());
    served.at_rest().await;
}

#[tokio::test]
async fn who_hangs_up_before_saying_hello_did_nothing_wrong() {
    let served = served(|_| {}).await;
    drop(Control::connect(&served.socket).unwrap());
    // One that is heard after it, and counts.
    let control = Control::connect(&served.socket).unwrap();
    control.send(b"nonsense", &[]).unwrap();
    let Some((Message::Refused(_), _)) = soon(hear(&control)).await else { panic!() };
    served.at_rest().await;
    assert_eq!(served.broker.snapshot().refusals, [(Code::BadHello, 1)]);
}

#[tokio::test]
async fn quotas_are_refused_by_name_and_come_back() {
    let served = served(|config| {
        config.quotas.sessions = 2;
        config.quotas.segment_bytes = 3 * small().session_bytes();
    })
    .await;
    for _ in 0..3 {
        let _first = Caller::attach(&served.socket).await;
        let large = Geometry::new(4, 4096, 1 << 20).unwrap();
        let refused = Caller::try_attach(&served.socket, large).await.err().unwrap();
        assert_eq!(refused.code, Code::QuotaExceeded);
        assert!(refused.text.contains("segment bytes"), "{}", refused.text);
        let _second = Caller::attach(&served.socket).await;
        let refused = Caller::try_attach(&served.socket, small()).await.err().unwrap();
        assert!(refused.text.contains("sessions, the limit is 2"), "{}", refused.text);
        drop((_first, _second));
        served.at_rest().await;
    }
}

#[tokio::test]
async fn connections_beyond_the_rate_are_refused() {
    let served = served(|config| config.quotas.connects_per_s = 2).await;
    let (mut attached, mut refused) = (0, 0);
    for _ in 0..6 {
        match Caller::try_attach(&served.socket, small()).await {
            Ok(_) => attached += 1,
            Err(why) if why.text.contains("connections per second") => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(attached >= 2 && refused >= 1, "{attached} attached, {refused} refused");
}

/// Who hangs up before it is looked at has no name that could be charged.
#[tokio::test]
async fn peers_without_a_name_share_one_rate() {
    let served = served(|config| config.compat.peer_pidfd = false).await;
    for _ in 0..100 {
        drop(Control::connect(&served.socket).unwrap());
    }
    let counted = || served.broker.snapshot().refusals.iter().map(|(_, n)| *n).sum::<u64>();
    until(|| counted() == 100).await;
    assert_eq!(served.broker.snapshot().refusals, [(Code::PeerUnidentified, 100)]);
    let caller = Caller::attach(&served.socket).await;
    drop(caller);
    served.at_rest().await;
}

/// What was passed to the peer is the peer's alone: of its bell the broker keeps the ringing end.
#[tokio::test]
async fn a_session_keeps_no_descriptor_that_it_passed_on() {
    let served = served(|_| {}).await;
    let caller = Caller::attach(&served.socket).await;
    let bell = eventfd_id(&caller.bell.as_raw_fd().to_string()).unwrap();
    let all = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let ids = all.filter_map(|fd| eventfd_id(&fd.unwrap().file_name().into_string().unwrap()));
    assert_eq!(ids.filter(|id| *id == bell).count(), 2, "the caller's and the ringer's");
}

/// The number that the kernel gives each eventfd, whatever descriptor it is reached by.
fn eventfd_id(fd: &str) -> Option<String> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    info.lines().find_map(|line| line.strip_prefix("eventfd-id:")).map(str::to_owned)
}

#[tokio::test]
async fn exchanges_beyond_the_quota_are_refused_on_their_lane() {
    let served = served(|config| config.quotas.exchanges = 0).await;
    let mut caller = Caller::attach(&served.socket).await;
    let id = caller.chat(0, "tiny");
    let got = caller.finish(0).await;
    assert_eq!(got.code(), Code::QuotaExceeded);
    assert!(got.message().contains("exchanges in flight, the limit is 0"), "{}", got.message());
    assert!(caller.loan_is_back(0, id));
    caller.push(Entry::ping(caller.lane(1)));
    assert_eq!(caller.finish(1).await.code(), Code::QuotaExceeded);
}

/// A caller that names its arena on every lane would have it copied once per lane.
#[tokio::test]
async fn requests_in_flight_that_overlap_beyond_the_arena_are_a_violation() {
    let provider = Provider::of(vec![Step::HangWithoutHead]).await;
    let served = Served::start(BrokerConfig::default(), everything(&provider));
    let mut caller = Caller::attach(&served.socket).await;
    let whole = |caller: &Caller, lane, mode| {
        let body = caller.geometry.arena_bytes() as u32 - 64;
        Entry::request(caller.lane(lane), mode, Flags::NONE, None, 0, 1, body)
    };
    // One after the other, each gives its part back before the next: the head is no head.
    for _ in 0..10 {
        let id = caller.push(whole(&caller, 0, Mode::Deltas));
        assert_eq!(caller.finish(0).await.code(), Code::InvalidHead);
        assert!(caller.loan_is_back(0, id));
    }
    caller.chat(0, "tiny");
    until(|| provider.requests() == 1).await;
    caller.push(whole(&caller, 1, Mode::Deltas));
    let goodbye = caller.goodbye().await;
    assert_eq!(goodbye.code, Code::ViolationEntry);
    assert!(goodbye.text.contains("share an arena of 65536 bytes"), "{}", goodbye.text);
    drop(caller);
    served.at_rest().await;
}

#[tokio::test]
async fn copies_are_bounded_and_made_only_of_what_is_looked_into() {
    let provider = Provider::of(deltas(&["x"])).await;
    let mut renamed = route("renamed", "local");
    renamed.targets[0].model = Some("other".to_owned());
    let routes = vec![renamed, route("plain", "local")];
    let table = RouteTable::new(routes, vec![common::endpoint("local", &provider)]).unwrap();
    let mut config = BrokerConfig::default();
    config.quotas.copy_bytes = 4000;
    config.copied_body_bytes_max = 5000;
    let served = Served::start(config, table);
    let mut caller = Caller::attach(&served.socket).await;
    let body = |bytes: usize| format!(r#"{{"stream":true,"pad":"{}"}}"#, "x".repeat(bytes));
    let mut asked = async |head: &[u8], body: String| {
        caller.request(0, Mode::Deltas, head, body.as_bytes());
        caller.finish(0).await
    };
    assert_eq!(asked(&head("renamed"), body(3000)).await.text(), "x");
    let refused = asked(&head("renamed"), body(4500)).await;
    assert_eq!(refused.code(), Code::QuotaExceeded);
    let text = "bytes of copied requests, the limit is 4000";
    assert!(refused.message().contains(text), "{}", refused.message());
    let refused = asked(&head("renamed"), body(6000)).await;
    assert_eq!(refused.code(), Code::BodyTooLarge);
    assert!(refused.message().contains("of 5000 bytes"), "{}", refused.message());
    assert_eq!(asked(&head("plain"), body(6000)).await.text(), "x");
    let mut listing = Vec::new();
    let mut get = RequestHead::new("renamed", "/models");
    get.method = Method::Get;
    get.encode(&mut listing).unwrap();
    let listed = asked(&listing, body(6000)).await;
    assert!(listed.end.is_some(), "{listed:?}");
    drop(caller);
    served.at_rest().await;
}

#[tokio::test]
async fn requests_that_no_route_or_rule_takes_are_refused_with_a_reason() {
    let provider = Provider::of(vec![]).await;
    let mut guarded = route("guarded", "local");
    guarded.allow = Some(Allow::nobody().uid(own_uid().wrapping_add(1)));
    let endpoints = vec![common::endpoint("local", &provider)];
    let table = RouteTable::new(vec![route("tiny", "local"), guarded], endpoints).unwrap();
    let config = {
        let mut config = BrokerConfig::default();
        config.body_bytes_max = 100;
        config
    };
    let served = Served::start(config, table);
    let mut caller = Caller::attach(&served.socket).await;

    caller.chat(0, "tinny");
    let got = caller.finish(0).await;
    assert_eq!(got.code(), Code::UnknownRoute);
    assert!(got.message().contains(r#"the nearest of 1 is "tiny""#), "{}", got.message());
    assert!(got.message().contains("(rm-"), "{}", got.message());

    caller.chat(0, "guarded");
    assert_eq!(caller.finish(0).await.code(), Code::NotAllowed);

    caller.request(0, Mode::Deltas, b"\x01\x00\xff\xff", b"");
    assert_eq!(caller.finish(0).await.code(), Code::InvalidHead);

    caller.request(0, Mode::Deltas, &head("tiny"), &[b'x'; 101]);
    let got = caller.finish(0).await;
    assert_eq!(got.code(), Code::BodyTooLarge);
    assert!(got.message().contains("101 bytes"), "{}", got.message());

    let past = Some(1);
    caller.request_until(0, Mode::Deltas, &head("tiny"), b"", past);
    assert_eq!(caller.finish(0).await.code(), Code::DeadlineExceeded);
    assert_eq!(provider.seen.requests.load(SeqCst), 0);
    // Its caller's own time was over: nobody refused it anything.
    let counted = || served.broker.snapshot();
    until(|| counted().failures == [(Code::DeadlineExceeded, 1)]).await;
    let refused = counted().refusals.into_iter().map(|(code, _)| code).collect::<Vec<_>>();
    let codes = [Code::UnknownRoute, Code::NotAllowed, Code::InvalidHead, Code::BodyTooLarge];
    assert_eq!(refused.len(), codes.len(), "{refused:?}");
    assert!(codes.iter().all(|code| refused.contains(code)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_can_be_read_by_name() {
    let name = format!("ringmain-test-{}-broker", std::process::id());
    let mut served = served(|config| config.counters = Some(name.clone())).await;
    let mut caller = Caller::attach(&served.socket).await;
    caller.push(Entry::ping(caller.lane(0)));
    caller.finish(0).await;
    let is_there = || {
        let Ok(snapshot) = Snapshot::read(&name) else { return false };
        let row = snapshot.session_rows.first();
        row.is_some_and(|row| row.uid == own_uid() && row.pid == std::process::id())
            && (snapshot.sessions, snapshot.exchanges_total, snapshot.ended) == (1, 1, 1)
            && snapshot.endpoints[0].name == "local"
            && snapshot.epoch == caller.welcome.epoch
    };
    until(is_there).await;
    served.drain();
    served.ended().await;
    assert!(Snapshot::read(&name).is_err(), "the segment goes with its broker");
}

#[tokio::test]
async fn closing_the_broker_closes_the_sessions() {
    let mut served = served(|_| {}).await;
    let mut caller = Caller::attach(&served.socket).await;
    served.drain();
    let report = served.ended().await;
    assert_eq!((report.in_flight, report.cut, report.sessions), (0, 0, 1));
    assert_eq!(caller.goodbye().await.code, Code::Drained);
    assert!(Control::connect(&served.socket).is_err());
    served.at_rest().await;
    assert_eq!(caller.next(0).map(|(header, _)| header.kind), None::<u8>, "{:?}", Kind::End);
}
