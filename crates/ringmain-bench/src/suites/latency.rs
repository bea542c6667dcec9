//! How old a token is when its consumer has it, and how long the first one takes.

use super::proxies::{Kind, Proxy};
use super::runs::{Pair, at_address, through_broker};
use crate::error::Result;
use crate::harness::bench::Stage;
use crate::harness::latency::Buckets;
use crate::harness::{Bench, Latency, Place, RowSpec, Sample};
use crate::roles::consume::Style;
use crate::roles::load::{Consumed, Load};

const AGE_ONE: RowSpec = RowSpec {
    name: "token_age_one_stream_vs_direct",
    unit: "ns",
    baseline: Some("reqwest, without a broker"),
    goal: None,
    how: "time from the provider's sending of a token to its arrival at the consumer, one stream of \
        200 tokens/s; an open loop, corrected for coordinated omission; medians",
};
const AGE_MANY: RowSpec = RowSpec {
    name: "token_age_64_streams_vs_direct",
    how: "the same with 64 streams of 50 tokens/s",
    ..AGE_ONE
};
const TTFT: RowSpec = RowSpec {
    name: "ttft_vs_direct",
    how: "time from the request to the first token of a stream that the provider begins at once, \
        one after the other; medians",
    ..AGE_ONE
};

const DIRECT: [RowSpec; 3] = [AGE_ONE, AGE_MANY, TTFT];
const NGINX: [RowSpec; 3] = [
    against_nginx(AGE_ONE, "token_age_one_stream_vs_nginx"),
    against_nginx(AGE_MANY, "token_age_64_streams_vs_nginx"),
    against_nginx(TTFT, "ttft_vs_nginx"),
];

const fn against_nginx(spec: RowSpec, name: &'static str) -> RowSpec {
    RowSpec { name, baseline: Some("reqwest, through nginx"), ..spec }
}

pub(super) fn run(bench: &mut Bench) {
    if let Some(pair) = bench.prepare(&DIRECT, |stage| Pair::start(stage, Place::Any)) {
        let base_url = pair.provider.base_url().to_owned();
        against(bench, &DIRECT, &pair, &base_url);
    }
    let made = bench.prepare(&NGINX, |stage| {
        Kind::Nginx.find()?;
        let pair = Pair::start(stage, Place::Any)?;
        let proxy = Proxy::start(stage, Kind::Nginx, pair.provider.base_url(), Place::Any)?;
        Ok((pair, proxy))
    });
    if let Some((pair, proxy)) = made {
        against(bench, &NGINX, &pair, proxy.base_url());
    }
}

fn against(bench: &mut Bench, specs: &[RowSpec; 3], pair: &Pair, base_url: &str) {
    let stage = &bench.stage;
    let one = Load::stamped(1, stage.pick(24, 800), 5_000);
    let many = Load::stamped(64, stage.pick(8, 150), 20_000);
    let first = Load::rounds(1, stage.pick(50, 2_000), 1);
    let ages: fn(Consumed) -> Buckets = |consumed| consumed.ages;
    let firsts: fn(Consumed) -> Buckets = |consumed| consumed.first;
    for (spec, load, of) in
        [(&specs[0], &one, ages), (&specs[1], &many, ages), (&specs[2], &first, firsts)]
    {
        bench.compare(
            std::slice::from_ref(spec),
            &mut |stage: &Stage| {
                let place = Place::Any;
                let cost = through_broker(stage, &pair.broker, Style::Blocking, load, place)?;
                sample(&of(cost.consumed))
            },
            &mut |stage: &Stage| {
                let cost = at_address(stage, base_url, &[], load, Place::Any)?;
                sample(&of(cost.consumed))
            },
        );
    }
}

fn sample(buckets: &Buckets) -> Result<Sample> {
    let latency = Latency::from(buckets);
    Ok(Sample::of([latency.quantile(0.5) as f64]).with_latency(latency))
}
