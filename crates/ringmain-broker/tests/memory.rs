//! What a request is compressed or translated into is memory of its caller.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::guest::{Kept, caller};
use common::provider::deltas;
use common::{Provider, Served, Step, soon, until};
use ringmain_broker::face::{Exchange, Failure, Request};
use ringmain_broker::{BrokerConfig, RouteTable};
use ringmain_policy::Quotas;
use ringmain_upstream::{Dialect, Endpoint, EndpointConfig, RequestEncoding, UsageSplice};
use ringmain_wire::{Code, Mode, RequestHead, Sent};

const TEXT_BYTES: usize = 100_000;

/// A broker whose uids may hold so many bytes, before one endpoint.
fn served(
    provider: &Provider,
    copy_bytes: u64,
    change: impl FnOnce(&mut EndpointConfig),
) -> Served {
    let mut endpoint = EndpointConfig::new("local", provider.base_url());
    endpoint.usage = UsageSplice::Off;
    change(&mut endpoint);
    let endpoint = Arc::new(Endpoint::new(endpoint).unwrap());
    let mut config = BrokerConfig::default();
    config.quotas = Quotas { copy_bytes, ..Quotas::default() };
    Served::start(config, RouteTable::new(vec![], vec![endpoint]).unwrap())
}

fn chat() -> Request<'static> {
    let text = "x".repeat(TEXT_BYTES);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let head = RequestHead::new("m", "/chat/completions");
    Request::new(head, Bytes::from(body), Mode::Deltas)
}

async fn ask(served: &Served) -> Result<(), Failure> {
    let mut exchange = Exchange::begin(&served.broker, caller()).unwrap();
    let ended = soon(exchange.run(chat(), &mut Kept::default())).await;
    ended.verdict.map(|_| ())
}

#[tokio::test]
async fn a_body_is_compressed_only_where_its_caller_has_room_for_it() {
    let provider = Provider::of(deltas(&["x"])).await;
    for (copy_bytes, is_coded) in [(4 * TEXT_BYTES as u64, true), (1000, false)] {
        let gzip = |config: &mut EndpointConfig| config.request_encoding = RequestEncoding::Gzip;
        let served = served(&provider, copy_bytes, gzip);
        ask(&served).await.unwrap();
        served.at_rest().await;
        let head = provider.seen.heads.lock().unwrap().pop().unwrap();
        assert_eq!(head.contains("\r\ncontent-encoding: gzip\r\n"), is_coded, "{head}");
    }
}

#[tokio::test]
async fn a_body_is_translated_only_where_its_caller_has_room_for_it() {
    let provider = Provider::of(vec![Step::HangWithoutHead]).await;
    let other = |config: &mut EndpointConfig| config.dialect = Dialect::Anthropic;
    let small = served(&provider, TEXT_BYTES as u64, other);
    let failure = ask(&small).await.unwrap_err();
    assert_eq!((failure.code, failure.sent), (Code::QuotaExceeded, Sent::No), "{failure:?}");
    assert_eq!(provider.requests(), 0);
    small.at_rest().await;
    // Held while the endpoint has it, and given back with a caller that leaves.
    let large = served(&provider, 9 * TEXT_BYTES as u64, other);
    let mut exchange = Exchange::begin(&large.broker, caller()).unwrap();
    let mut kept = Kept::default();
    let mut running = Box::pin(exchange.run(chat(), &mut kept));
    let sent = until(|| provider.requests() == 1);
    tokio::select! { _ = &mut running => panic!("it was answered"), () = sent => {} }
    drop(running);
    drop(exchange);
    large.at_rest().await;
}
