//! CPU of the broker against that of a reverse proxy on the same work.

use super::proxies::{Kind, Proxy};
use super::runs::{Cost, Pair, at_address, through_broker};
use crate::harness::bench::Stage;
use crate::harness::{Bench, Goal, Place, RowSpec, Sample};
use crate::roles::consume::Style;
use crate::roles::load::Load;

const REQUEST: RowSpec = RowSpec {
    name: "broker_cpu_per_request_vs_nginx",
    unit: "ns/request",
    baseline: Some("nginx"),
    goal: Some(Goal::RatioAtMost(1.0)),
    how: "CPU of `ringmain serve` per plain request, 16 at a time, against that of a reverse proxy \
        with one worker, connections kept alive and no buffering",
};
const RATE: RowSpec = RowSpec {
    name: "requests_per_second_vs_nginx",
    unit: "1/s",
    goal: None,
    how: "the same run: plain requests per second, consumer and provider included",
    ..REQUEST
};
const BURST: RowSpec = RowSpec {
    name: "broker_cpu_per_token_vs_nginx",
    unit: "ns/token",
    how: "CPU of `ringmain serve` per token of one stream as fast as the provider sends, each token \
        in a write of its own, against that of a reverse proxy with one worker and no buffering",
    ..REQUEST
};
const COALESCED: RowSpec = RowSpec {
    name: "broker_cpu_per_token_coalesced_vs_nginx",
    goal: None,
    how: "the same with 64 tokens in each write of the provider: a proxy passes bytes on, where \
        the broker still reads every event",
    ..BURST
};
const PACED: RowSpec = RowSpec {
    name: "broker_cpu_per_token_paced_vs_nginx",
    how: "64 streams of 50 tokens/s; CPU of `ringmain serve` per token, against that of the proxy",
    ..BURST
};

const NGINX: [RowSpec; 5] = [REQUEST, RATE, BURST, COALESCED, PACED];
const HAPROXY: [RowSpec; 5] = [
    against_haproxy(REQUEST, "broker_cpu_per_request_vs_haproxy"),
    against_haproxy(RATE, "requests_per_second_vs_haproxy"),
    against_haproxy(BURST, "broker_cpu_per_token_vs_haproxy"),
    against_haproxy(COALESCED, "broker_cpu_per_token_coalesced_vs_haproxy"),
    against_haproxy(PACED, "broker_cpu_per_token_paced_vs_haproxy"),
];

const fn against_haproxy(spec: RowSpec, name: &'static str) -> RowSpec {
    RowSpec { name, baseline: Some("haproxy"), ..spec }
}

pub(super) fn run(bench: &mut Bench) {
    against(bench, Kind::Nginx, &NGINX);
    against(bench, Kind::Haproxy, &HAPROXY);
}

/// Consumer, proxy and broker, provider: the consumer on one CPU, all else on another.
struct Setup {
    pair: Pair,
    proxy: Proxy,
    near: Place,
}

fn against(bench: &mut Bench, kind: Kind, specs: &[RowSpec; 5]) {
    let made = bench.prepare(specs, |stage| {
        kind.find()?;
        let near = stage.cpus.measured();
        let far = stage.cpus.other().unwrap_or(Place::Any);
        let pair = Pair::start(stage, far)?;
        let proxy = Proxy::start(stage, kind, pair.provider.base_url(), far)?;
        Ok(Setup { pair, proxy, near })
    });
    let Some(setup) = made else { return };
    let stage = &bench.stage;
    let requests = Load::plain(16, stage.pick(60, 1_000));
    let burst = Load::flushed(stage.pick(5_000, 100_000));
    let coalesced = Load::burst(stage.pick(10_000, 200_000));
    let paced = Load::stream(64, stage.pick(8, 150), 20_000);
    let per_request =
        |cost: Cost| Sample::of([cost.between_ns_per_exchange(), cost.consumed.exchanges_per_s()]);
    let per_token = |cost: Cost| Sample::of([cost.between_ns_per_token()]);
    group(bench, &specs[..2], &setup, &requests, per_request);
    group(bench, &specs[2..3], &setup, &burst, per_token);
    group(bench, &specs[3..4], &setup, &coalesced, per_token);
    group(bench, &specs[4..], &setup, &paced, per_token);
}

fn group(
    bench: &mut Bench,
    specs: &[RowSpec],
    setup: &Setup,
    load: &Load,
    sample: impl Fn(Cost) -> Sample,
) {
    let Setup { pair, proxy, near } = setup;
    bench.compare(
        specs,
        &mut |stage: &Stage| {
            let cost = through_broker(stage, &pair.broker, Style::Blocking, load, *near)?;
            Ok(sample(cost))
        },
        &mut |stage: &Stage| {
            let cost = at_address(stage, proxy.base_url(), &[proxy.pid()], load, *near)?;
            Ok(sample(cost))
        },
    );
}
