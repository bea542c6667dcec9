//! One file per subcommand.

mod bench;
mod chat;
mod check;
mod demo;
mod drive;
mod key;
mod serve;
mod sim;
mod status;

use std::error::Error;
use std::process::ExitCode;

use crate::cli::Command;

/// How a subcommand ends: with an exit status, or with an error that `main` prints.
pub type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Runs a subcommand.
pub fn run(command: Command) -> Outcome {
    match command {
        Command::Check(args) => check::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Drive(args) => drive::run(&args),
        Command::Key(args) => key::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::DemoConsumer(args) => demo::run_consumer(&args),
        Command::BenchRole(args) => bench::run_role(&args),
    }
}
