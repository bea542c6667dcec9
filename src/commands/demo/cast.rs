//! The processes of the demo: the provider, the broker, the consumers.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmain_broker::counters::segment_name;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::commands::private_folder;
use crate::config::SOCKET_VARIABLE;

/// A folder of the demo's own, removed at the end.
pub struct Stage(TempDir);

/// A child process. Dropped, it is killed; no demo leaves one behind.
pub struct Actor {
    child: Child,
    /// What it prints, line by line.
    pub lines: Lines<BufReader<ChildStdout>>,
}

/// The broker and where it listens.
pub struct Broker {
    actor: Actor,
    /// Its control socket.
    pub socket: PathBuf,
}

impl Stage {
    /// Makes a folder that nobody else may enter.
    pub fn build() -> io::Result<Stage> {
        let base = env::var_os("XDG_RUNTIME_DIR").filter(|path| Path::new(path).is_dir());
        let base = base.map_or_else(env::temp_dir, PathBuf::from);
        Ok(Stage(private_folder("ringmain-demo-", &base)?))
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("broker.sock")
    }

    /// What the broker wrote to its log.
    pub fn broker_log(&self) -> String {
        fs::read_to_string(self.0.path().join("broker.log")).unwrap_or_default()
    }

    /// Starts a broker for this provider and waits until it listens.
    pub async fn start_broker(&self, base_url: &str) -> io::Result<Broker> {
        let (config, socket) = (self.0.path().join("ringmain.toml"), self.socket());
        let text = format!(
            "[broker]\nsocket = {:?}\nsocket_mode = \"0600\"\ndrain = \"1s\"\n\n\
             [[endpoint]]\nname = \"sim\"\nbase_url = \"{base_url}\"\n",
            socket.display().to_string()
        );
        fs::write(&config, text)?;
        let mut command = own_command(&["serve", "--config"])?;
        command.arg(&config).env_remove(SOCKET_VARIABLE);
        command.stderr(fs::File::create(self.0.path().join("broker.log"))?);
        let mut actor = Actor::start(command)?;
        // Bound: ten seconds; a broker listens within milliseconds.
        for _ in 0..1_000 {
            if socket.exists() {
                return Ok(Broker { actor, socket });
            }
            if let Some(status) = actor.child.try_wait()? {
                let log = self.broker_log();
                return Err(io::Error::other(format!("the broker ended with {status}\n{log}")));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Err(io::Error::other("the broker did not listen within 10 s"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A broker that had to be killed leaves its counters behind.
        let counters = segment_name(&self.socket());
        let _ = fs::remove_file(Path::new("/dev/shm").join(counters));
    }
}

impl Broker {
    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.actor.child.id()
    }

    /// Asks it to end and waits for it.
    pub async fn stop(self) {
        self.actor.stop().await;
    }
}

impl Actor {
    /// Starts the simulated provider; returns it and its base URL.
    pub async fn provider() -> io::Result<(Actor, String)> {
        let mut actor = Actor::start(own_command(&["sim", "--listen", "127.0.0.1:0"])?)?;
        match timeout(Duration::from_secs(5), actor.lines.next_line()).await {
            Ok(Ok(Some(base_url))) => Ok((actor, base_url)),
            _ => Err(io::Error::other("the simulated provider did not start")),
        }
    }

    /// Starts a process of this binary with these arguments.
    pub fn of_own_binary(arguments: &[&str]) -> io::Result<Actor> {
        Actor::start(own_command(arguments)?)
    }

    fn start(mut command: Command) -> io::Result<Actor> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no pipe to the child"))?;
        Ok(Actor { child, lines: BufReader::new(stdout).lines() })
    }

    /// Asks it to end, and kills it when it does not within two seconds.
    pub async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            // It may have ended by itself; then there is nothing to do.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
        if timeout(Duration::from_secs(2), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    /// Waits for its end.
    pub async fn wait(mut self) -> io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }
}

fn own_command(arguments: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("--with-parent").args(arguments);
    Ok(command)
}
