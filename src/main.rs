//! The `ringmain` binary: parse, run, exit status.
#![forbid(unsafe_code)]

mod assemble;
mod cli;
mod commands;
mod config;
mod signals;

use std::error::Error;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// A request is some hundred short-lived allocations, freed by whichever worker ends it: with this
/// allocator it takes a tenth less of the broker's CPU than with that of the C library. It has no
/// thread of its own here, so an idle broker stays asleep.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    if cli.with_parent {
        // A kernel without it lets a child outlive a parent that was killed; nothing worse.
        let _ = set_pdeathsig(Signal::SIGKILL);
    }
    match commands::run(cli.command) {
        Ok(status) => status,
        // Whoever read the output has had enough of it; that is not worth a message. The status
        // is that of a program that the signal ends, as most are then.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::from(128 + Signal::SIGPIPE as u8),
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("ringmain: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
