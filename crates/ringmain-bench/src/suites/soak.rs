//! A long run: does anything grow, does anything stay held?

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::runs::{Pair, through_broker};
use crate::error::{BenchError, Result, Tried};
use crate::harness::bench::Stage;
use crate::harness::procfs::{open_fds, resident_kib};
use crate::harness::servers::Broker;
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
    how: "descriptors that `ringmain serve` has more at the end than after the first process",
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

/// Streams at a time. Each run has as many, so that each leaves as many idle connections behind.
const LOAD_STREAMS: u32 = 32;
/// Sessions that fit the quota of one uid when nothing of it is held.
const SESSIONS: u32 = 1000;
/// Fewest samples of a run, however short.
const SAMPLES_MIN: usize = 4;

/// What the broker held at one moment when nobody was attached.
#[derive(Clone, Copy, Debug)]
struct Look {
    minutes: f64,
    resident_kib: f64,
    fds: f64,
}

pub(super) fn run(bench: &mut Bench) {
    bench.observe_once(&[SLOPE, FDS, HELD], &mut soak);
}

fn soak(stage: &Stage) -> Result<Sample> {
    let pair = Pair::start(stage, Place::Any)?;
    let load = Load::rounds(LOAD_STREAMS, stage.pick(20, 400), 20);
    let (start, limit) = (Instant::now(), Duration::from_secs(60) * stage.minutes);
    let mut looks = Vec::new();
    // Bound: the minutes asked for, and a few samples.
    while start.elapsed() < limit || looks.len() < SAMPLES_MIN {
        through_broker(stage, &pair.broker, Style::Tokio, &load, Place::Any)?;
        // What a process leaves behind is cleared away within a second.
        sleep(Duration::from_secs(1));
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        let resident_kib = resident_kib(pair.broker.pid())? as f64;
        looks.push(Look { minutes, resident_kib, fds: open_fds(pair.broker.pid())? as f64 });
    }
    let fds = looks.last().zip(looks.first()).map_or(0.0, |(last, first)| last.fds - first.fds);
    let held = held(stage, &pair.broker)?;
    quota_is_whole(stage, &pair.broker)?;
    Ok(Sample::of([slope(&looks[looks.len() / 2..]), fds, held as f64]))
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
        let look = |minutes: f64| Look { minutes, resident_kib: 100.0 + 3.0 * minutes, fds: 1.0 };
        let looks: Vec<Look> = [0.0, 1.0, 2.5, 4.0].map(look).into();
        assert!((slope(&looks) - 3.0).abs() < 1e-9);
        assert_eq!(slope(&looks[..1]), 0.0);
    }
}
