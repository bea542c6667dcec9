//! The bundled low-latency harness: what a broker, a lane and a consumer cost on this machine, as
//! ratios to baselines that ran in turn with them.
//!
//! Every figure comes from real processes: the harness starts its own program again, as `serve`,
//! as `sim` and in hidden roles, and pins them where a row says so. Product and baseline take
//! turns, five passes or more; a row shows the median of the paired ratios with its range, and how
//! much of the machine other work took meanwhile.
//!
//! | module | what it holds |
//! |---|---|
//! | `harness` | processes, placements, passes, and what else the machine did |
//! | `roles` | what the child processes do |
//! | `suites` | the rows and how each is set up |
//! | [`report`] | table, JSON, and one HTML page with pictures |
#![forbid(unsafe_code)]

mod error;
mod harness;
pub mod report;
mod roles;
mod suites;

use std::path::PathBuf;

use error::Tried;
use harness::bench::{Bench, Stage};
use harness::progress::Progress;
use harness::workdir::Workdir;

pub use error::{BenchError, Result};
pub use harness::child::ROLE_COMMAND;
pub use harness::machine::Machine;
pub use harness::row::Row;
pub use report::Report;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary that has the subcommands `serve`, `sim` and [`ROLE_COMMAND`]: normally the
    /// running one.
    pub program: PathBuf,
    /// Names of suites; empty for all but `soak`.
    pub suites: Vec<String>,
    /// A short run, for a look rather than for figures.
    pub quick: bool,
    /// How long the suite `soak` runs.
    pub minutes: u32,
}

/// Runs the suites and prints each row when it is done.
///
/// # Errors
/// When a suite does not exist or the machine does not let the harness begin. A row that fails
/// says so and leaves the others alone: see [`Report::failures`].
pub fn run(options: &Options) -> Result<Report> {
    let suites = suites::chosen(&options.suites)?;
    // Children inherit the limit, and thousands of streams take thousands of descriptors.
    ringmain_shm::raise_nofile().tried("raising the limit of descriptors")?;
    let cpus = harness::Cpus::of_this_process()?;
    let machine = Machine::here(&cpus, options.quick);
    println!("{}", machine.sentence());
    let workdir = Workdir::create()?;
    let program = options.program.clone();
    let (quick, minutes) = (options.quick, options.minutes);
    let stage = Stage { program, workdir, cpus, quick, minutes };
    let mut bench = Bench::new(stage, Progress::begin());
    for suite in suites {
        suite.run(&mut bench);
    }
    let (rows, failures) = bench.into_rows();
    Ok(Report { machine, rows, failures })
}

/// Plays the role that [`ROLE_COMMAND`] was given, in a child process of [`run`].
///
/// # Errors
/// Whatever keeps it from playing; the parent sees that no answer comes.
pub fn play(role: &str) -> Result<()> {
    roles::play(role)
}

/// The names of all suites, for a help text.
pub fn suite_names() -> String {
    suites::names_joined()
}
