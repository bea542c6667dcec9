//! Child processes: roles of this binary, and other programs.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;

use super::bench::Stage;
use super::placement::Place;
use crate::error::{BenchError, Result, Tried};
use crate::roles::Role;

/// The hidden subcommand whose argument is a role with what it is told, as JSON.
pub const ROLE_COMMAND: &str = "bench-role";

/// A child process, killed and waited for when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
    stdout: BufReader<ChildStdout>,
}

impl Child {
    /// Starts a role of this binary and waits for nothing.
    pub(crate) fn role(stage: &Stage, role: &Role, place: Place) -> Result<Child> {
        let told = serde_json::to_string(role).map_err(std::io::Error::from).tried("JSON")?;
        Child::start(stage, role.name(), stage.command().args([ROLE_COMMAND, &told]), place)
    }

    /// Starts a command whose standard output is read by this process.
    pub(crate) fn start(
        stage: &Stage,
        name: &str,
        command: &mut Command,
        place: Place,
    ) -> Result<Child> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let spawned = stage.cpus.at(place, || command.spawn())?;
        let mut process = spawned.tried(format!("starting {name}"))?;
        // Invariant: standard output was asked for two lines above.
        let stdout = process.stdout.take().map(BufReader::new);
        let stdout = stdout.ok_or_else(|| BenchError::Role {
            role: name.to_owned(),
            text: "its standard output is not a pipe".to_owned(),
        })?;
        Ok(Child { name: name.to_owned(), process, stdout })
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line);
        match read.tried(format!("reading from {}", self.name))? {
            0 => Err(self.said("ended early; its messages stand above".to_owned())),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// The next line that it prints, as the answer to its task.
    pub(crate) fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|error| self.said(format!("{error} in {line:?}")))
    }

    /// Waits until it says that it is ready.
    pub(crate) fn ready(&mut self) -> Result<()> {
        match self.line()?.as_str() {
            READY => Ok(()),
            other => Err(self.said(format!("{other:?} came in place of {READY:?}"))),
        }
    }

    /// Tells it to go on.
    pub(crate) fn go(&mut self) -> Result<()> {
        let told = self.process.stdin.as_mut().map(|stdin| stdin.write_all(b"go\n"));
        told.unwrap_or(Ok(())).tried(format!("telling {} to go on", self.name))
    }

    /// Fails when it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.process.try_wait().tried(format!("looking at {}", self.name))? {
            None => Ok(()),
            Some(status) => Err(self.said(format!("ended early with {status}"))),
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> Result<()> {
        self.process.wait().tried(format!("waiting for {}", self.name)).map(drop)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn said(&self, text: String) -> BenchError {
        BenchError::Role { role: self.name.clone(), text }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already; either way it is waited for, and its CPU time is counted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a role prints when it waits to be told to go on.
pub(crate) const READY: &str = "ready";

impl Stage {
    /// This binary, without what the environment says about brokers.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_remove("RINGMAIN_SOCKET").env_remove("RINGMAIN_LOG");
        command
    }
}
