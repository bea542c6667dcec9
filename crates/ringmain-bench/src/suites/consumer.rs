//! CPU per token: of the consumer, and of consumer and broker together, against a consumer that
//! speaks HTTP and parses events and JSON itself.

use super::runs::{Pair, at_address, through_broker};
use crate::harness::bench::Stage;
use crate::harness::{Bench, Goal, Place, RowSpec, Sample};
use crate::roles::consume::Style;
use crate::roles::load::Load;

const DIRECT: Option<&str> = Some("reqwest + event split + typed serde");

const BURST_BLOCKING: RowSpec = RowSpec {
    name: "consumer_cpu_burst_blocking",
    unit: "ns/token",
    baseline: DIRECT,
    goal: Some(Goal::RatioAtMost(1.0 / 12.0)),
    how: "one stream as fast as the provider sends, 64 tokens in each of its writes, read by a \
        blocking session on a CPU of its own, against the direct consumer of the same stream",
};
const BURST_HOST: RowSpec = RowSpec {
    name: "host_cpu_burst",
    goal: Some(Goal::RatioAtMost(0.8)),
    how: "the same run: CPU of broker and consumer together, against the direct consumer's",
    ..BURST_BLOCKING
};
const BURST_TOKIO: RowSpec = RowSpec {
    name: "consumer_cpu_burst_tokio",
    goal: Some(Goal::RatioAtMost(0.2)),
    how: "the same stream, read by a task on a tokio runtime of one thread",
    ..BURST_BLOCKING
};
const FLUSHED: RowSpec = RowSpec {
    name: "consumer_cpu_burst_flushed_blocking",
    goal: None,
    how: "one stream as fast as the provider sends with each token in a write of its own: the \
        faster the consumer, the more often it sleeps",
    ..BURST_BLOCKING
};
const MANY_PINNED: RowSpec = RowSpec {
    name: "consumer_cpu_64_streams_pinned",
    goal: Some(Goal::RatioAtMost(0.25)),
    how: "64 streams of 50 tokens/s, read by one blocking session; the consumer on one CPU, all \
        else on another; streams of a quick run are so short that asking for them counts as much",
    ..BURST_BLOCKING
};
const MANY_HOST: RowSpec = RowSpec {
    name: "host_cpu_64_streams",
    goal: Some(Goal::RatioAtMost(1.1)),
    how: BURST_HOST.how,
    ..BURST_BLOCKING
};
const MANY_UNPINNED: RowSpec = RowSpec {
    name: "consumer_cpu_64_streams_unpinned",
    goal: Some(Goal::RatioAtMost(1.0 / 6.0)),
    how: "64 streams of 50 tokens/s, read by one blocking session; nothing is pinned",
    ..BURST_BLOCKING
};
const ONE: RowSpec = RowSpec {
    name: "consumer_cpu_one_stream",
    goal: Some(Goal::RatioAtMost(0.5)),
    how: "one stream of 50 tokens/s, read by a blocking session; nothing is pinned",
    ..BURST_BLOCKING
};
const ONE_HOST: RowSpec = RowSpec {
    name: "host_cpu_one_stream",
    goal: Some(Goal::RatioAtMost(1.6)),
    how: BURST_HOST.how,
    ..BURST_BLOCKING
};

/// Time between the tokens of a stream that is not a burst.
const GAP_US: u64 = 20_000;
/// Streams of the rows with many.
const STREAMS: u32 = 64;

pub(super) fn run(bench: &mut Bench) {
    let stage = &bench.stage;
    let cpu = stage.cpus.measured();
    // With one CPU there is nothing to choose.
    let other = stage.cpus.other().unwrap_or(Place::Any);
    let burst = Load::burst(stage.pick(20_000, 400_000));
    let flushed = Load::flushed(stage.pick(5_000, 100_000));
    let paced = stage.pick(8, 150);
    let many = Load::stream(STREAMS, paced, GAP_US);
    let one = Load::stream(1, paced, GAP_US);
    let pinned = (cpu, other);
    let free = (Place::Any, Place::Any);
    group(bench, &[BURST_BLOCKING, BURST_HOST], Style::Blocking, &burst, pinned);
    group(bench, &[BURST_TOKIO], Style::Tokio, &burst, pinned);
    group(bench, &[FLUSHED], Style::Blocking, &flushed, pinned);
    group(bench, &[MANY_PINNED, MANY_HOST], Style::Blocking, &many, pinned);
    group(bench, &[MANY_UNPINNED], Style::Blocking, &many, free);
    group(bench, &[ONE, ONE_HOST], Style::Blocking, &one, free);
}

/// A load through the broker and past it: a row for the consumer and, where there is a second one,
/// a row for the host.
fn group(
    bench: &mut Bench,
    specs: &[RowSpec],
    style: Style,
    load: &Load,
    (near, far): (Place, Place),
) {
    let Some(pair) = bench.prepare(specs, |stage| Pair::start(stage, far)) else { return };
    bench.compare(
        specs,
        &mut |stage: &Stage| {
            let cost = through_broker(stage, &pair.broker, style, load, near)?;
            Ok(Sample::of([cost.consumed.cpu_ns_per_token(), cost.host_ns_per_token()]))
        },
        &mut |stage: &Stage| {
            let cost = at_address(stage, pair.provider.base_url(), &[], load, near)?;
            Ok(Sample::of([cost.consumed.cpu_ns_per_token(), cost.host_ns_per_token()]))
        },
    );
}
