//! Permits in real tasks: waiting, cancelling, panicking; nothing stays held.

use std::time::Duration;

use bytes::Bytes;
use ringmain_policy::{LimitRule, QueueBounds, Rate};
use ringmain_shm::monotonic_ns;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn gate(rule: LimitRule) -> Gate {
    Gate::new(vec![rule], QueueBounds::default())
}

fn in_flight(most: u64) -> LimitRule {
    LimitRule { route: Some("m".into()), in_flight: Some(most), ..LimitRule::default() }
}

fn candidate(gate: &Gate, left: Duration) -> Candidate<'_> {
    let deadline_ns = monotonic_ns() + left.as_nanos() as u64;
    Candidate { gate, uid: 7, session: 1, deadline_ns, route: "m" }
}

async fn permit(gate: &Gate) -> Permit<'_> {
    enter(candidate(gate, SOON), &Body::Own(Bytes::new())).await
}

/// An answer that told its usage.
fn telling(tokens: u64) -> Record {
    Record { tokens: Some(tokens), ..Record::new() }
}

#[tokio::test]
async fn a_waiter_is_woken_when_its_turn_comes() {
    let requests = Some(Rate { per_minute: 1200, burst: 1 });
    let rule = LimitRule { route: Some("m".into()), requests, ..LimitRule::default() };
    let gate = gate(rule);
    let started = monotonic_ns();
    for _ in 0..4 {
        let mut permit = permit(&gate).await;
        permit.attempt(Some("a"), monotonic_ns()).await.unwrap();
        permit.sent();
        permit.settle(&Record::new());
    }
    assert!(monotonic_ns() - started >= 150_000_000, "three turns of 50 ms");
    assert!(gate.is_at_rest());
}

/// The task of the timer is gone with its runtime; whoever waits in the next one has one again.
#[test]
fn a_waiter_in_another_runtime_is_woken() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let requests = Some(Rate { per_minute: 600, burst: 1 });
    let gate = gate(LimitRule { route: Some("m".into()), requests, ..LimitRule::default() });
    runtime().block_on(async {
        let mut first = permit(&gate).await;
        first.attempt(Some("a"), monotonic_ns()).await.unwrap();
        first.sent();
        first.settle(&Record::new());
        let mut second = permit(&gate).await;
        let _ = timeout(Duration::ZERO, second.attempt(Some("a"), monotonic_ns())).await;
    });
    runtime().block_on(async {
        let mut third = permit(&gate).await;
        timeout(SOON, third.attempt(Some("a"), monotonic_ns()))
            .await
            .expect("its turn comes")
            .unwrap();
    });
}

#[tokio::test]
async fn an_attempt_that_never_left_counts_as_nothing() {
    let requests = Some(Rate { per_minute: 1, burst: 2 });
    let gate = gate(LimitRule { route: Some("m".into()), requests, ..LimitRule::default() });
    for _ in 0..5 {
        let mut permit = permit(&gate).await;
        permit.attempt(Some("a"), monotonic_ns()).await.unwrap();
        permit.sent();
        permit.failed(Sent::No);
        permit.attempt(None, monotonic_ns()).await.unwrap();
    }
    let level = |gate: &Gate| gate.gauges()[0].requests;
    assert_eq!(level(&gate), Some(2));
    let mut permit = permit(&gate).await;
    permit.attempt(Some("a"), monotonic_ns()).await.unwrap();
    permit.sent();
    permit.failed(Sent::Maybe);
    assert_eq!(level(&gate), Some(1));
}

#[tokio::test]
async fn tokens_are_reserved_and_settled() {
    let tokens = Some(Rate { per_minute: 60, burst: 1000 });
    let gate = gate(LimitRule { route: Some("m".into()), tokens, ..LimitRule::default() });
    let body = Body::Own(Bytes::from_static(br#"{"model":"m","max_tokens":300}"#));
    let mut permit = enter(candidate(&gate, SOON), &body).await;
    permit.attempt(Some("a"), monotonic_ns()).await.unwrap();
    let level = |gate: &Gate| gate.gauges()[0].tokens;
    assert_eq!(level(&gate), Some(1000 - 308));
    permit.sent();
    permit.settle(&telling(50));
    assert_eq!(level(&gate), Some(950));
    permit.attempt(Some("a"), monotonic_ns()).await.unwrap();
    permit.sent();
    let cut = Record { bytes: 160, ..Record::new() };
    permit.cut(&cut);
    assert_eq!(level(&gate), Some(950 - 8 - 40), "what was cut off counts with what was delivered");
    permit.attempt(Some("a"), monotonic_ns()).await.unwrap();
    permit.sent();
    permit.settle(&Record { is_free: true, ..telling(1_000_000) });
    assert_eq!(level(&gate), Some(902 - 8), "a word that costs nothing is not believed");
}

#[tokio::test]
async fn a_refusal_tells_when_to_come_again() {
    let requests = Some(Rate { per_minute: 6, burst: 1 });
    let gate = gate(LimitRule { route: Some("m".into()), requests, ..LimitRule::default() });
    let mut first = permit(&gate).await;
    first.attempt(Some("a"), monotonic_ns()).await.unwrap();
    first.sent();
    let body = Body::Own(Bytes::new());
    let mut second = enter(candidate(&gate, Duration::from_secs(2)), &body).await;
    let failure = second.attempt(Some("a"), monotonic_ns()).await.unwrap_err();
    assert_eq!((failure.code, failure.stage), (Code::RateLimited, Stage::Admit));
    assert_eq!(failure.sent, Sent::No);
    let wait_ms = failure.retry_after_ms.unwrap();
    assert!((8_000..=10_000).contains(&wait_ms), "{wait_ms}");
    assert!(failure.message.contains(r#"limit of route "m""#), "{}", failure.message);
}

/// Whoever waits is served when a place comes back, in whatever way.
#[tokio::test]
async fn a_place_comes_back_however_its_holder_ends() {
    let gate = gate(in_flight(1));
    for how in 0..4 {
        let holder = gate.clone();
        let (told, mut holds) = tokio::sync::mpsc::channel(1);
        let task = tokio::spawn(async move {
            let mut permit = permit(&holder).await;
            permit.attempt(Some("a"), monotonic_ns()).await.unwrap();
            permit.sent();
            told.send(()).await.unwrap();
            match how {
                0 => permit.settle(&telling(1)),
                1 => panic!("the task of an exchange"),
                2 => permit.refused(Some(0)),
                _ => std::future::pending().await,
            }
        });
        holds.recv().await.unwrap();
        let mut next = permit(&gate).await;
        let waits = async {
            let mut attempt = std::pin::pin!(next.attempt(Some("b"), monotonic_ns()));
            if how == 3 {
                assert!(timeout(Duration::from_millis(20), &mut attempt).await.is_err());
                task.abort();
            }
            attempt.await
        };
        timeout(SOON, waits).await.expect("the place comes back").unwrap();
        drop(next);
        assert!(gate.is_at_rest());
    }
}

#[tokio::test]
async fn whoever_gives_up_waiting_leaves_the_queue() {
    let gate = gate(in_flight(1));
    let mut holder = permit(&gate).await;
    holder.attempt(None, monotonic_ns()).await.unwrap();
    let mut waits = permit(&gate).await;
    assert!(timeout(Duration::from_millis(20), waits.attempt(None, monotonic_ns())).await.is_err());
    assert_eq!(gate.gauges()[0].waiting, 0);
    drop(holder);
    assert!(gate.is_at_rest());
}

/// The last owner of a grant may be on a thread of its own.
#[tokio::test]
async fn a_grant_may_end_outside_of_the_runtime() {
    let requests = Some(Rate { per_minute: 1200, burst: 1 });
    let gate = gate(LimitRule { requests, ..in_flight(1) });
    let mut holder = permit(&gate).await;
    holder.attempt(Some("a"), monotonic_ns()).await.unwrap();
    holder.sent();
    let grant = holder.grant.take();
    let mut next = permit(&gate).await;
    let waits = async {
        let mut attempt = std::pin::pin!(next.attempt(Some("a"), monotonic_ns()));
        assert!(timeout(Duration::from_millis(5), &mut attempt).await.is_err());
        std::thread::spawn(move || drop(grant)).join().unwrap();
        attempt.await
    };
    timeout(SOON, waits).await.expect("it is served by the timer").unwrap();
    drop(next);
    assert!(gate.is_at_rest());
}

/// Hundreds of exchanges that are cut at any point, on several threads, leave nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_from_a_storm_of_cancels() {
    let requests = Some(Rate { per_minute: 600_000, burst: 20 });
    let gate = gate(LimitRule { requests, ..in_flight(5) });
    let mut tasks = JoinSet::new();
    let mut handles = Vec::new();
    for n in 0..600u64 {
        let gate = gate.clone();
        handles.push(tasks.spawn(async move {
            let mut permit = permit(&gate).await;
            for _ in 0..3 {
                permit.attempt(Some("a"), monotonic_ns()).await.unwrap();
                permit.sent();
                tokio::time::sleep(Duration::from_micros(n % 7 * 300)).await;
                match n % 4 {
                    0 => permit.settle(&telling(n)),
                    1 => permit.failed(Sent::No),
                    _ => {}
                }
            }
        }));
        if n % 3 == 0 {
            handles[(n as usize * 7) % handles.len()].abort();
        }
    }
    timeout(SOON, async { while tasks.join_next().await.is_some() {} }).await.unwrap();
    assert!(gate.is_at_rest());
}
