//! `ringmain bench`: the low-latency harness on this machine.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use ringmain_bench::Options;

use crate::cli::{Bench, BenchRole};
use crate::commands::Outcome;

/// Runs the suites and writes the files that were asked for. A missed goal is a result; a row
/// whose measurement failed is not, and shows in the exit status.
pub fn run(args: &Bench) -> Outcome {
    let options = Options {
        program: std::env::current_exe()?,
        suites: args.suite.clone(),
        quick: args.quick,
        minutes: args.minutes,
    };
    let report = ringmain_bench::run(&options)?;
    println!("{}", report.closing_sentence());
    write(args.json.as_deref(), || report.to_json())?;
    write(args.html.as_deref(), || report.to_html())?;
    Ok(if report.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays one of the processes of a run.
pub fn run_role(args: &BenchRole) -> Outcome {
    ringmain_bench::play(&args.role)?;
    Ok(ExitCode::SUCCESS)
}

fn write(path: Option<&Path>, text: impl FnOnce() -> String) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, text()).map_err(|error| format!("writing {}: {error}", path.display()))
}
