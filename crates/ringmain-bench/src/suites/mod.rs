//! The suites, each a file: rows, how they are set up, what runs in turn.

mod consumer;
mod hop;
mod hostile;
mod http;
mod idle;
mod lane;
mod latency;
mod proxies;
mod proxy;
mod runs;
mod scale;
mod soak;
mod syscalls;
mod upstream;

use crate::error::{BenchError, Result};
use crate::harness::Bench;

/// A group of rows that can be run by itself.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    /// Name for `--suite`.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Whether it runs when no suite is named.
    is_usual: bool,
    run: fn(&mut Bench),
}

/// All suites, in the order in which they run.
const SUITES: &[Suite] = &[
    usual("hop", "round trips of one process with another", hop::run),
    usual("lane", "frames per second through memory", lane::run),
    usual("idle", "what sleeping and attached sessions cost", idle::run),
    usual("syscalls", "system calls per token", syscalls::run),
    usual("consumer", "CPU per token at the consumer", consumer::run),
    usual("proxy", "CPU of the broker against reverse proxies", proxy::run),
    usual("http", "the HTTP face against reverse proxies", http::run),
    usual("latency", "age of tokens, time to the first", latency::run),
    usual("scale", "how much goes through one broker", scale::run),
    usual("upstream", "the way to the provider against going there oneself", upstream::run),
    usual("hostile", "what a hostile session costs", hostile::run),
    Suite { is_usual: false, ..usual("soak", "what grows in a long run", soak::run) },
];

const fn usual(name: &'static str, about: &'static str, run: fn(&mut Bench)) -> Suite {
    Suite { name, about, is_usual: true, run }
}

impl Suite {
    pub(crate) fn run(&self, bench: &mut Bench) {
        bench.begin_suite(self.name, self.about);
        (self.run)(bench);
    }
}

/// The suites with these names, or all that do not take as long as one likes.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<Suite>> {
    if names.is_empty() {
        return Ok(SUITES.iter().filter(|suite| suite.is_usual).copied().collect());
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
