//! The figures of both runs, side by side.

use std::io::{self, Write};

use super::tally::Tally;
use super::usage::Usage;

/// What one run gave.
#[derive(Debug, Default)]
pub struct Run {
    /// The consumers that read as fast as they can.
    pub prompt: Tally,
    /// The consumer that is slow on purpose.
    pub slow: Tally,
    /// Upstream connections opened.
    pub opened: u64,
    /// Requests that found an open connection.
    pub reused: u64,
    /// What the broker used, when there was one.
    pub broker: Option<Usage>,
}

impl Run {
    /// Whether every token of every stream arrived.
    pub fn is_intact(&self, streams: u64) -> bool {
        let all = [&self.prompt, &self.slow];
        let intact: u64 = all.iter().map(|tally| tally.intact).sum();
        intact == streams && all.iter().all(|tally| tally.faults.is_empty())
    }

    /// What went wrong, a sentence each.
    pub fn faults(&self) -> impl Iterator<Item = &String> {
        self.prompt.faults.iter().chain(&self.slow.faults)
    }

    fn tokens(&self) -> u64 {
        self.prompt.tokens + self.slow.tokens
    }

    fn broker_cpu(&self) -> Option<f64> {
        self.broker.map(|usage| per(usage.cpu_ns, self.tokens()) / 1e3)
    }

    fn consumer_cpu(&self) -> f64 {
        per(self.prompt.cpu_ns + self.slow.cpu_ns, self.tokens()) / 1e3
    }
}

/// Prints the table; the first run went through the broker, the second without one.
pub fn print(out: &mut impl Write, ours: &Run, direct: &Run) -> io::Result<()> {
    let both = |figure: &dyn Fn(&Run) -> String| [figure(ours), figure(direct)];
    let rows: [(&str, [String; 2]); 12] = [
        (
            "streams intact",
            both(&|run| {
                let sum = |f: fn(&Tally) -> u64| f(&run.prompt) + f(&run.slow);
                format!("{} of {}", sum(|t| t.intact), sum(|t| t.streams))
            }),
        ),
        ("tokens", both(&|run| run.tokens().to_string())),
        ("time to first token, p50 (1)", both(&|run| millis(&run.prompt.first_token_ns, 50))),
        ("time to first token, p99 (1)", both(&|run| millis(&run.prompt.first_token_ns, 99))),
        ("age of a token at the consumer, p50 (1)", both(&|run| millis(&run.prompt.age_ns, 50))),
        ("age of a token at the consumer, p99 (1)", both(&|run| millis(&run.prompt.age_ns, 99))),
        ("the same at the slow consumer, p50", both(&|run| millis(&run.slow.age_ns, 50))),
        (
            "upstream connections opened, reused",
            both(&|run| format!("{}, {}", run.opened, run.reused)),
        ),
        (
            "wake-ups per token, consumers (1)",
            both(&|run| format!("{:.2}", per(run.prompt.wakeups, run.prompt.tokens))),
        ),
        (
            "wake-ups per token, broker",
            both(&|run| {
                let of = |usage: Usage| format!("{:.2}", per(usage.wakeups, run.tokens()));
                run.broker.map_or_else(none, of)
            }),
        ),
        ("CPU per token, consumers", both(&|run| format!("{:.1} us", run.consumer_cpu()))),
        (
            "CPU per token, broker",
            both(&|run| run.broker_cpu().map_or_else(none, |us| format!("{us:.1} us"))),
        ),
    ];
    writeln!(out, "{:<40} {:>16} {:>16}", "", "ringmain", "HTTP in each (2)")?;
    for (name, [ours, direct]) in rows {
        writeln!(out, "{name:<40} {ours:>16} {direct:>16}")?;
    }
    writeln!(out, "(1) of the two consumers that are not slow on purpose")?;
    writeln!(
        out,
        "(2) the same streams, each process with its own HTTP client, SSE and JSON parsing"
    )
}

fn none() -> String {
    "-".to_owned()
}

fn per(amount: u64, count: u64) -> f64 {
    amount as f64 / count.max(1) as f64
}

/// The given percentile of nanoseconds, in milliseconds: the value that so many percent do not
/// exceed.
fn millis(values_ns: &[u64], percent: usize) -> String {
    let mut sorted = values_ns.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    match sorted.get(rank) {
        Some(ns) => format!("{:.2} ms", *ns as f64 / 1e6),
        None => none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<u64> = (1..=100).map(|n| n * 1_000_000).collect();
        assert_eq!(millis(&values, 50), "50.00 ms");
        assert_eq!(millis(&values, 99), "99.00 ms");
        assert_eq!(millis(&values[..1], 99), "1.00 ms");
        assert_eq!(millis(&[], 50), "-");
    }

    #[test]
    fn a_run_is_intact_only_whole() {
        let mut run = Run::default();
        run.prompt.intact = 2;
        run.slow.intact = 1;
        assert!(run.is_intact(3) && !run.is_intact(4));
        run.slow.faults.push("x".to_owned());
        assert!(!run.is_intact(3));
    }
}
