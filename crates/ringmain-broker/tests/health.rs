//! What callers that give up, health checks and limits on connecting say of an endpoint.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use common::guest::{Kept, chat};
use common::provider::deltas;
use common::{Provider, Served, Step, route, soon, until};
use ringmain_broker::face::{Exchange, Failure};
use ringmain_broker::rules::{EndpointRules, RouteRules, Rules};
use ringmain_broker::{BrokerConfig, Identity, Route, RouteTable, Target};
use ringmain_policy::breaker::{BreakerRule, BreakerState};
use ringmain_policy::timeouts::LimitChanges;
use ringmain_shm::monotonic_ns;
use ringmain_upstream::{Endpoint, EndpointConfig, Probe, UsageSplice};
use ringmain_wire::{Code, ResponseHead, Sent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const MS: Duration = Duration::from_millis(1);

fn endpoint(name: &str, url: &str, change: impl FnOnce(&mut EndpointConfig)) -> Arc<Endpoint> {
    let mut config = EndpointConfig::new(name, url);
    config.usage = UsageSplice::Off;
    change(&mut config);
    Arc::new(Endpoint::new(config).unwrap())
}

/// A route to the first endpoint that falls back to the others, in order.
fn chain(model: &str, names: &[&str]) -> Route {
    let mut route = route(model, names[0]);
    for (tier, name) in names.iter().enumerate().skip(1) {
        route.targets.push(Target { tier: tier as u16, ..Target::new(*name) });
    }
    route
}

/// How a request of a uid ended that its caller waits for no longer than this: the endpoint that
/// HEAD names.
async fn ask(served: &Served, uid: u32, within: Duration) -> Result<String, Failure> {
    let caller = Identity { uid, ..Identity::default() };
    let mut exchange = Exchange::begin(&served.broker, caller).unwrap();
    let (mut kept, mut request) = (Kept::default(), chat());
    request.deadline_ns = Some(monotonic_ns() + within.as_nanos() as u64);
    let ended = soon(exchange.run(request, &mut kept)).await;
    ended.verdict.map(|_| ResponseHead::parse(&kept.frames[0].1).unwrap().endpoint.to_owned())
}

/// A caller's deadlines that pass while an endpoint says nothing shut it for this caller, whose
/// next request goes elsewhere, and for nobody else.
#[tokio::test]
async fn callers_that_wait_in_vain_shut_a_silent_endpoint_for_their_uid() {
    const LONG: Duration = Duration::from_millis(5100);
    let silent = vec![vec![Step::HangWithoutHead]];
    let provider = Provider::in_turn(&[("a", silent), ("b", vec![deltas(&["x"])])]).await;
    let endpoints = ["a", "b"].map(|name| endpoint(name, &provider.base_url_of(name), |_| {}));
    let table = RouteTable::new(vec![chain("*", &["a", "b"])], endpoints.to_vec()).unwrap();
    let breaker = BreakerRule { failures: 3, ..BreakerRule::default() };
    let rule = EndpointRules { breaker, ..EndpointRules::default() };
    let mut rules = Rules::default();
    rules.endpoints.insert("a".into(), rule);
    let served = Served::start(BrokerConfig::default(), table.with_rules(&rules));
    // Impatience says nothing, however often.
    for _ in 0..6 {
        let failure = ask(&served, 7, 20 * MS).await.unwrap_err();
        assert_eq!((failure.code, failure.sent), (Code::DeadlineExceeded, Sent::Maybe));
    }
    let late = |uid| {
        let served = &served;
        async move { assert_eq!(ask(served, uid, LONG).await.unwrap_err().code, LATE) }
    };
    tokio::join!(late(7), late(7), late(7), late(8), late(8));
    assert_eq!(ask(&served, 7, 50 * MS).await.as_deref(), Ok("b"));
    assert_eq!(ask(&served, 8, 50 * MS).await.unwrap_err().code, LATE, "it is open for others");
    let health = served.broker.snapshot().endpoints[0].health;
    assert_eq!((health.breaker, health.resting_uids), (BreakerState::Closed, 1));
    served.at_rest().await;
}

const LATE: Code = Code::DeadlineExceeded;

/// A server whose every answer has the status of the moment.
async fn answering(status: Arc<AtomicU16>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let status = status.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while let Ok(1..) = stream.read(&mut request).await {
                    let status = status.load(Relaxed);
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    url
}

/// Health checks open the breaker of an endpoint that nobody asks, and let a request find out when
/// they are good again.
#[tokio::test]
async fn health_checks_are_told_to_the_breaker() {
    let status = Arc::new(AtomicU16::new(503));
    let url = answering(status.clone()).await;
    let probe = Probe { path: "/models".into(), interval: 5 * MS };
    let checked = endpoint("a", &url, |config| config.probe = Some(probe));
    let table = || RouteTable::new(vec![], vec![checked.clone()]).unwrap();
    let served = Served::start(BrokerConfig::default(), table());
    let breaker = || served.broker.snapshot().endpoints[0].health.breaker;
    until(|| breaker() == BreakerState::Open).await;
    let failure = ask(&served, 7, 1000 * MS).await.unwrap_err();
    assert_eq!((failure.code, failure.sent), (Code::EndpointUnavailable, Sent::No));
    // A reload with the same endpoint goes on listening.
    served.broker.swap_routes(table());
    status.store(200, Relaxed);
    until(|| breaker() == BreakerState::HalfOpen).await;
}

/// A server that takes connections and never greets, so that no TLS connection comes to be.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    (listener, url)
}

/// Each limit on connecting, the route's before the endpoint's: its own code, nothing was sent, and
/// the next endpoint is asked.
#[tokio::test]
async fn a_limit_on_connecting_is_that_of_the_route_then_of_the_endpoint() {
    let (_listener, url) = silent().await;
    let provider = Provider::of(deltas(&["x"])).await;
    let slow = endpoint("slow", &url, |config| config.connect_timeout = 8000 * MS);
    let good = endpoint("good", &provider.base_url(), |_| {});
    let limit = |connect| LimitChanges { connect: Some(connect), ..LimitChanges::default() };
    for (of_route, of_endpoint) in [(60, 9000), (9000, 60)] {
        let of_route = match of_route {
            9000 => LimitChanges::default(),
            short => limit(short * MS),
        };
        let mut rules = Rules::default();
        rules.routes.insert("*".into(), RouteRules { limits: of_route, ..RouteRules::default() });
        let of_endpoint = limit(of_endpoint * MS);
        let rule = EndpointRules { limits: of_endpoint, ..EndpointRules::default() };
        rules.endpoints.insert("slow".into(), rule);
        let routes = vec![chain("*", &["slow", "good"])];
        let table = RouteTable::new(routes, vec![slow.clone(), good.clone()]).unwrap();
        let served = Served::start(BrokerConfig::default(), table.with_rules(&rules));
        assert_eq!(ask(&served, 7, 7000 * MS).await.as_deref(), Ok("good"));
        let alone = RouteTable::new(vec![chain("*", &["slow"])], vec![slow.clone()]).unwrap();
        served.broker.swap_routes(alone.with_rules(&rules));
        let failure = ask(&served, 7, 7000 * MS).await.unwrap_err();
        assert_eq!((failure.code, failure.sent), (Code::ConnectTimeout, Sent::No), "{failure:?}");
        served.at_rest().await;
    }
    assert_eq!(slow.gauges().open, 0);
}
