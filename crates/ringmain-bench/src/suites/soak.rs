//! A long run: does anything grow, does anything stay held?

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::runs::through_broker;
use crate::error::{BenchError, Result, Tried};
use crate::harness::bench::Stage;
use crate::harness::procfs::{open_fds, resident_kib};
use crate::harness::servers::{Broker, BrokerSetup, Provider};
use crate::harness::{Bench, Child, Goal, Place, RowSpec, Sample};
use crate::roles::Role;
use crate::roles::consume::Style;
use crate::roles::idle::Idle;
use crate::roles::load::Load;

const SLOPE: RowSpec = RowSpec {
    name: "soak_resident_slope",
    unit: "KiB/min",
    baseline: None,
    goal: None,
    how: "growth of RssAnon + RssShmem of `ringmain serve`, a line through the later half of the \
        samples; between two samples a process attaches, runs short streams on 32 tasks and ends",
};
const FDS: RowSpec = RowSpec {
    name: "soak_fds",
    unit: "fds",
    goal: Some(Goal::AtMost(0.0)),
    how: "descriptors that `ringmain serve` has more after the last process than after the first, \
        each time when its unused connections to the provider were over their time and are closed",
    ..SLOPE
};
const HELD: RowSpec = RowSpec {
    name: "soak_held",
    unit: "charges",
    goal: Some(Goal::AtMost(0.0)),
    how: "sessions and streams that the broker still counts when nobody is attached any more, by \
        `ringmain status`; then 1,000 sessions must fit the quota again",
    ..SLOPE
};

/// Streams at a time.
const LOAD_STREAMS: u32 = 32;
/// How long the broker keeps an unused connection to the provider, in its configuration. A process
/// leaves up to twice as many behind as it has streams, each of two descriptors, for a request may
/// come while the tail of the answer before is still read: how many, differs by dozens. So they
/// are let go before any descriptor is counted.
const IDLE_TIMEOUT: &str = "idle_timeout = \"2s\"\n";
/// From the end of a process on, longer than that by what a loaded machine may take.
const LET_GO: Duration = Duration::from_secs(6);
/// Sessions that fit the quota of one uid when nothing of it is held.
const SESSIONS: u32 = 1000;
/// Fewest samples of a run, however short.
const SAMPLES_MIN: usize = 4;

/// What the broker held at one moment when nobody was attached.
#[derive(Clone, Copy, Debug)]
struct Look {
    minutes: f64,
    resident_kib: f64,
}

pub(super) fn run(bench: &mut Bench) {
    bench.observe_once(&[SLOPE, FDS, HELD], &mut soak);
}

fn soak(stage: &Stage) -> Result<Sample> {
    let provider = Provider::start(stage, Place::Any)?;
    let setup = BrokerSetup::new(provider.base_url(), Place::Any);
    let broker = Broker::start(stage, BrokerSetup { endpoint: IDLE_TIMEOUT, ..setup })?;
    let load = Load::rounds(LOAD_STREAMS, stage.pick(20, 400), 20);
    let run = || through_broker(stage, &broker, Style::Tokio, &load, Place::Any);
    run()?;
    let fds_before = fds_at_rest(&broker)?;
    let (start, limit) = (Instant::now(), Duration::from_secs(60) * stage.minutes);
    let mut looks = Vec::new();
    // Bound: the minutes asked for, and a few samples.
    while start.elapsed() < limit || looks.len() < SAMPLES_MIN {
        run()?;
        // What a process leaves behind is cleared away within a second.
        sleep(Duration::from_secs(1));
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        looks.push(Look { minutes, resident_kib: resident_kib(broker.pid())? as f64 });
    }
    let fds = fds_at_rest(&broker)? - fds_before;
    let held = held(stage, &broker)?;
    quota_is_whole(stage, &broker)?;
    Ok(Sample::of([slope(&looks[looks.len() / 2..]), fds, held as f64]))
}

/// All descriptors of a broker that nobody is attached to and that has no connection left over.
fn fds_at_rest(broker: &Broker) -> Result<f64> {
    sleep(LET_GO);
    Ok(open_fds(broker.pid())? as f64)
}

/// Sessions and streams that the broker counts.
fn held(stage: &Stage, broker: &Broker) -> Result<u64> {
    let mut command = stage.command();
    command.args(["status", "--json", "--socket"]).arg(broker.socket());
    let output = command.output().tried("asking for the status")?;
    let said = |text: String| BenchError::Role { role: "status".to_owned(), text };
    let counts: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| said(error.to_string()))?;
    let number = |key: &str| counts[key].as_u64().ok_or_else(|| said(format!("no {key}")));
    Ok(number("sessions")? + number("streams")?)
}

/// As many sessions as a uid may have, or nearly so, can be had again.
fn quota_is_whole(stage: &Stage, broker: &Broker) -> Result<()> {
    let told = Idle { socket: broker.socket().to_owned(), sessions: SESSIONS };
    Child::role(stage, &Role::Idle(told), Place::Any)?.ready()
}

/// The line through the samples with the least squared error: KiB per minute.
fn slope(looks: &[Look]) -> f64 {
    let count = looks.len() as f64;
    let mean = |of: fn(&Look) -> f64| looks.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|look| look.minutes), mean(|look| look.resident_kib));
    let product = |look: &Look| (look.minutes - x) * (look.resident_kib - y);
    let covariance: f64 = looks.iter().map(product).sum();
    let variance: f64 = looks.iter().map(|look| (look.minutes - x).powi(2)).sum();
    if variance == 0.0 { 0.0 } else { covariance / variance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_line() {
        let look = |minutes: f64| Look { minutes, resident_kib: 100.0 + 3.0 * minutes };
        let looks: Vec<Look> = [0.0, 1.0, 2.5, 4.0].map(look).into();
        assert!((slope(&looks) - 3.0).abs() < 1e-9);
        assert_eq!(slope(&looks[..1]), 0.0);
    }
}
