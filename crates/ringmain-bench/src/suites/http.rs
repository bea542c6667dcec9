//! The HTTP face against reverse proxies that pass the same bytes on.

use super::proxies::{Kind, Proxy};
use super::runs::{Cost, at_address};
use crate::error::Result;
use crate::harness::bench::Stage;
use crate::harness::servers::{Broker, BrokerSetup, Provider, await_port, free_port};
use crate::harness::{Bench, Goal, Place, RowSpec, Sample};
use crate::roles::load::Load;

const REQUEST: RowSpec = RowSpec {
    name: "http_cpu_per_request_vs_nginx",
    unit: "ns/request",
    baseline: Some("nginx"),
    goal: Some(Goal::RatioAtMost(1.5)),
    how: "CPU of `ringmain serve` per plain request over its HTTP face, 16 at a time, against that \
        of a reverse proxy with one worker, connections kept alive and no buffering",
};
const RATE: RowSpec = RowSpec {
    name: "http_requests_per_second_vs_nginx",
    unit: "1/s",
    goal: None,
    how: "the same run: plain requests per second, consumer and provider included",
    ..REQUEST
};
const LATENCY: RowSpec = RowSpec {
    name: "http_added_latency_vs_nginx",
    unit: "ns/request",
    goal: None,
    how: "plain requests one after another: how much longer each takes than without anything \
        between consumer and provider, against that of the proxy",
    ..REQUEST
};
const BURST: RowSpec = RowSpec {
    name: "http_cpu_per_token_vs_nginx",
    unit: "ns/token",
    goal: Some(Goal::RatioAtMost(1.0)),
    how: "CPU of `ringmain serve` per token of one stream over its HTTP face, as fast as the \
        provider sends, each token in a write of its own, against that of a reverse proxy with one \
        worker and no buffering",
    ..REQUEST
};
const PACED: RowSpec = RowSpec {
    name: "http_cpu_per_token_paced_vs_nginx",
    how: "64 streams of 50 tokens/s; CPU of `ringmain serve` per token, against that of the proxy",
    ..BURST
};

const NGINX: [RowSpec; 5] = [REQUEST, RATE, LATENCY, BURST, PACED];
const HAPROXY: [RowSpec; 5] = [
    against_haproxy(REQUEST, "http_cpu_per_request_vs_haproxy"),
    against_haproxy(RATE, "http_requests_per_second_vs_haproxy"),
    against_haproxy(LATENCY, "http_added_latency_vs_haproxy"),
    against_haproxy(BURST, "http_cpu_per_token_vs_haproxy"),
    against_haproxy(PACED, "http_cpu_per_token_paced_vs_haproxy"),
];

const fn against_haproxy(spec: RowSpec, name: &'static str) -> RowSpec {
    RowSpec { name, baseline: Some("haproxy"), ..spec }
}

pub(super) fn run(bench: &mut Bench) {
    against(bench, Kind::Nginx, &NGINX);
    against(bench, Kind::Haproxy, &HAPROXY);
}

/// Broker and proxy before the same provider: the consumer on one CPU, all else on another.
struct Setup {
    provider: Provider,
    broker: Broker,
    face: String,
    proxy: Proxy,
    near: Place,
}

impl Setup {
    fn start(stage: &Stage, kind: Kind) -> Result<Setup> {
        kind.find()?;
        let near = stage.cpus.measured();
        let far = stage.cpus.other().unwrap_or(Place::Any);
        let provider = Provider::start(stage, far)?;
        let port = free_port()?;
        let http = format!("\n[http]\nlisten = [\"127.0.0.1:{port}\"]\n");
        let setup = BrokerSetup::new(provider.base_url(), far);
        let broker = Broker::start(stage, BrokerSetup { endpoint: &http, ..setup })?;
        await_port(port)?;
        let proxy = Proxy::start(stage, kind, provider.base_url(), far)?;
        let face = format!("http://127.0.0.1:{port}/v1");
        Ok(Setup { provider, broker, face, proxy, near })
    }

    fn through_face(&self, stage: &Stage, load: &Load) -> Result<Cost> {
        at_address(stage, &self.face, &[self.broker.pid()], load, self.near)
    }

    fn through_proxy(&self, stage: &Stage, load: &Load) -> Result<Cost> {
        at_address(stage, self.proxy.base_url(), &[self.proxy.pid()], load, self.near)
    }

    /// The same without anything in between, wall time per exchange.
    fn straight_ns(&self, stage: &Stage, load: &Load) -> Result<f64> {
        let cost = at_address(stage, self.provider.base_url(), &[], load, self.near)?;
        Ok(wall_ns_per_exchange(&cost))
    }
}

fn wall_ns_per_exchange(cost: &Cost) -> f64 {
    cost.consumed.wall_ns as f64 / cost.consumed.exchanges.max(1) as f64
}

fn against(bench: &mut Bench, kind: Kind, specs: &[RowSpec; 5]) {
    let Some(setup) = bench.prepare(specs, |stage| Setup::start(stage, kind)) else { return };
    let stage = &bench.stage;
    let requests = Load::plain(16, stage.pick(60, 1_000));
    let single = Load::plain(1, stage.pick(200, 2_000));
    let burst = Load::flushed(stage.pick(5_000, 100_000));
    let paced = Load::stream(64, stage.pick(12, 150), 20_000);
    let per_request =
        |cost: Cost| Sample::of([cost.between_ns_per_exchange(), cost.consumed.exchanges_per_s()]);
    let per_token = |cost: Cost| Sample::of([cost.between_ns_per_token()]);
    group(bench, &specs[..2], &setup, &requests, per_request);
    added(bench, &specs[2..3], &setup, &single);
    group(bench, &specs[3..4], &setup, &burst, per_token);
    group(bench, &specs[4..], &setup, &paced, per_token);
}

fn group(
    bench: &mut Bench,
    specs: &[RowSpec],
    setup: &Setup,
    load: &Load,
    sample: impl Fn(Cost) -> Sample,
) {
    bench.compare(
        specs,
        &mut |stage: &Stage| setup.through_face(stage, load).map(&sample),
        &mut |stage: &Stage| setup.through_proxy(stage, load).map(&sample),
    );
}

/// Both less what the way takes without them, which is measured beside each.
fn added(bench: &mut Bench, specs: &[RowSpec], setup: &Setup, load: &Load) {
    let beyond = |stage: &Stage, cost: &Cost| -> Result<Sample> {
        let straight = setup.straight_ns(stage, load)?;
        // Less than a twentieth cannot be told from the noise of the two.
        Ok(Sample::of([(wall_ns_per_exchange(cost) - straight).max(straight / 20.0)]))
    };
    bench.compare(
        specs,
        &mut |stage: &Stage| beyond(stage, &setup.through_face(stage, load)?),
        &mut |stage: &Stage| beyond(stage, &setup.through_proxy(stage, load)?),
    );
}
