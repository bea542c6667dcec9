//! Requests of another face than a session's, on the same pipeline.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::time::Duration;

use common::guest::{Kept, caller, chat};
use common::provider::deltas;
use common::{Provider, Served, Step, soon, until};
use ringmain_broker::BrokerConfig;
use ringmain_broker::face::{Exchange, StopCause};
use ringmain_wire::{Code, Kind, Sent};

#[tokio::test]
async fn a_request_of_a_face_runs_on_the_pipeline() {
    let provider = Provider::of(deltas(&["hel", "lo"])).await;
    let served = Served::with(&provider);
    let mut exchange = Exchange::begin(&served.broker, caller()).unwrap();
    let mut egress = Kept::default();
    let ended = soon(exchange.run(chat(), &mut egress)).await;
    assert!(ended.verdict.is_ok() && egress.released);
    assert_eq!((egress.frames[0].0, egress.text().as_str()), (Kind::Head, "hello"));
    assert_eq!((exchange.attempts(), exchange.bytes()), (1, 5));
    drop(exchange);
    soon(ended.settle()).await;
    let snapshot = served.broker.snapshot();
    assert_eq!((snapshot.ended, snapshot.exchanges), (1, 0));
    assert!(served.broker.is_at_rest());
}

#[tokio::test]
async fn dropping_the_run_drops_the_request_upstream() {
    let provider = Provider::of(vec![Step::Delta("a".into()), Step::Hang]).await;
    let served = Served::with(&provider);
    let mut exchange = Exchange::begin(&served.broker, caller()).unwrap();
    let mut egress = Kept::default();
    let run = exchange.run(chat(), &mut egress);
    assert!(tokio::time::timeout(Duration::from_millis(300), run).await.is_err());
    drop(exchange);
    until(|| provider.dropped() == 1).await;
    assert!(served.broker.is_at_rest());
    assert_eq!(served.broker.snapshot().failures, [(Code::Cancelled, 1)]);
}

#[tokio::test]
async fn a_stop_and_a_deadline_end_it_and_memory_is_charged() {
    let provider = Provider::of(vec![Step::HangWithoutHead]).await;
    let served = Served::with(&provider);
    let mut exchange = Exchange::begin(&served.broker, caller()).unwrap();
    let charged = exchange.charge(1 << 20).unwrap();
    assert_eq!(exchange.charge(1 << 30).unwrap_err().code, Code::QuotaExceeded);
    let stop = exchange.stop();
    let mut egress = Kept::default();
    let (ended, ()) = soon(async {
        tokio::join!(exchange.run(chat(), &mut egress), async {
            until(|| provider.requests() == 1).await;
            stop.request(StopCause::Cancelled);
        })
    })
    .await;
    assert_eq!(ended.verdict.unwrap_err().code, Code::Cancelled);
    drop((exchange, charged));

    let mut exchange = Exchange::begin(&served.broker, caller()).unwrap();
    let mut late = chat();
    late.deadline_ns = Some(1);
    let failure = soon(exchange.run(late, &mut egress)).await.verdict.unwrap_err();
    assert_eq!((failure.code, failure.sent), (Code::DeadlineExceeded, Sent::No));
    drop(exchange);
    assert!(served.broker.is_at_rest());
}

/// A drain cuts what runs at its limit and waits until it was told.
#[tokio::test]
async fn a_drain_reaches_the_exchanges_of_a_face() {
    let provider = Provider::of(vec![Step::Delta("a".into()), Step::Hang]).await;
    let mut config = BrokerConfig::default();
    config.drain = Duration::from_millis(50);
    let mut served = Served::start(config, common::everything(&provider));
    let mut exchange = Exchange::begin(&served.broker, caller()).unwrap();
    served.drain();
    let mut egress = Kept::default();
    let ended = soon(exchange.run(chat(), &mut egress)).await;
    assert_eq!(ended.verdict.unwrap_err().code, Code::Drained);
    drop(exchange);
    assert_eq!(served.ended().await.cut, 1);
    let refused = Exchange::begin(&served.broker, caller()).err().unwrap();
    assert_eq!(refused.failure.code, Code::Draining);
}
