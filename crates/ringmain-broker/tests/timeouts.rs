//! The seven time limits of an exchange: each can be the broker's, an endpoint's or a route's, none
//! outlasts its caller's deadline, and each expiry has a code of its own.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::guest::{Kept, caller};
use common::{Provider, Served, Step, route, soon};
use ringmain_broker::face::{Egress, Exchange, Failure, Push, Request};
use ringmain_broker::rules::{EndpointRules, RouteRules, Rules};
use ringmain_broker::{BrokerConfig, RouteTable};
use ringmain_policy::ExchangeLimits;
use ringmain_policy::retry::RetryPolicy;
use ringmain_policy::timeouts::LimitChanges;
use ringmain_shm::monotonic_ns;
use ringmain_upstream::{Endpoint, EndpointConfig, UsageSplice};
use ringmain_wire::{Code, Kind, Mode, RequestHead};
use tokio::net::TcpListener;

const SHORT: Duration = Duration::from_millis(120);
const LONG: Duration = Duration::from_secs(9);
/// A limit passes within 100 ms; a loaded machine takes longer to tell.
const LATE: Duration = Duration::from_secs(3);
/// More than the buffers between here and a server that reads nothing.
const LARGE: usize = 32 << 20;

/// One of the seven.
#[derive(Clone, Copy, Debug)]
struct Limit {
    code: Code,
    set: fn(&mut LimitChanges, Duration),
}

const LIMITS: [Limit; 7] = [
    Limit { code: Code::ConnectTimeout, set: |limits, time| limits.connect = Some(time) },
    Limit { code: Code::WriteTimeout, set: |limits, time| limits.write = Some(time) },
    Limit { code: Code::HeadTimeout, set: |limits, time| limits.head = Some(time) },
    Limit {
        code: Code::FirstContentTimeout,
        set: |limits, time| limits.first_content = Some(time),
    },
    Limit { code: Code::IdleTimeout, set: |limits, time| limits.idle = Some(time) },
    Limit { code: Code::TotalTimeout, set: |limits, time| limits.total = Some(time) },
    Limit { code: Code::SlowConsumer, set: |limits, time| limits.slow_consumer = Some(time) },
];

/// Who sets the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Broker,
    Endpoint,
    Route,
    /// Nobody: the caller's deadline comes first.
    Caller,
}

impl Limit {
    fn of(self, time: Duration) -> LimitChanges {
        let mut limits = LimitChanges::default();
        (self.set)(&mut limits, time);
        limits
    }
}

/// Keeps nothing behind the head.
struct Deaf(Kept);

impl Egress for Deaf {
    fn push(&mut self, kind: Kind, choice: u16, payload: &[u8]) -> Result<Push, Failure> {
        match kind {
            Kind::Head => self.0.push(kind, choice, payload),
            _ => Ok(Push::Full),
        }
    }

    fn poll_room(&mut self, _: &mut Context<'_>, _: u64) -> Poll<Result<(), Failure>> {
        Poll::Pending
    }

    fn release_request(&mut self) {}

    fn flush(&mut self) {}
}

/// A server that takes connections and does nothing with them.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{}/v1", listener.local_addr().unwrap());
    (listener, url)
}

/// How an exchange ends that meets this limit, set by one of those who may.
async fn meet(limit: Limit, whose: Whose) {
    let provider = Provider::start(&[
        ("head", vec![Step::HangWithoutHead]),
        ("first", vec![Step::Bytes(": ping\n\n".into()), Step::Hang]),
        ("idle", vec![Step::Delta("a".into()), Step::Hang]),
    ])
    .await;
    let (_listener, silent) = silent().await;
    let url = match limit.code {
        Code::ConnectTimeout => format!("https://{silent}"),
        Code::WriteTimeout => format!("http://{silent}"),
        Code::HeadTimeout | Code::TotalTimeout => provider.base_url_of("head"),
        Code::FirstContentTimeout => provider.base_url_of("first"),
        _ => provider.base_url_of("idle"),
    };
    let mut endpoint = EndpointConfig::new("e", url);
    endpoint.usage = UsageSplice::Off;
    endpoint.connect_timeout = LONG;
    let endpoint = Arc::new(Endpoint::new(endpoint).unwrap());
    let mut config = BrokerConfig::default();
    let (own, of_route) = match whose {
        Whose::Broker => {
            config.limits = limit.of(SHORT).over(ExchangeLimits::default());
            (LimitChanges::default(), LimitChanges::default())
        }
        Whose::Endpoint => (limit.of(SHORT), LimitChanges::default()),
        Whose::Route => (limit.of(LONG), limit.of(SHORT)),
        Whose::Caller => (limit.of(LONG), LimitChanges::default()),
    };
    let retry = Some(RetryPolicy { attempts: 1, ..RetryPolicy::default() });
    let mut rules = Rules::default();
    rules.endpoints.insert("e".into(), EndpointRules { limits: own, ..EndpointRules::default() });
    rules.routes.insert("*".into(), RouteRules { limits: of_route, retry, ..Default::default() });
    let table = RouteTable::new(vec![route("*", "e")], vec![endpoint]).unwrap();
    let served = Served::start(config, table.with_rules(&rules));
    let failure = ask(&served, limit, whose).await;
    let code = if whose == Whose::Caller { Code::DeadlineExceeded } else { limit.code };
    assert_eq!(failure.code, code, "{whose:?}: {failure:?}");
    served.at_rest().await;
}

async fn ask(served: &Served, limit: Limit, whose: Whose) -> Failure {
    let mut exchange = Exchange::begin(&served.broker, caller()).unwrap();
    let head = RequestHead::new("tiny", "/chat/completions");
    let body = match limit.code {
        Code::WriteTimeout => Bytes::from(vec![b' '; LARGE]),
        _ => Bytes::from_static(b"{}"),
    };
    let mut request = Request::new(head, body, Mode::Deltas);
    if whose == Whose::Caller {
        request.deadline_ns = Some(monotonic_ns() + SHORT.as_nanos() as u64);
    }
    let begun = Instant::now();
    let ended = match limit.code {
        Code::SlowConsumer => soon(exchange.run(request, &mut Deaf(Kept::default()))).await,
        _ => soon(exchange.run(request, &mut Kept::default())).await,
    };
    let took = begun.elapsed();
    assert!(took >= SHORT && took < SHORT + LATE, "{limit:?} of {whose:?}: {took:?}");
    ended.verdict.unwrap_err()
}

#[tokio::test]
async fn each_limit_is_of_broker_endpoint_and_route_and_within_the_deadline() {
    for limit in LIMITS {
        let whose = [Whose::Broker, Whose::Endpoint, Whose::Route, Whose::Caller];
        let [one, two, three, four] = whose.map(|whose| meet(limit, whose));
        tokio::join!(one, two, three, four);
    }
}
