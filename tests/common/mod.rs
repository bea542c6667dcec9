//! A small world for end-to-end tests: a simulated provider, a real broker process, and this
//! process (or copies of the test binary) as its clients. Everything is on loopback and in a
//! directory of its own, and is gone when the world is dropped.
#![allow(dead_code, reason = "each test file uses a part of the world")]

pub mod in_process;
pub mod peer;
pub mod proc;
pub mod quota;
pub mod record;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Child processes that end with the test, however it ends.
pub struct Crew(pub Vec<Child>);

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Longest wait for something that must happen; only a failing test ever reaches it.
pub const WATCHDOG: Duration = Duration::from_secs(30);

/// Builder of a configuration file for one provider.
#[derive(Clone, Default)]
pub struct Config {
    /// Lines of the `[broker]` table besides `socket`.
    pub broker: String,
    /// Lines of the `[[endpoint]]` table besides name and base URL.
    pub endpoint: String,
    /// Everything after the route of model `tiny`.
    pub tail: String,
}

impl Config {
    fn text(&self, socket: &Path, provider: SocketAddr) -> String {
        // Most providers of these tests fail on purpose: the breaker has tests of its own.
        let breaker = match self.endpoint.contains("breaker") {
            true => "",
            false => "breaker = { failures = 0, percent = 0 }",
        };
        format!(
            "[broker]\nsocket = {socket:?}\n{}\n\
             [[endpoint]]\nname = \"local\"\nbase_url = \"http://{provider}/v1\"\n{breaker}\n{}\n\
             [[route]]\nmodel = \"tiny\"\nendpoints = [{{ name = \"local\" }}]\n{}\n",
            self.broker, self.endpoint, self.tail
        )
    }
}

/// A broker process with its directory.
pub struct Broker {
    child: Option<Child>,
    dir: TempDir,
    config: Config,
    provider: SocketAddr,
}

impl Broker {
    /// Starts a broker for the provider at this address and waits until it can be reached.
    pub fn start(provider: SocketAddr, config: Config) -> Broker {
        let dir = tempfile::Builder::new().prefix("ringmain-test").tempdir().unwrap();
        // Clients of other uids must get through to the socket.
        set_mode(dir.path(), 0o755);
        let mut broker = Broker { child: None, dir, config, provider };
        broker.write_config();
        broker.spawn();
        broker
    }

    /// Path of the control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("broker.sock")
    }

    /// Path of the configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("ringmain.toml")
    }

    /// The directory of this broker.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a started broker").id()
    }

    /// Replaces the configuration file; the broker reads it at SIGHUP.
    pub fn reconfigure(&mut self, config: Config) {
        self.config = config;
        self.write_config();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid() as i32), signal).unwrap();
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) {
        let child = self.child.as_mut().expect("a started broker");
        let _ = child.kill();
        let status = child.wait().unwrap();
        assert!(
            status.signal() == Some(9) || status.success(),
            "the broker ended by itself: {status}"
        );
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("a started broker");
        let mut status = None;
        eventually("the broker ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Starts a new process on the same socket and configuration.
    pub fn restart(&mut self) {
        self.spawn();
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// What the broker wrote to standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("broker.log")).unwrap_or_default()
    }

    /// Waits until the log holds this text.
    pub fn await_log(&self, text: &str) {
        let seen = wait_until(WATCHDOG, || self.log().contains(text));
        assert!(seen, "the log never said {text:?}:\n{}", self.log());
    }

    /// `ringmain status --json` of this broker.
    pub fn status(&self) -> serde_json::Value {
        let output = Command::new(ringmain())
            .args(["status", "--json", "--socket"])
            .arg(self.socket())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "status failed: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn write_config(&self) {
        fs::write(self.config_path(), self.config.text(&self.socket(), self.provider)).unwrap();
    }

    fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("broker.log"))
            .unwrap();
        let child = Command::new(ringmain())
            .args(["serve", "--config"])
            .arg(self.config_path())
            .env_remove("RINGMAIN_SOCKET")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let socket = self.socket();
        let up = wait_until(WATCHDOG, || {
            ringmain_shm::Control::connect(&socket).is_ok() || !self.is_alive()
        });
        assert!(up && self.is_alive(), "the broker did not start:\n{}", self.log());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        // A killed broker leaves its counters behind, for a successor that never comes here.
        let counters = ringmain_broker::counters::segment_name(&self.socket());
        let _ = fs::remove_file(Path::new("/dev/shm").join(counters));
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- end of the broker's log, latest line first ---\n{}", lines.join("\n"));
        }
    }
}

/// Path of the binary under test.
pub fn ringmain() -> &'static str {
    env!("CARGO_BIN_EXE_ringmain")
}

/// Starts this test binary again to run only the test `name`, with `RINGMAIN_CHILD` set: the
/// test acts as a client process then.
pub fn child_of(name: &str, script: &str, broker: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("RINGMAIN_CHILD", script)
        .env("RINGMAIN_SOCKET", broker)
        .stdin(Stdio::null());
    command
}

/// The script of this process, when it is a copy started by [`child_of`].
pub fn child_script() -> Option<String> {
    std::env::var("RINGMAIN_CHILD").ok()
}

/// Polls until `done`, or until the time is over; tells which.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Polls until `done`; fails with `what` at the watchdog.
pub fn eventually(what: &str, done: impl FnMut() -> bool) {
    assert!(wait_until(WATCHDOG, done), "this never happened: {what}");
}

/// Rings for 800 ms, on a busy host for as long as a flood takes; fails where this costs the
/// process more than a fifth of a CPU.
pub fn flood_costs_next_to_nothing(pid: u32, mut ring: impl FnMut()) {
    let before = proc::cpu_ticks(pid);
    let start = Instant::now();
    let mut rings = 0u64;
    while start.elapsed() < Duration::from_millis(800) || rings <= 20_000 {
        assert!(start.elapsed() < WATCHDOG, "{rings} rings are no flood");
        ring();
        rings += 1;
    }
    let ticks = proc::cpu_ticks(pid) - before;
    let ms = start.elapsed().as_millis() as u64;
    println!("{rings} rings in {ms} ms cost the broker {ticks} ticks");
    // Heard one by one they take a good part of a CPU; muted, a wake-up per 10 ms.
    assert!(ticks * 800 < 16 * ms, "{rings} rings cost {ticks} ticks in {ms} ms");
}

/// Folder of the recorded streams, or `None` after saying that the test is skipped.
pub fn corpus() -> Option<PathBuf> {
    match std::env::var_os("RINGMAIN_CORPUS") {
        Some(path) => Some(path.into()),
        None if required("corpus") => {
            panic!("RINGMAIN_CORPUS is not set and RINGMAIN_REQUIRE asks for it")
        }
        None => {
            println!("skipped: RINGMAIN_CORPUS is not set");
            None
        }
    }
}

/// Whether a skip of this kind counts as a failure.
pub fn required(what: &str) -> bool {
    std::env::var("RINGMAIN_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item == what))
}

/// Says something about a run whether or not its test passes: a passing test's own output is not
/// shown.
pub fn report(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Everything that the reader gives until its end.
pub fn read_all(mut reader: impl std::io::Read) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
