//! One file per subcommand.

mod bench;
mod chat;
mod check;
mod demo;
mod drive;
mod explain;
mod key;
mod serve;
mod sim;
mod status;

use std::error::Error;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use tempfile::TempDir;

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

/// A new folder below `base` that nobody else may enter, and whose name nobody can know before.
fn private_folder(prefix: &str, base: &Path) -> io::Result<TempDir> {
    let own = Permissions::from_mode(0o700);
    tempfile::Builder::new().prefix(prefix).permissions(own).tempdir_in(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_folder_is_the_own_users_alone_and_goes_with_its_owner() {
        let base = tempfile::tempdir().unwrap();
        let folder = private_folder("ringmain-test-", base.path()).unwrap();
        let (path, mode) =
            (folder.path().to_owned(), folder.path().metadata().unwrap().permissions());
        assert_eq!(mode.mode() & 0o777, 0o700);
        assert!(path.file_name().unwrap().to_string_lossy().starts_with("ringmain-test-"));
        drop(folder);
        assert!(!path.exists());
    }
}
