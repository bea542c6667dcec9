//! The units, judged by systemd's own tools, and the product under what they promise.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "systemd/arguments.rs"]
mod arguments;
#[path = "systemd/calls.rs"]
mod calls;
mod common;
#[path = "systemd/confined.rs"]
mod confined;
#[allow(dead_code, reason = "shared with the tests of the HTTP face")]
#[path = "http/wire.rs"]
mod wire;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmain_sim::{Provider, ProviderConfig};
use tempfile::TempDir;

use common::{required, ringmain};

/// A uid that the brokers here let in besides their own.
const OTHER_UID: u32 = 4242;

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
        World::with(ProviderConfig::default(), |provider, _| {
            format!("[[endpoint]]\nname = \"local\"\nbase_url = {:?}\n", provider.base_url())
        })
    }

    /// A broker that looks its provider up by name, speaks TLS with it, and serves HTTP in every
    /// address family.
    fn of_every_family() -> World {
        World::with(ProviderConfig { tls: true, ..ProviderConfig::default() }, |provider, dir| {
            fs::write(dir.join("ca.pem"), provider.ca_pem().unwrap()).unwrap();
            let mut listen =
                format!("\"127.0.0.1:0\", \"unix:{}\"", dir.join("http.sock").display());
            if has_ipv6() {
                listen.push_str(", \"[::1]:0\"");
            }
            format!(
                "[[endpoint]]\nname = \"local\"\nbase_url = \"https://localhost:{}/v1\"\n\
                 ca_file = \"ca.pem\"\n[http]\nlisten = [{listen}]\n",
                provider.addr().port(),
            )
        })
    }

    fn with(config: ProviderConfig, rest: impl FnOnce(&Provider, &Path) -> String) -> World {
        let provider = Provider::start(config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[broker]\nsocket = {:?}\nsocket_group = \"{}\"\nallow = [\"uid:{OTHER_UID}\"]\n{}",
            dir.path().join("broker.sock"),
            ringmain_shm::process::own_gid(),
            rest(&provider, dir.path())
        );
        fs::write(dir.path().join("ringmain.toml"), text).unwrap();
        World { _provider: provider, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self, mut command: Command) -> Daemon {
        command.args(["serve", "--config"]).arg(self.path("ringmain.toml"));
        self.spawn(command)
    }

    fn spawn(&self, mut command: Command) -> Daemon {
        command.env_remove("RINGMAIN_SOCKET").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(self.path("log")).unwrap());
        Daemon(command.spawn().unwrap())
    }

    fn chat(&self) -> Output {
        self.chat_with("[[sim n=8 seed=1]]").output().unwrap()
    }

    fn chat_with(&self, prompt: &str) -> Command {
        let mut command = Command::new(ringmain());
        command.args(["chat", "--model", "tiny", prompt]);
        command.env("RINGMAIN_SOCKET", self.path("broker.sock"));
        command
    }

    /// Lets every user of the host get to the socket.
    fn open_to_all(&self) {
        for (path, mode) in [(self.dir.path(), 0o755), (&self.path("broker.sock"), 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    /// Where HTTP is served over TCP with this host part.
    fn http(&self, host: &str) -> SocketAddr {
        let (log, marker) = (self.log(), format!("serving HTTP address={host}:"));
        let at = log.find(&marker).unwrap_or_else(|| panic!("no {marker} in {log}")) + marker.len();
        let port: String = log[at..].chars().take_while(char::is_ascii_digit).collect();
        format!("{host}:{port}").parse().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A killed broker leaves its counters behind.
        let counters = ringmain_broker::counters::segment_name(&self.path("broker.sock"));
        let _ = fs::remove_file(Path::new("/dev/shm").join(counters));
    }
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
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

/// One run of the product under the unit's filter, as a process of its own; see [`confined`].
#[test]
fn confined_child() {
    if let Some(script) = common::child_script() {
        confined::become_broker(Path::new(&script));
    }
}

#[test]
fn the_product_works_within_the_system_calls_of_the_unit() {
    confined::works_as_the_unit_confines_it();
}

#[test]
fn a_system_call_that_the_unit_forgot_is_noticed() {
    confined::ends_at_a_forgotten_call();
}

#[test]
fn http_tls_and_names_work_within_the_address_families_of_the_unit() {
    confined::works_in_the_families_of_the_unit();
}

#[test]
fn an_address_family_that_the_unit_forgot_is_noticed() {
    confined::ends_at_a_forgotten_family();
}

/// What the unit's filter refuses, tried in a process of its own; see [`confined`].
#[test]
fn refused_child() {
    if let Some(script) = common::child_script() {
        confined::try_what_is_refused(Path::new(&script));
    }
}

#[test]
fn the_unit_refuses_other_families_and_new_code() {
    confined::refuses_other_families_and_new_code();
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
