//! How much goes through one broker, from providers that cost next to nothing.

use super::runs::{consume_role, through_broker};
use crate::error::{BenchError, Result};
use crate::harness::bench::Stage;
use crate::harness::servers::{Broker, BrokerSetup, Provider};
use crate::harness::{Bench, Child, Goal, Latency, Place, RowSpec, Sample};
use crate::roles::consume::Style;
use crate::roles::load::{Consumed, Load};

const REQUESTS: RowSpec = RowSpec {
    name: "requests_per_second",
    unit: "1/s",
    baseline: None,
    goal: Some(Goal::AtLeast(22_000.0)),
    how: "plain requests of one process, 64 at a time, through `ringmain serve` to a provider that \
        answers with bytes rendered once",
};
const FRAMES: RowSpec = RowSpec {
    name: "exchange_64_frames",
    unit: "tokens/s",
    goal: Some(Goal::AtLeast(10_000_000.0)),
    how: "streams of 64 tokens, 16 at a time, through `ringmain serve` from a provider that sends \
        each stream with one write",
    ..REQUESTS
};
const STREAMS: RowSpec = RowSpec {
    name: "streams_5000",
    unit: "ms",
    goal: None,
    how: "5,000 streams of 5 tokens/s for 30 s over 5 processes, every token counted; the value is \
        the worst age of a token, the histogram shows all",
    ..REQUESTS
};

/// Tokens of each stream of the raw provider.
const TOKENS: u64 = 64;
/// Processes and the streams of each in the row with many.
const PROCESSES: u32 = 5;
const STREAMS_EACH: u32 = 1_000;

pub(super) fn run(bench: &mut Bench) {
    let made = bench.prepare(&[REQUESTS, FRAMES], |stage| {
        let provider = Provider::raw(stage, TOKENS as u32)?;
        let broker = Broker::start(stage, BrokerSetup::new(provider.base_url(), Place::Any))?;
        Ok((provider, broker))
    });
    if let Some((_provider, broker)) = made {
        let requests = Load::plain(64, bench.stage.pick(50, 1_000));
        let frames = Load::rounds(16, bench.stage.pick(100, 4_000), TOKENS);
        bench.observe(&[REQUESTS], &mut |stage| {
            let cost = through_broker(stage, &broker, Style::Blocking, &requests, Place::Any)?;
            Ok(Sample::of([cost.consumed.exchanges_per_s()]))
        });
        bench.observe(&[FRAMES], &mut |stage| {
            let cost = through_broker(stage, &broker, Style::Blocking, &frames, Place::Any)?;
            Ok(Sample::of([cost.consumed.exchanges_per_s() * TOKENS as f64]))
        });
    }
    bench.observe_once(&[STREAMS], &mut streams);
}

fn streams(stage: &Stage) -> Result<Sample> {
    if stage.quick {
        return Err(BenchError::Skip("takes 40 s and is left out of a quick run".to_owned()));
    }
    let provider = Provider::start(stage, Place::Any)?;
    let broker = Broker::start(stage, BrokerSetup::new(provider.base_url(), Place::Any))?;
    let load = Load { warm_up: 1, ..Load::stamped(STREAMS_EACH, 150, 200_000) };
    let role = consume_role(broker.socket(), Style::Tokio, &load);
    let children: Result<Vec<Child>> =
        (0..PROCESSES).map(|_| Child::role(stage, &role, Place::Any)).collect();
    let mut children = children?;
    for child in &mut children {
        child.ready()?;
    }
    for child in &mut children {
        child.go()?;
    }
    let mut ages = Latency::new();
    for child in &mut children {
        let consumed: Consumed = child.answer()?;
        ages.add(&Latency::from(&consumed.ages));
    }
    Ok(Sample::of([ages.max() as f64 / 1e6]).with_latency(ages))
}
