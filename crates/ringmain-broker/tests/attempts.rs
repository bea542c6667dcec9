//! The attempt loop against providers that fail by script.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::guest::{Kept, caller, chat};
use common::provider::deltas;
use common::{Provider, Served, Step, soon, until};
use ringmain_broker::face::{Exchange, Failure, Request, StopCause};
use ringmain_broker::rules::{EndpointRules, RouteRules, Rules};
use ringmain_broker::{BrokerConfig, Route, RouteTable, Target};
use ringmain_policy::Backoff;
use ringmain_policy::breaker::BreakerRule;
use ringmain_policy::budget::BudgetRule;
use ringmain_policy::retry::RetryPolicy;
use ringmain_policy::timeouts::{AdaptiveRule, LimitChanges};
use ringmain_upstream::{Endpoint, EndpointConfig, UsageSplice};
use ringmain_wire::{Code, Flags, Kind, Mode, ResponseHead, Sent};
use tokio::sync::Notify;

const MS: Duration = Duration::from_millis(1);

/// A world whose route asks `first` and falls back to the others, in order.
struct World {
    provider: Provider,
    served: Served,
}

fn quick() -> RetryPolicy {
    RetryPolicy { attempts: 3, wait: Duration::from_secs(2), backoff: Backoff::new(MS, 5 * MS) }
}

fn endpoint(name: &str, url: String) -> Arc<Endpoint> {
    let mut config = EndpointConfig::new(name, url);
    config.usage = UsageSplice::Off;
    Arc::new(Endpoint::new(config).unwrap())
}

fn chain(endpoints: Vec<Arc<Endpoint>>) -> RouteTable {
    let target = |(tier, endpoint): (usize, &Arc<Endpoint>)| {
        let mut target = Target::new(endpoint.name());
        target.tier = tier as u16;
        target
    };
    let targets = endpoints.iter().enumerate().map(target).collect();
    RouteTable::new(vec![Route { model: "*".into(), targets, allow: None }], endpoints).unwrap()
}

async fn world_with(
    scripts: &[(&str, Vec<Vec<Step>>)],
    route: RouteRules,
    of_endpoints: EndpointRules,
) -> World {
    let provider = Provider::in_turn(scripts).await;
    let named = |(name, _): &(&str, _)| endpoint(name, provider.base_url_of(name));
    let mut rules = Rules::default();
    rules.routes.insert("*".into(), route);
    for (name, _) in scripts {
        rules.endpoints.insert((*name).into(), of_endpoints);
    }
    let table = chain(scripts.iter().map(named).collect()).with_rules(&rules);
    World { provider, served: Served::start(BrokerConfig::default(), table) }
}

async fn world(scripts: &[(&str, Vec<Vec<Step>>)]) -> World {
    let route = RouteRules { retry: Some(quick()), ..RouteRules::default() };
    world_with(scripts, route, EndpointRules::default()).await
}

/// What became of one request.
struct Told {
    verdict: Result<(), Failure>,
    kept: Kept,
    attempts: u16,
}

impl Told {
    fn failure(&self) -> &Failure {
        self.verdict.as_ref().unwrap_err()
    }

    fn code(&self) -> Code {
        self.failure().code
    }

    /// Endpoint and attempt that HEAD names.
    fn head(&self) -> (String, u16) {
        let (kind, payload) = &self.kept.frames[0];
        assert_eq!(*kind, Kind::Head);
        let head = ResponseHead::parse(payload).unwrap();
        (head.endpoint.to_owned(), head.attempt)
    }
}

impl World {
    async fn ask(&self) -> Told {
        self.ask_for(chat()).await
    }

    async fn ask_for(&self, request: Request<'_>) -> Told {
        let mut exchange = Exchange::begin(&self.served.broker, caller()).unwrap();
        let mut kept = Kept::default();
        let ended = soon(exchange.run(request, &mut kept)).await;
        let attempts = exchange.attempts();
        drop(exchange);
        Told { verdict: ended.verdict.map(|_| ()), kept, attempts }
    }
}

fn refuse(status: u16) -> Vec<Step> {
    vec![Step::Refuse(status, "")]
}

fn fine() -> Vec<Step> {
    deltas(&["hel", "lo"])
}

fn bytes(text: &str) -> Step {
    Step::Bytes(text.to_owned())
}

fn error_event() -> Step {
    bytes("data: {\"error\":{\"message\":\"overloaded\",\"code\":\"busy\"}}\n\n")
}

#[tokio::test]
async fn refusals_of_the_moment_are_asked_again_and_others_are_passed_on() {
    for status in [408, 409, 429, 500, 503, 529] {
        let world = world(&[("one", vec![refuse(status), fine()])]).await;
        let told = world.ask().await;
        assert_eq!((told.kept.text().as_str(), told.attempts), ("hello", 2), "{status}");
        assert_eq!(told.head(), ("one".to_owned(), 2));
        assert!(told.verdict.is_ok());
    }
    for status in [400, 401, 403, 404, 422] {
        let world = world(&[("one", vec![refuse(status), fine()])]).await;
        let told = world.ask().await;
        assert_eq!((told.code(), told.attempts), (Code::UpstreamStatus, 1), "{status}");
        assert_eq!(told.failure().http_status, Some(status));
    }
}

#[tokio::test]
async fn the_last_refusal_is_passed_on_as_it_is() {
    let world = world(&[("one", vec![refuse(503), refuse(500), refuse(429)])]).await;
    let mut request = chat();
    request.mode = Mode::Events;
    let told = world.ask_for(request).await;
    assert!(told.verdict.is_ok(), "{:?}", told.verdict);
    assert_eq!((told.head(), world.provider.requests()), (("one".to_owned(), 3), 3));
    let bodies = told.kept.frames.iter().filter(|(kind, _)| *kind == Kind::Body);
    let body: Vec<u8> = bodies.flat_map(|(_, payload)| payload.clone()).collect();
    assert!(String::from_utf8(body).unwrap().contains("no, 429"));
}

#[tokio::test]
async fn what_must_not_be_done_twice_is_asked_once() {
    let world = world(&[("one", vec![refuse(503), fine()])]).await;
    let mut once = chat();
    once.flags = Flags::ONCE;
    let told = world.ask_for(once).await;
    assert_eq!((told.code(), told.attempts), (Code::UpstreamStatus, 1));
    assert_eq!(told.failure().sent, Sent::Yes);
    // A path that may store something, unless it carries a key: which goes out as it is, each time.
    let world = crate::world(&[("one", vec![refuse(503), refuse(503), fine()])]).await;
    let mut file = chat();
    file.head.path = "/audio/transcriptions";
    assert_eq!(world.ask_for(file).await.attempts, 1);
    let mut keyed = chat();
    keyed.head.path = "/audio/transcriptions";
    keyed.head.idempotency_key = Some("Key-7");
    assert_eq!(world.ask_for(keyed).await.attempts, 2);
    let heads = world.provider.seen.heads.lock().unwrap();
    let keys = heads.iter().filter(|head| head.contains("idempotency-key: key-7")).count();
    assert_eq!(keys, 2);
}

#[tokio::test]
async fn an_error_object_before_the_first_content_is_asked_again() {
    let role = bytes("data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n");
    for broken in [
        vec![error_event(), Step::End],
        vec![role, error_event(), Step::End],
        vec![bytes(": waiting\n\n"), error_event(), Step::End],
    ] {
        for mode in [Mode::Deltas, Mode::Events] {
            let world = world(&[("one", vec![broken.clone(), fine()])]).await;
            let mut request = chat();
            request.mode = mode;
            let told = world.ask_for(request).await;
            assert!(told.verdict.is_ok() && told.attempts == 2, "{:?}", told.verdict);
            assert_eq!(told.head(), ("one".to_owned(), 2));
            let heads = told.kept.frames.iter().filter(|(kind, _)| *kind == Kind::Head).count();
            let all: Vec<u8> = told.kept.frames.iter().flat_map(|f| f.1.clone()).collect();
            let all = String::from_utf8_lossy(&all).into_owned();
            assert!(heads == 1 && !all.contains("overloaded") && !all.contains("waiting"));
        }
    }
}

/// Behind a good head it may be work that was done: nobody is asked for it twice.
#[tokio::test]
async fn an_answer_that_breaks_behind_a_good_head_is_final() {
    let role = bytes("data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n");
    for broken in [
        vec![role.clone(), Step::End],
        vec![role, Step::Cut],
        vec![bytes(": waiting\n\n"), Step::Cut],
        vec![Step::End],
    ] {
        for mode in [Mode::Deltas, Mode::Events] {
            let scripts = [("one", vec![broken.clone(), fine()]), ("two", vec![fine()])];
            let world = world(&scripts).await;
            let mut request = chat();
            request.mode = mode;
            let told = world.ask_for(request).await;
            assert_eq!((told.failure().sent, told.attempts), (Sent::Yes, 1));
            assert_eq!((told.kept.frames.len(), world.provider.requests()), (0, 1));
        }
    }
}

#[tokio::test]
async fn nothing_is_asked_again_after_the_first_content() {
    for (end, code) in [
        (vec![error_event(), Step::End], Code::UpstreamError),
        (vec![Step::Cut], Code::UpstreamTruncated),
        (vec![Step::End], Code::UpstreamTruncated),
    ] {
        let script = [vec![Step::Delta("a".into())], end].concat();
        let world = world(&[("one", vec![script, fine()]), ("two", vec![fine()])]).await;
        let told = world.ask().await;
        assert_eq!((told.code(), told.kept.text().as_str(), told.attempts), (code, "a", 1));
        assert_eq!(told.failure().sent, Sent::Yes);
        assert_eq!(world.provider.requests(), 1);
    }
}

/// The window before the first content is bounded: beyond it the answer is the caller's.
#[tokio::test]
async fn a_window_that_is_full_is_over() {
    let pings = |count: usize| vec![bytes(&": ping\n\n".repeat(count)), error_event(), Step::End];
    let ask = async |script: Vec<Step>| {
        let world = world(&[("one", vec![script, fine()])]).await;
        let mut request = chat();
        request.mode = Mode::Events;
        world.ask_for(request).await
    };
    // The error event is one of those that are held.
    let told = ask(pings(63)).await;
    assert!(told.verdict.is_ok() && told.attempts == 2);
    let told = ask(pings(65)).await;
    assert_eq!((told.code(), told.attempts), (Code::UpstreamError, 1));
    let events = told.kept.frames.iter().filter(|(kind, _)| *kind == Kind::Event).count();
    assert_eq!((events, told.head().1), (66, 1), "every one of them, in order");
    let big = vec![bytes(&format!(": {}\n\n", "x".repeat(300 * 1024))), error_event(), Step::End];
    assert_eq!(ask(big).await.attempts, 1);
}

#[tokio::test]
async fn a_request_that_may_have_been_processed_is_not_repeated() {
    let world = world(&[("one", vec![vec![Step::Cut], fine()])]).await;
    let told = world.ask().await;
    assert_eq!((told.code(), told.attempts), (Code::UpstreamReset, 1));
    assert_eq!((told.failure().sent, world.provider.requests()), (Sent::Maybe, 1));
}

#[tokio::test]
async fn without_a_connection_the_next_endpoint_is_asked_at_once() {
    let provider = Provider::of(fine()).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = endpoint("dead", format!("http://{nobody}/v1"));
    let live = endpoint("live", provider.base_url());
    let served = Served::start(BrokerConfig::default(), chain(vec![dead.clone(), live]));
    let world = World { provider, served };
    let mut once = chat();
    once.flags = Flags::ONCE;
    let told = world.ask_for(once).await;
    assert!(told.verdict.is_ok());
    assert_eq!(told.head(), ("live".to_owned(), 2));
    // Nothing was sent, however often.
    let mut rules = Rules::default();
    rules.routes.insert("*".into(), RouteRules { retry: Some(quick()), ..RouteRules::default() });
    let table = chain(vec![dead]).with_rules(&rules);
    world.served.broker.swap_routes(table);
    let told = world.ask().await;
    assert_eq!((told.code(), told.attempts), (Code::UpstreamConnect, 3));
    assert_eq!(told.failure().sent, Sent::No);
}

/// What one attempt sent stays sent, whatever the last one says of itself.
#[tokio::test]
async fn a_failure_tells_of_all_attempts() {
    let provider = Provider::of(refuse(503)).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = endpoint("dead", format!("http://{nobody}/v1"));
    let live = endpoint("live", provider.base_url());
    let mut rules = Rules::default();
    let two = RetryPolicy { attempts: 2, ..quick() };
    rules.routes.insert("*".into(), RouteRules { retry: Some(two), ..RouteRules::default() });
    let table = chain(vec![live, dead]).with_rules(&rules);
    let world = World { provider, served: Served::start(BrokerConfig::default(), table) };
    let told = world.ask().await;
    assert_eq!((told.code(), told.attempts), (Code::UpstreamConnect, 2));
    assert_eq!(told.failure().sent, Sent::Yes, "the first endpoint saw it");
}

#[tokio::test]
async fn fallbacks_are_asked_in_order_and_only_before_content() {
    let busy = || vec![refuse(503)];
    let scripts = [("a", busy()), ("b", vec![vec![error_event(), Step::End]]), ("c", vec![fine()])];
    let world = world(&scripts).await;
    let told = world.ask().await;
    assert_eq!((told.head(), told.kept.text().as_str()), (("c".to_owned(), 3), "hello"));
    let asked = ["a", "b", "c"].map(|name| world.provider.requests_of(name));
    assert_eq!(asked, [1, 1, 1]);
}

#[tokio::test]
async fn the_wishes_of_a_provider_are_kept() {
    // As long as it asks for, in each form.
    for header in ["retry-after-ms: 150\r\n", "retry-after: 0.15\r\n"] {
        let busy = vec![Step::Refuse(429, header)];
        let world = world(&[("one", vec![busy, fine()])]).await;
        let begun = Instant::now();
        assert_eq!(world.ask().await.attempts, 2);
        assert!(begun.elapsed() >= 150 * MS, "{:?}", begun.elapsed());
    }
    // A wait that is too long is the caller's to make, at once.
    let busy = vec![Step::Refuse(429, "retry-after: 30\r\n")];
    let world = world(&[("one", vec![busy, fine()])]).await;
    let told = world.ask().await;
    assert_eq!((told.code(), told.attempts), (Code::UpstreamStatus, 1));
    assert_eq!(told.failure().retry_after_ms, Some(30_000));
    // But another endpoint need not wait for it.
    let busy = vec![Step::Refuse(429, "retry-after: 30\r\n")];
    let world = crate::world(&[("one", vec![busy]), ("two", vec![fine()])]).await;
    assert_eq!(world.ask().await.head(), ("two".to_owned(), 2));
    let no = vec![Step::Refuse(503, "x-should-retry: false\r\n")];
    let world = crate::world(&[("one", vec![no, fine()])]).await;
    assert_eq!(world.ask().await.attempts, 1);
    let yes = vec![Step::Refuse(400, "x-should-retry: true\r\n")];
    let world = crate::world(&[("one", vec![yes, fine()])]).await;
    assert_eq!(world.ask().await.attempts, 2);
}

#[tokio::test]
async fn no_retry_is_waited_for_beyond_the_deadline() {
    let busy = vec![Step::Refuse(503, "retry-after: 1\r\n")];
    let world = world(&[("one", vec![busy, fine()])]).await;
    let mut hurried = chat();
    hurried.deadline_ns = Some(ringmain_shm::monotonic_ns() + 700_000_000);
    let told = world.ask_for(hurried).await;
    assert_eq!((told.code(), told.attempts), (Code::UpstreamStatus, 1));
}

#[tokio::test]
async fn retries_are_a_share_of_the_requests() {
    let budget = BudgetRule { percent: 50, floor_per_s: 0 };
    let breaker = BreakerRule { failures: 0, percent: 0, ..BreakerRule::default() };
    let rules = EndpointRules { budget, breaker, ..EndpointRules::default() };
    let route = RouteRules { retry: Some(quick()), ..RouteRules::default() };
    let world = world_with(&[("one", vec![refuse(503)])], route, rules).await;
    for _ in 0..20 {
        assert_eq!(world.ask().await.code(), Code::UpstreamStatus);
    }
    assert_eq!(world.provider.requests(), 30, "20 and half of them again");
}

#[tokio::test]
async fn a_breaker_opens_lets_one_probe_through_and_closes() {
    let open = 300 * MS;
    let breaker = BreakerRule { failures: 2, open, ..BreakerRule::default() };
    let rules = EndpointRules { breaker, ..EndpointRules::default() };
    let once = RetryPolicy { attempts: 1, ..quick() };
    let route = RouteRules { retry: Some(once), ..RouteRules::default() };
    let scripts = [("one", vec![refuse(500), refuse(500), fine()])];
    let world = world_with(&scripts, route, rules).await;
    for _ in 0..2 {
        assert_eq!(world.ask().await.code(), Code::UpstreamStatus);
    }
    let opened = Instant::now();
    let told = world.ask().await;
    if opened.elapsed() < open {
        assert_eq!((told.code(), told.attempts), (Code::EndpointUnavailable, 0));
        assert!(told.failure().retry_after_ms.is_some_and(|ms| ms <= 300));
        assert_eq!(told.failure().sent, Sent::No);
    }
    tokio::time::sleep(open).await;
    assert!(world.ask().await.verdict.is_ok());
    assert!(world.ask().await.verdict.is_ok());
}

/// With one endpoint open, its share goes to the other one without an attempt being lost on it.
#[tokio::test]
async fn a_resting_endpoint_is_passed_over() {
    let breaker = BreakerRule { failures: 1, ..BreakerRule::default() };
    let rules = EndpointRules { breaker, ..EndpointRules::default() };
    let route = RouteRules { retry: Some(quick()), ..RouteRules::default() };
    let scripts = [("a", vec![refuse(500)]), ("b", vec![fine()])];
    let world = world_with(&scripts, route, rules).await;
    assert_eq!(world.ask().await.head(), ("b".to_owned(), 2));
    for _ in 0..5 {
        assert_eq!(world.ask().await.head(), ("b".to_owned(), 1));
    }
    assert_eq!(world.provider.requests_of("a"), 1);
}

/// Whoever waits between two attempts can still be stopped, and was seen.
#[tokio::test]
async fn a_wait_between_attempts_ends_with_a_cancel() {
    let busy = vec![Step::Refuse(503, "retry-after: 15\r\n")];
    let patient = RetryPolicy { wait: Duration::from_secs(20), ..quick() };
    let route = RouteRules { retry: Some(patient), ..RouteRules::default() };
    let world = world_with(&[("one", vec![busy])], route, EndpointRules::default()).await;
    let mut exchange = Exchange::begin(&world.served.broker, caller()).unwrap();
    let stop = exchange.stop();
    let mut kept = Kept::default();
    let (ended, ()) = soon(async {
        tokio::join!(exchange.run(chat(), &mut kept), async {
            until(|| world.provider.requests() == 1).await;
            tokio::time::sleep(50 * MS).await;
            stop.request(StopCause::Cancelled);
        })
    })
    .await;
    let failure = ended.verdict.unwrap_err();
    assert_eq!((failure.code, failure.sent), (Code::Cancelled, Sent::Yes));
    assert!(kept.frames.is_empty());
}

/// The body stays lent until no attempt can follow, and is the same in each of them.
#[tokio::test]
async fn each_attempt_sends_the_whole_request() {
    let world = world(&[("one", vec![refuse(503), refuse(503), fine()])]).await;
    let text = format!(r#"{{"model":"tiny","pad":"{}"}}"#, "x".repeat(200_000));
    let mut request = chat();
    request.body = text.clone().into();
    let told = world.ask_for(request).await;
    assert!(told.verdict.is_ok() && told.kept.released);
    let heads = world.provider.seen.heads.lock().unwrap();
    let length = format!("content-length: {}", text.len());
    assert_eq!(heads.iter().filter(|head| head.contains(&length)).count(), 3);
}

#[tokio::test]
async fn limits_are_those_of_the_route_then_of_the_endpoint() {
    let short = LimitChanges { first_content: Some(60 * MS), ..LimitChanges::default() };
    let long = LimitChanges { first_content: Some(9000 * MS), ..LimitChanges::default() };
    let silent = || [("one", vec![vec![bytes(": ping\n\n"), Step::Hang]])];
    let of_route = RouteRules { limits: short, ..RouteRules::default() };
    let of_endpoint = EndpointRules { limits: long, ..EndpointRules::default() };
    let world = world_with(&silent(), of_route, of_endpoint).await;
    let told = world.ask().await;
    assert_eq!(told.code(), Code::FirstContentTimeout);
    let of_endpoint = EndpointRules { limits: short, ..EndpointRules::default() };
    let world = world_with(&silent(), RouteRules::default(), of_endpoint).await;
    assert_eq!(world.ask().await.code(), Code::FirstContentTimeout);
    // Nothing but content moves the limit.
    let pings = std::iter::repeat_n(bytes(": ping\n\n"), 5).chain([Step::Hang]).collect();
    let rules = EndpointRules { limits: short, ..EndpointRules::default() };
    let world = world_with(&[("one", vec![pings])], RouteRules::default(), rules).await;
    assert_eq!(world.ask().await.code(), Code::FirstContentTimeout);
    until(|| world.provider.dropped() == 1).await;
}

/// What does not stream has the whole of its time for its answer.
#[tokio::test]
async fn a_plain_request_has_one_limit() {
    let limits = LimitChanges {
        head: Some(30 * MS),
        first_content: Some(30 * MS),
        total: Some(200 * MS),
        ..LimitChanges::default()
    };
    let rules = EndpointRules { limits, ..EndpointRules::default() };
    let scripts = [("one", vec![vec![Step::HangWithoutHead]])];
    let world = world_with(&scripts, RouteRules::default(), rules).await;
    assert_eq!(world.ask().await.code(), Code::HeadTimeout);
    let mut plain = chat();
    plain.mode = Mode::Body;
    let begun = Instant::now();
    let told = world.ask_for(plain).await;
    assert!(matches!(told.code(), Code::TotalTimeout | Code::HeadTimeout), "{:?}", told.code());
    assert!(begun.elapsed() >= 200 * MS);
}

#[tokio::test]
async fn adaptive_limits_act_when_enough_was_seen() {
    let adaptive = AdaptiveRule { floor: 80 * MS, ceiling: 100 * MS, samples_min: 5 };
    let route = RouteRules { adaptive: Some(adaptive), ..RouteRules::default() };
    let hang = vec![Step::Delta("a".into()), Step::Hang];
    let gate = Arc::new(Notify::new());
    // What comes at once has no pause that could be seen, as what comes just before the gate opens.
    let paused = vec![
        Step::Delta("hel".into()),
        Step::Gate(gate.clone()),
        Step::Delta("lo".into()),
        Step::Done,
    ];
    let scripts = [("one", [vec![paused; 20], vec![hang]].concat())];
    let world = world_with(&scripts, route, EndpointRules::default()).await;
    let opens = tokio::spawn(async move {
        loop {
            tokio::time::sleep(10 * MS).await;
            gate.notify_waiters();
        }
    });
    for _ in 0..20 {
        assert!(world.ask().await.verdict.is_ok());
    }
    opens.abort();
    let told = world.ask().await;
    assert_eq!((told.code(), told.kept.text().as_str()), (Code::IdleTimeout, "a"));
}
