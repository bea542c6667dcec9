//! The units, judged by systemd's own tools, and the product under what they promise.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmain_sim::{Provider, ProviderConfig};
use tempfile::TempDir;

use common::{required, ringmain};

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd").join(name)
}

/// Path of a tool; `None` after saying that the test is skipped.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.exists());
    match found {
        None if required("systemd") => panic!("{name} is missing and RINGMAIN_REQUIRE asks for it"),
        None => {
            println!("skipped: {name} is not installed");
            None
        }
        found => found,
    }
}

/// A provider, a configuration for it and the folder that they use.
struct World {
    _provider: Provider,
    dir: TempDir,
}

impl World {
    fn new() -> World {
        let provider = Provider::start(ProviderConfig::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[broker]\nsocket = {:?}\nsocket_group = \"{}\"\n\
             [[endpoint]]\nname = \"local\"\nbase_url = {:?}\n",
            dir.path().join("broker.sock"),
            ringmain_shm::process::own_gid(),
            provider.base_url()
        );
        fs::write(dir.path().join("ringmain.toml"), text).unwrap();
        World { _provider: provider, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self, mut command: Command) -> Daemon {
        command.args(["serve", "--config"]).arg(self.path("ringmain.toml"));
        command.env_remove("RINGMAIN_SOCKET").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(self.path("log")).unwrap());
        Daemon(command.spawn().unwrap())
    }

    fn chat(&self) -> Output {
        Command::new(ringmain())
            .args(["chat", "--model", "tiny", "[[sim n=8 seed=1]]"])
            .env("RINGMAIN_SOCKET", self.path("broker.sock"))
            .output()
            .unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

/// A process that does not outlive its test.
struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn told(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn the_units_are_valid() {
    let Some(analyze) = tool("systemd-analyze") else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["ringmain.service", "ringmain.socket"] {
        let text = fs::read_to_string(unit(name)).unwrap();
        // The program is not installed where the unit expects it.
        fs::write(dir.path().join(name), text.replace("/usr/bin/ringmain", ringmain())).unwrap();
    }
    for name in ["ringmain.service", "ringmain.socket"] {
        let mut command = Command::new(&analyze);
        let output = command.args(["verify", "--man=no"]).arg(dir.path().join(name)).output();
        let output = output.unwrap();
        let complaints = told(&output);
        assert!(output.status.success(), "{name}: {complaints}");
        assert!(!complaints.contains("ringmain"), "{name}: {complaints}");
    }
}

#[test]
fn the_exposure_is_at_most_1_5() {
    let Some(analyze) = tool("systemd-analyze") else { return };
    let output = Command::new(analyze)
        .args(["security", "--offline=yes", "--no-pager", "--threshold=15"])
        .arg(unit("ringmain.service"))
        .output()
        .unwrap();
    let text = told(&output);
    let last = text.lines().last().unwrap_or_default();
    assert!(output.status.success() && last.contains("exposure level"), "{text}");
    println!("{last}");
}

#[test]
fn the_socket_of_the_unit_is_the_one_that_clients_look_for() {
    let socket = fs::read_to_string(unit("ringmain.socket")).unwrap();
    assert!(socket.contains("ListenSequentialPacket=/run/ringmain/broker.sock"));
    let service = fs::read_to_string(unit("ringmain.service")).unwrap();
    assert!(!service.lines().any(|line| line.starts_with("PrivateUsers=")));
}

#[test]
fn a_socket_that_was_handed_over_is_served() {
    let Some(activate) = tool("systemd-socket-activate") else { return };
    let world = World::new();
    let mut command = Command::new(activate);
    command.arg("--seqpacket").arg("--listen").arg(world.path("broker.sock")).arg(ringmain());
    let daemon = world.serve(command);
    common::eventually("the socket is there", || world.path("broker.sock").exists());
    let output = world.chat();
    assert!(output.status.success(), "{}\n{}", told(&output), world.log());
    daemon.signal(Signal::SIGTERM);
    common::eventually("the broker says that it ended", || world.log().contains("ended"));
    assert!(world.path("broker.sock").exists(), "the socket belongs to the service manager");
}

#[test]
fn a_socket_of_another_kind_is_refused() {
    let Some(activate) = tool("systemd-socket-activate") else { return };
    let world = World::new();
    let mut command = Command::new(activate);
    command.arg("--listen").arg(world.path("broker.sock")).arg(ringmain());
    let _daemon = world.serve(command);
    common::eventually("the socket is there", || world.path("broker.sock").exists());
    let _knock = std::os::unix::net::UnixStream::connect(world.path("broker.sock")).unwrap();
    common::eventually("the broker refuses it", || world.log().contains("ListenSequentialPacket"));
}

#[test]
fn the_service_manager_is_told() {
    let world = World::new();
    let manager = UnixDatagram::bind(world.path("notify")).unwrap();
    manager.set_read_timeout(Some(common::WATCHDOG)).unwrap();
    let mut command = Command::new(ringmain());
    command.env("NOTIFY_SOCKET", world.path("notify")).env("WATCHDOG_USEC", "100000");
    let mut daemon = world.serve(command);
    let next = |wanted: &str| {
        // Pings come in between.
        loop {
            let mut bytes = [0; 512];
            let length = manager.recv(&mut bytes).unwrap();
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return text;
            }
            assert_eq!(text.trim(), "WATCHDOG=1", "while waiting for {wanted}");
        }
    };
    next("READY=1");
    assert!(world.chat().status.success(), "ready means that clients can attach");
    next("WATCHDOG=1");
    next("WATCHDOG=1");
    daemon.signal(Signal::SIGHUP);
    assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
    next("READY=1");
    // A stopped loop does not ping: two periods pass in silence.
    daemon.signal(Signal::SIGSTOP);
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut [0; 512]).is_ok() {}
    std::thread::sleep(Duration::from_millis(200));
    assert!(manager.recv(&mut [0; 512]).is_err(), "a stopped broker pinged");
    manager.set_nonblocking(false).unwrap();
    daemon.signal(Signal::SIGCONT);
    daemon.signal(Signal::SIGTERM);
    next("STOPPING=1");
    assert!(daemon.0.wait().unwrap().success());
}

#[test]
fn the_product_stays_within_the_system_calls_of_the_unit() {
    let Some(analyze) = tool("systemd-analyze") else { return };
    let Some(strace) = tool("strace") else { return };
    let allowed = allowed_calls(&analyze);
    for needed in ["epoll_wait", "memfd_create", "io_submit", "pidfd_open", "eventfd2"] {
        assert!(allowed.contains(needed), "{needed} is not allowed");
    }
    assert!(!allowed.contains("ptrace") && !allowed.contains("mount"));

    let world = World::new();
    let trace = world.path("trace");
    let mut command = Command::new(strace);
    command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&trace).arg(ringmain());
    let mut daemon = world.serve(command);
    common::eventually("the socket is there", || world.path("broker.sock").exists());
    let output = world.chat();
    assert!(output.status.success(), "{}\n{}", told(&output), world.log());
    let broker = fs::read_to_string(&trace).unwrap();
    let pid = broker.split_ascii_whitespace().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    common::eventually("it reloads", || world.log().contains("read again"));
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert!(daemon.0.wait().unwrap().success());

    let used = calls_in(&fs::read_to_string(&trace).unwrap());
    assert!(used.len() > 20, "{used:?}");
    // The socket is bound by systemd when the unit runs; by hand the broker does it itself.
    let by_hand =
        ["chmod", "fchmod", "fchmodat", "lchown", "unlink", "unlinkat"].map(str::to_owned);
    let beyond: Vec<_> = used.difference(&allowed).filter(|call| !by_hand.contains(call)).collect();
    assert!(beyond.is_empty(), "the unit forbids {beyond:?}");
}

/// Names of the system calls in a trace whose lines are `PID name(..`.
fn calls_in(trace: &str) -> BTreeSet<String> {
    let call = |line: &str| {
        let rest = line.split_once(' ')?.1.trim_start();
        let name = rest.split('(').next()?;
        let is_name =
            name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        (is_name && !name.is_empty() && name.len() < rest.len()).then(|| name.to_owned())
    };
    trace.lines().filter_map(call).collect()
}

/// The unit's filter as systemd reads it: the first line decides that it is a list of allowed
/// calls, lines with `~` take away, further ones add.
fn allowed_calls(analyze: &Path) -> BTreeSet<String> {
    let service = fs::read_to_string(unit("ringmain.service")).unwrap();
    let mut allowed = expand(analyze, "@default");
    // systemd itself needs it to start the program.
    allowed.insert("execve".to_owned());
    for line in service.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (takes_away, names) = match line.strip_prefix('~') {
            Some(names) => (true, names),
            None => (false, line),
        };
        for name in names.split_ascii_whitespace() {
            for call in expand(analyze, name) {
                match takes_away {
                    true => drop(allowed.remove(&call)),
                    false => drop(allowed.insert(call)),
                }
            }
        }
    }
    allowed
}

fn expand(analyze: &Path, name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let output = Command::new(analyze).args(["syscall-filter", "--no-pager", name]).output();
    let text = told(&output.unwrap());
    let entries = text.lines().filter(|line| line.starts_with("    ")).map(str::trim);
    let entries = entries.filter(|entry| !entry.is_empty() && !entry.starts_with('#'));
    entries.flat_map(|entry| expand(analyze, entry)).collect()
}
