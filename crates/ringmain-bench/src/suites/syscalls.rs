//! System calls of a consumer per token, counted by strace.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::runs::{Pair, consume_role};
use crate::error::{BenchError, Result, Tried};
use crate::harness::bench::Stage;
use crate::harness::child::ROLE_COMMAND;
use crate::harness::{Bench, Child, Goal, Place, RowSpec, Sample};
use crate::roles::consume::Style;
use crate::roles::load::{Consumed, Load};

const IDLE: RowSpec = RowSpec {
    name: "syscalls_per_token_idle",
    unit: "1/token",
    baseline: None,
    goal: Some(Goal::AtMost(2.0)),
    how: "`strace -f -c` of a blocking consumer of one stream with 10 ms between tokens; the \
        difference of a long and a short run divided by that of their tokens, so that starting \
        and attaching do not count",
};
const BURST: RowSpec = RowSpec {
    name: "syscalls_per_token_burst",
    goal: Some(Goal::AtMost(0.03)),
    how: "the same with one stream as fast as the provider sends, 64 tokens in each of its writes; \
        a call takes longer under strace, which lets more tokens arrive meanwhile",
    ..IDLE
};

pub(super) fn run(bench: &mut Bench) {
    let made = bench.prepare(&[IDLE, BURST], |stage| {
        find_strace()?;
        Pair::start(stage, Place::Any)
    });
    let Some(pair) = made else { return };
    let idle = bench.stage.pick(30, 200);
    bench.observe(&[IDLE], &mut |stage| {
        per_token(stage, &pair, [10, 10 + idle], |tokens| Load::stream(1, tokens, 10_000))
    });
    let burst = bench.stage.pick(20_000, 100_000);
    bench.observe(&[BURST], &mut |stage| {
        per_token(stage, &pair, [1_000, 1_000 + burst], Load::burst)
    });
}

fn find_strace() -> Result<()> {
    let found = Command::new("strace").arg("--version").output();
    match found {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(BenchError::Skip("strace is not installed".to_owned())),
    }
}

fn per_token(
    stage: &Stage,
    pair: &Pair,
    tokens: [u64; 2],
    load: impl Fn(u64) -> Load,
) -> Result<Sample> {
    let [short, long] = tokens;
    let calls = |tokens| count_calls(stage, pair, &load(tokens));
    let (few, many) = (calls(short)?, calls(long)?);
    Ok(Sample::of([(many as f64 - few as f64) / (long - short) as f64]))
}

fn count_calls(stage: &Stage, pair: &Pair, load: &Load) -> Result<u64> {
    let summary = stage.workdir.fresh(".strace");
    let role = consume_role(pair.broker.socket(), Style::Blocking, load);
    let told = serde_json::to_string(&role).map_err(std::io::Error::from).tried("JSON")?;
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&summary);
    command.arg(&stage.program).args([ROLE_COMMAND, &told]);
    let mut child = Child::start(stage, "strace", &mut command, Place::Any)?;
    child.ready()?;
    child.go()?;
    let _: Consumed = child.answer()?;
    child.wait()?;
    read_total(&summary)
}

/// The calls of the line for all of them.
fn read_total(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path).tried("the summary of strace")?;
    total(&text).ok_or_else(|| BenchError::Role {
        role: "strace".to_owned(),
        text: "its summary has no total".to_owned(),
    })
}

fn total(summary: &str) -> Option<u64> {
    let line = summary.lines().rfind(|line| line.trim_end().ends_with(" total"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read() {
        let summary = "    calls syscall\n--------- ----------------\n       12 read\n\
                       --------- ----------------\n      107 total\n";
        assert_eq!(total(summary), Some(107));
        assert_eq!(total(""), None);
    }
}
