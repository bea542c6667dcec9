//! What an attempt takes before it is made, and what it gives back before the next one: nobody is
//! shut out by one who only waits.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::guest::{Kept, caller, chat};
use common::provider::deltas;
use common::{Provider, Served, Step, soon, until};
use ringmain_broker::face::{Exchange, StopCause};
use ringmain_broker::rules::{EndpointRules, RouteRules, Rules};
use ringmain_broker::{BrokerConfig, Identity, Route, RouteTable, Target};
use ringmain_policy::breaker::BreakerRule;
use ringmain_policy::retry::RetryPolicy;
use ringmain_policy::{Backoff, LimitRule, LimitUid, Rate};
use ringmain_shm::monotonic_ns;
use ringmain_upstream::{Endpoint, EndpointConfig, UsageSplice};
use ringmain_wire::{Code, Kind, ResponseHead};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

const MS: Duration = Duration::from_millis(1);

/// A route whose endpoints are asked in order, under these limits.
async fn world(
    scripts: &[(&str, Vec<Vec<Step>>)],
    attempts: u32,
    breaker: BreakerRule,
    rates: Vec<LimitRule>,
) -> (Provider, Served) {
    let provider = Provider::in_turn(scripts).await;
    let (mut endpoints, mut targets, mut rules) = (Vec::new(), Vec::new(), Rules::default());
    let backoff = Backoff::new(MS, 5 * MS);
    let retry = Some(RetryPolicy { attempts, wait: Duration::from_secs(20), backoff });
    rules.routes.insert("*".into(), RouteRules { retry, ..RouteRules::default() });
    for (tier, (name, _)) in scripts.iter().enumerate() {
        let mut config = EndpointConfig::new(*name, provider.base_url_of(name));
        (config.usage, config.connections_max) = (UsageSplice::Off, 1);
        endpoints.push(Arc::new(Endpoint::new(config).unwrap()));
        targets.push(Target { tier: tier as u16, ..Target::new(*name) });
        let of_endpoint = EndpointRules { breaker, ..EndpointRules::default() };
        rules.endpoints.insert((*name).into(), of_endpoint);
    }
    let route = Route { model: "*".into(), targets, allow: None };
    let table = RouteTable::new(vec![route], endpoints).unwrap().with_rules(&rules);
    let mut config = BrokerConfig::default();
    config.rates = rates;
    (provider, Served::start(config, table))
}

/// Who answered, if it was answered.
async fn ask(served: &Served, caller: Identity) -> Option<String> {
    let mut exchange = Exchange::begin(&served.broker, caller).unwrap();
    let mut kept = Kept::default();
    soon(exchange.run(chat(), &mut kept)).await.verdict.ok()?;
    let (_, head) = kept.frames.iter().find(|(kind, _)| *kind == Kind::Head)?;
    Some(ResponseHead::parse(head).unwrap().endpoint.to_owned())
}

fn uid(uid: u32) -> Identity {
    Identity { uid, ..caller() }
}

fn refuse(status: u16, headers: &'static str) -> Vec<Step> {
    vec![Step::Refuse(status, headers)]
}

fn fine() -> Vec<Step> {
    deltas(&["hello"])
}

/// An endpoint that wants to be left alone does not keep anybody from the one beside it.
#[tokio::test]
async fn a_held_endpoint_is_passed_over_while_another_has_room() {
    let scripts = [("a", vec![refuse(429, "retry-after: 4\r\n")]), ("b", vec![fine()])];
    let (provider, served) = world(&scripts, 3, BreakerRule::default(), Vec::new()).await;
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(ask(&served, caller()).await.as_deref(), Some("b"));
    }
    assert!(begun.elapsed() < 4000 * MS, "{:?}", begun.elapsed());
    assert_eq!(provider.requests_of("a"), 1);
}

/// One whose own limit is used up waits without the right to probe, which others take.
#[tokio::test]
async fn nobody_holds_a_probe_while_waiting_for_room() {
    let open = 50 * MS;
    let breaker = BreakerRule { failures: 1, open, ..BreakerRule::default() };
    let requests = Some(Rate { per_minute: 2, burst: 1 });
    let slow = LimitRule { uid: Some(LimitUid::One(7)), requests, ..LimitRule::default() };
    let scripts = [("a", vec![refuse(500, ""), fine()])];
    let (provider, served) = world(&scripts, 1, breaker, vec![slow]).await;
    let _refused = ask(&served, uid(7)).await;
    tokio::time::sleep(open).await;
    let mut waits = Exchange::begin(&served.broker, uid(7)).unwrap();
    let stop = waits.stop();
    let mut kept = Kept::default();
    let (ended, ()) = soon(async {
        tokio::join!(waits.run(chat(), &mut kept), async {
            until(|| served.broker.snapshot().limits.iter().any(|limit| limit.waiting == 1)).await;
            assert_eq!(ask(&served, uid(8)).await.as_deref(), Some("a"), "it probes");
            stop.request(StopCause::Cancelled);
        })
    })
    .await;
    assert!(ended.verdict.is_err());
    assert_eq!(provider.requests(), 2);
}

/// While a refused request waits for its next attempt, others have its place and its connection.
#[tokio::test]
async fn a_refused_attempt_holds_nothing_while_it_waits() {
    let rule = LimitRule { in_flight: Some(1), ..LimitRule::default() };
    let scripts = [("a", vec![refuse(503, "retry-after: 1\r\n"), fine()])];
    let (provider, served) = world(&scripts, 2, BreakerRule::default(), vec![rule]).await;
    let (first, second) = soon(async {
        let begun = Instant::now();
        tokio::join!(
            async {
                assert_eq!(ask(&served, uid(7)).await.as_deref(), Some("a"));
                begun.elapsed()
            },
            async {
                until(|| provider.requests() == 1).await;
                assert_eq!(ask(&served, uid(8)).await.as_deref(), Some("a"));
                begun.elapsed()
            }
        )
    })
    .await;
    assert!(second < first && first >= 1000 * MS, "{second:?} {first:?}");
    assert_eq!(provider.requests(), 3);
}

/// A refusal that does not come to its end is not waited for, and passed on in words of our own
/// where no attempt follows it after all.
#[tokio::test]
async fn a_refusal_without_an_end_is_not_held() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let provider = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = b"HTTP/1.1 503 No\r\nretry-after: 0\r\ncontent-length: 100\r\n\r\nwait ";
        assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
        stream.write_all(head).await.unwrap();
        // It ends when the broker lets go of the connection.
        while let Ok(1..) = stream.read(&mut [0; 64]).await {}
    });
    let mut config = EndpointConfig::new("a", format!("http://{address}/v1"));
    config.usage = UsageSplice::Off;
    let endpoint = Arc::new(Endpoint::new(config).unwrap());
    let mut config = BrokerConfig::default();
    // Nothing comes back for a second attempt in time.
    let requests = Some(Rate { per_minute: 1, burst: 1 });
    config.rates = vec![LimitRule { requests, ..LimitRule::default() }];
    let served = Served::start(config, RouteTable::new(vec![], vec![endpoint]).unwrap());
    let mut exchange = Exchange::begin(&served.broker, caller()).unwrap();
    let mut request = chat();
    request.deadline_ns = Some(monotonic_ns() + 8_000_000_000);
    let mut kept = Kept::default();
    let failure = soon(exchange.run(request, &mut kept)).await.verdict.err().unwrap();
    assert_eq!((failure.code, failure.http_status), (Code::UpstreamStatus, Some(503)));
    assert!(failure.message.contains("longer than 100 ms"), "{}", failure.message);
    soon(provider).await.unwrap();
}

/// Room that comes when it is too late, on a host that lets nobody run in between, is not used.
#[tokio::test]
async fn nobody_is_asked_after_the_deadline() {
    let scripts = [("a", vec![vec![Step::HangWithoutHead], deltas(&["x"])])];
    let rates = vec![LimitRule { in_flight: Some(1), ..LimitRule::default() }];
    let (provider, served) = world(&scripts, 1, BreakerRule::default(), rates).await;
    let broker = served.broker.clone();
    let first = tokio::spawn(async move {
        let mut exchange = Exchange::begin(&broker, caller()).unwrap();
        exchange.run(chat(), &mut Kept::default()).await.verdict.is_ok()
    });
    until(|| provider.requests() == 1).await;
    let mut exchange = Exchange::begin(&served.broker, caller()).unwrap();
    let deadline_ns = monotonic_ns() + 50_000_000;
    let (mut request, mut kept) = (chat(), Kept::default());
    request.deadline_ns = Some(deadline_ns);
    let mut second = Box::pin(exchange.run(request, &mut kept));
    assert!(timeout(Duration::ZERO, &mut second).await.is_err(), "it waits for room");
    while monotonic_ns() <= deadline_ns {
        std::hint::spin_loop();
    }
    first.abort();
    assert!(soon(first).await.is_err());
    let failure = soon(second).await.verdict.err().unwrap();
    assert_eq!((failure.code, provider.requests()), (Code::DeadlineExceeded, 1));
    drop(exchange);
    served.at_rest().await;
}
