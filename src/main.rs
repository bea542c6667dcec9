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

fn main() -> ExitCode {
    match commands::run(cli::Cli::parse().command) {
        Ok(status) => status,
        // Whoever read the output has had enough of it; that is not worth a message.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
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
