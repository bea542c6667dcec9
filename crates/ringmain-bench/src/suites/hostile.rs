//! What a hostile session costs the others and the broker.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::runs::{Pair, through_broker};
use crate::error::Result;
use crate::harness::bench::Stage;
use crate::harness::procfs::cpu_ns;
use crate::harness::servers::{Broker, BrokerSetup};
use crate::harness::{Bench, Child, Goal, Latency, Place, RowSpec, Sample};
use crate::roles::Role;
use crate::roles::consume::Style;
use crate::roles::flood::Flood;
use crate::roles::load::Load;

const NEIGHBOUR: RowSpec = RowSpec {
    name: "hostile_neighbour_p99",
    unit: "ns",
    baseline: Some("the same with a process that rings itself"),
    goal: Some(Goal::RatioAtMost(1.5)),
    how: "99 % of the tokens of 63 sessions with one stream of 50 tokens/s each are younger than \
        this, while a further session rings the broker for nothing as fast as it can; in the \
        baseline a process spends the same CPU on a bell that nobody waits for",
};
const BROKER: RowSpec = RowSpec {
    name: "hostile_broker_cpu",
    unit: "% of a CPU",
    baseline: None,
    goal: Some(Goal::AtMost(3.0)),
    how: "CPU of `ringmain serve` while one session rings for nothing as fast as it can and nobody \
        else is attached",
};

/// Sessions beside the hostile one.
const NEIGHBOURS: u32 = 63;
/// Nobody asks for anything.
const NO_PROVIDER: &str = "http://127.0.0.1:9/v1";

pub(super) fn run(bench: &mut Bench) {
    if let Some(pair) = bench.prepare(&[NEIGHBOUR], |stage| Pair::start(stage, Place::Any)) {
        bench.compare(&[NEIGHBOUR], &mut |stage| neighbours(stage, &pair, true), &mut |stage| {
            neighbours(stage, &pair, false)
        });
    }
    bench.observe(&[BROKER], &mut broker_cpu);
}

fn neighbours(stage: &Stage, pair: &Pair, hostile: bool) -> Result<Sample> {
    let socket = hostile.then(|| pair.broker.socket().to_owned());
    let _flood = flood(stage, Flood { socket })?;
    let load = Load::stamped(NEIGHBOURS, stage.pick(8, 200), 20_000);
    let cost = through_broker(stage, &pair.broker, Style::Threads, &load, Place::Any)?;
    let ages = Latency::from(&cost.consumed.ages);
    Ok(Sample::of([ages.quantile(0.99) as f64]).with_latency(ages))
}

fn broker_cpu(stage: &Stage) -> Result<Sample> {
    let broker = Broker::start(stage, BrokerSetup::new(NO_PROVIDER, Place::Any))?;
    let _flood = flood(stage, Flood { socket: Some(broker.socket().to_owned()) })?;
    sleep(Duration::from_millis(100));
    let (start, before) = (Instant::now(), cpu_ns(broker.pid())?);
    sleep(Duration::from_millis(stage.pick(300, 2_000)));
    let spent = cpu_ns(broker.pid())? - before;
    Ok(Sample::of([spent as f64 * 100.0 / start.elapsed().as_nanos() as f64]))
}

fn flood(stage: &Stage, told: Flood) -> Result<Child> {
    let mut child = Child::role(stage, &Role::Flood(told), stage.cpus.measured())?;
    child.ready()?;
    Ok(child)
}
