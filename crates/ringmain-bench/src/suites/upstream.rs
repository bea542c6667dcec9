//! The way to the provider: pool, latency and encoding, against callers who go there themselves.

use super::runs::{Cost, Pair, at_address, through_broker};
use crate::error::Result;
use crate::harness::bench::Stage;
use crate::harness::servers::{Broker, BrokerSetup, Provider};
use crate::harness::{Bench, Child, Goal, Latency, Place, RowSpec, Sample};
use crate::roles::Role;
use crate::roles::calls::{Calls, Counted};
use crate::roles::consume::Style;
use crate::roles::load::Load;

const DIRECT: Option<&str> = Some("reqwest, without a broker");

const H2: RowSpec = RowSpec {
    name: "h2_300_calls_ms",
    unit: "ms",
    baseline: None,
    goal: Some(Goal::AtMost(400.0)),
    how: "300 calls of 200 ms at once over HTTP/2 to a provider that takes 100 streams per \
        connection, from the first request to the last answer; in three rounds it would be 600",
};
const STALE: RowSpec = RowSpec {
    name: "stale_keepalive_failures",
    unit: "failures",
    goal: Some(Goal::AtMost(0.0)),
    how: "calls one after the other, without a pause, to a provider that keeps each connection \
        alive and closes it just after its answer, when the next request may be on its way; 2,000 \
        in a full run",
    ..H2
};
const RATE_1: RowSpec = RowSpec {
    name: "requests_per_second_vs_direct_c1",
    unit: "1/s",
    baseline: DIRECT,
    goal: None,
    how: "plain requests per second, one at a time, provider and consumer included",
};
const RATE_32: RowSpec =
    RowSpec { name: "requests_per_second_vs_direct_c32", how: "the same, 32 at a time", ..RATE_1 };
const RATE_256: RowSpec = RowSpec {
    name: "requests_per_second_vs_direct_c256",
    how: "the same, 256 at a time",
    ..RATE_1
};
const LATENCY_1: RowSpec = RowSpec {
    name: "added_latency_vs_direct_c1",
    unit: "ns",
    how: "time from a request to the first token of a stream of one, one at a time; medians",
    ..RATE_1
};
const LATENCY_32: RowSpec =
    RowSpec { name: "added_latency_vs_direct_c32", how: "the same, 32 at a time", ..LATENCY_1 };
const BODY: RowSpec = RowSpec {
    name: "body_8mib_vs_direct",
    unit: "ns/request",
    how: "wall time of a request with a body of 8 MiB and a short answer, one at a time",
    ..RATE_1
};
const SERIAL: RowSpec = RowSpec {
    name: "calls_100ms_broker_vs_serial",
    unit: "1/s",
    baseline: Some("reqwest, one call after the other"),
    goal: Some(Goal::RatioAtLeast(50.0)),
    how: "1,000 calls of 100 ms each (300 in a quick run) at once through the broker, in calls per \
        second, against the same calls one after the other",
};
const TEN: RowSpec = RowSpec {
    name: "calls_100ms_broker_vs_ten",
    baseline: Some("reqwest, ten calls at a time"),
    goal: None,
    how: "the same against ten calls at a time",
    ..SERIAL
};
const ENCODING: RowSpec = RowSpec {
    name: "encoding_auto_vs_off",
    unit: "ns/request",
    baseline: Some("request_encoding = \"off\""),
    goal: None,
    how: "wall time of plain requests with bodies of 1 KiB, 64 KiB and 1 MiB of text, one at a \
        time, over an endpoint with request_encoding = \"auto\", which learns what costs least; \
        on a loopback connection that is to send them as they are",
};

/// Streams that the provider takes on one HTTP/2 connection.
const H2_STREAMS: &str = "100";
/// Time that a slow call takes, ms.
const H2_CALL_MS: u64 = 200;
const SLOW_CALL_MS: u64 = 100;
/// Slow calls at once; of the second kind in a quick run and in a full one.
const H2_CALLS: u32 = 300;
const SLOW_CALLS: [u32; 2] = [300, 1_000];
/// Bytes of the large body: the whole of it fits half of the usual arena.
const BODY_BYTES: usize = 8 << 20;

pub(super) fn run(bench: &mut Bench) {
    bench.observe(&[H2], &mut h2_calls);
    bench.observe_once(&[STALE], &mut stale);
    against_direct(bench);
    encoding(bench);
}

fn h2_calls(stage: &Stage) -> Result<Sample> {
    let provider = Provider::start_with(stage, Place::Any, &["--h2-streams", H2_STREAMS])?;
    let endpoint = "http2 = \"prior-knowledge\"\n";
    let setup = BrokerSetup { endpoint, ..BrokerSetup::new(provider.base_url(), Place::Any) };
    let broker = Broker::start(stage, setup)?;
    let load = Load::slow(H2_CALLS, H2_CALL_MS);
    let cost = through_broker(stage, &broker, Style::Blocking, &load, Place::Any)?;
    Ok(Sample::of([cost.consumed.wall_ns as f64 / 1e6]))
}

fn stale(stage: &Stage) -> Result<Sample> {
    let pair = Pair::start(stage, Place::Any)?;
    let told = Calls {
        socket: pair.broker.socket().to_owned(),
        calls: stage.pick(200, 2_000),
        prompt: "[[sim n=1 fault=close_after seed=7]]".to_owned(),
    };
    let mut child = Child::role(stage, &Role::Calls(told), Place::Any)?;
    let counted: Counted = child.answer()?;
    Ok(Sample::of([f64::from(counted.failures)]))
}

/// The rows whose baseline goes to the provider itself.
fn against_direct(bench: &mut Bench) {
    let all = [RATE_1, RATE_32, RATE_256, LATENCY_1, LATENCY_32, BODY, SERIAL, TEN];
    let Some(pair) = bench.prepare(&all, |stage| Pair::start(stage, Place::Any)) else { return };
    let stage = &bench.stage;
    let plain = |streams: u32| Load::plain(streams, stage.pick(512, 16_384) / streams);
    let loads = [(RATE_1, plain(1)), (RATE_32, plain(32)), (RATE_256, plain(256))];
    let first = |streams: u32| Load::rounds(streams, stage.pick(256, 8_192) / streams, 1);
    let latencies = [(LATENCY_1, first(1)), (LATENCY_32, first(32))];
    let large = Load::padded(1, stage.pick(2, 30), BODY_BYTES);
    let few = stage.pick(2, 60);
    let slow = Load::slow(stage.pick(SLOW_CALLS[0], SLOW_CALLS[1]), SLOW_CALL_MS);
    for (spec, load) in loads {
        let rate = |cost: &Cost| Sample::of([cost.consumed.exchanges_per_s()]);
        compare(bench, spec, &pair, &load, &load, rate);
    }
    for (spec, load) in latencies {
        compare(bench, spec, &pair, &load, &load, first_token);
    }
    compare(bench, BODY, &pair, &large, &large, wall_per_request);
    for (spec, at_once) in [(SERIAL, 1), (TEN, 10)] {
        let rate = |cost: &Cost| Sample::of([cost.consumed.exchanges_per_s()]);
        let base = Load { rounds: few, ..Load::slow(at_once, SLOW_CALL_MS) };
        compare(bench, spec, &pair, &slow, &base, rate);
    }
}

fn compare(
    bench: &mut Bench,
    spec: RowSpec,
    pair: &Pair,
    load: &Load,
    base: &Load,
    sample: impl Fn(&Cost) -> Sample,
) {
    bench.compare(
        &[spec],
        &mut |stage: &Stage| {
            let cost = through_broker(stage, &pair.broker, Style::Blocking, load, Place::Any)?;
            Ok(sample(&cost))
        },
        &mut |stage: &Stage| {
            let cost = at_address(stage, pair.provider.base_url(), &[], base, Place::Any)?;
            Ok(sample(&cost))
        },
    );
}

fn encoding(bench: &mut Bench) {
    let made = bench.prepare(&[ENCODING], |stage| {
        let provider = Provider::start(stage, Place::Any)?;
        let start = |endpoint| {
            let usual = BrokerSetup::new(provider.base_url(), Place::Any);
            Broker::start(stage, BrokerSetup { endpoint, ..usual })
        };
        let auto = start("request_encoding = \"auto\"\n")?;
        let off = start("request_encoding = \"off\"\n")?;
        Ok((provider, auto, off))
    });
    let Some((_provider, auto, off)) = made else { return };
    bench.compare(&[ENCODING], &mut |stage: &Stage| texts(stage, &auto), &mut |stage: &Stage| {
        texts(stage, &off)
    });
}

/// Bodies of three sizes, each as often as makes about the same number of bytes.
fn texts(stage: &Stage, broker: &Broker) -> Result<Sample> {
    let (mut wall_ns, mut exchanges) = (0, 0);
    for (bytes, rounds) in [(1 << 10, 256), (64 << 10, 64), (1 << 20, 8)] {
        let load = Load::padded(1, rounds * stage.pick(1, 8), bytes);
        let cost = through_broker(stage, broker, Style::Blocking, &load, Place::Any)?;
        wall_ns += cost.consumed.wall_ns;
        exchanges += cost.consumed.exchanges;
    }
    Ok(Sample::of([wall_ns as f64 / exchanges.max(1) as f64]))
}

fn wall_per_request(cost: &Cost) -> Sample {
    Sample::of([cost.consumed.wall_ns as f64 / cost.consumed.exchanges.max(1) as f64])
}

fn first_token(cost: &Cost) -> Sample {
    let latency = Latency::from(&cost.consumed.first);
    Sample::of([latency.quantile(0.5) as f64]).with_latency(latency)
}
