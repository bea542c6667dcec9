//! `ringmain bench`: the low-latency harness on this machine.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use ringmain_bench::Options;

use crate::cli::{Bench, BenchRole};
use crate::commands::Outcome;

/// Runs the suites and writes the files that were asked for. A missed goal is a result; a row
/// whose measurement failed is not, and shows in the exit status.
pub fn run(args: &Bench) -> Outcome {
    // Before minutes of measuring rather than after them.
    let json = args.json.as_deref().map(Output::open).transpose()?;
    let html = args.html.as_deref().map(Output::open).transpose()?;
    let options = Options {
        program: std::env::current_exe()?,
        suites: args.suite.clone(),
        quick: args.quick,
        minutes: args.minutes,
    };
    let report = ringmain_bench::run(&options)?;
    println!("{}", report.closing_sentence());
    if let Some(json) = json {
        json.write(&report.to_json())?;
    }
    if let Some(html) = html {
        html.write(&report.to_html())?;
    }
    Ok(if report.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays one of the processes of a run.
pub fn run_role(args: &BenchRole) -> Outcome {
    ringmain_bench::play(&args.role)?;
    Ok(ExitCode::SUCCESS)
}

/// A file that takes a report; what it held stays until there is one.
struct Output<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Output<'a> {
    fn open(path: &'a Path) -> Result<Output<'a>, String> {
        let file = File::options().create(true).write(true).truncate(false).open(path);
        let file =
            file.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        Ok(Output { path, file })
    }

    fn write(mut self, text: &str) -> Result<(), String> {
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|error| format!("writing {}: {error}", self.path.display()))
    }
}
