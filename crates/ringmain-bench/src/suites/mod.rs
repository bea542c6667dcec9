//! The suites, each a file: rows, how they are set up, what runs in turn.

mod consumer;
mod hop;
mod hostile;
mod idle;
mod lane;
mod latency;
mod proxies;
mod proxy;
mod runs;
mod scale;
mod syscalls;

use crate::error::{BenchError, Result};
use crate::harness::Bench;

/// A group of rows that can be run by itself.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    /// Name for `--suite`.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    run: fn(&mut Bench),
}

/// All suites, in the order in which they run.
const SUITES: &[Suite] = &[
    Suite { name: "hop", about: "round trips of one process with another", run: hop::run },
    Suite { name: "lane", about: "frames per second through memory", run: lane::run },
    Suite { name: "idle", about: "what sleeping and attached sessions cost", run: idle::run },
    Suite { name: "syscalls", about: "system calls per token", run: syscalls::run },
    Suite { name: "consumer", about: "CPU per token at the consumer", run: consumer::run },
    Suite { name: "proxy", about: "CPU of the broker against reverse proxies", run: proxy::run },
    Suite { name: "latency", about: "age of tokens, time to the first", run: latency::run },
    Suite { name: "scale", about: "how much goes through one broker", run: scale::run },
    Suite { name: "hostile", about: "what a hostile session costs", run: hostile::run },
];

impl Suite {
    pub(crate) fn run(&self, bench: &mut Bench) {
        bench.begin_suite(self.name, self.about);
        (self.run)(bench);
    }
}

/// The suites with these names, or all.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<Suite>> {
    if names.is_empty() {
        return Ok(SUITES.to_vec());
    }
    let find = |name: &String| {
        let found = SUITES.iter().find(|suite| suite.name == name).copied();
        found.ok_or_else(|| BenchError::Suite { name: name.clone(), known: names_joined() })
    };
    names.iter().map(find).collect()
}

/// All names, for people.
pub(crate) fn names_joined() -> String {
    SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>().join(", ")
}
