//! The broker under the system-call filter of its unit, which the kernel enforces.
//!
//! A copy of this test binary takes the socket from systemd's own activator, installs the filter
//! and becomes `ringmain serve`: the order in which the service manager does it. Once the filter
//! acts as the unit says, and once it kills, so that no call which fails unnoticed is missed.

use std::env::consts::ARCH;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use seccompiler::TargetArch;

use crate::calls::{Beyond, Filter};
use crate::common::{self, ringmain};
use crate::{Daemon, OTHER_UID, World, told, tool};

/// Names the configuration for [`become_broker`].
const CONFIG_VARIABLE: &str = "RINGMAIN_TEST_CONFIG";

/// Calls without which there is no session: each is needed at another place of the handshake.
const NEEDED: [&str; 3] = ["memfd_create", "eventfd2", "sendmsg"];

/// Installs the filter in that file and becomes the broker.
pub fn become_broker(filter: &Path) {
    let config = std::env::var_os(CONFIG_VARIABLE).unwrap();
    let filter = Filter::read(filter).compile();
    seccompiler::apply_filter(&filter).unwrap();
    let error = Command::new(ringmain()).args(["serve", "--config"]).arg(config).exec();
    panic!("{error}");
}

pub fn works_as_the_unit_confines_it() {
    let Some((activate, filter)) = tools() else { return };
    assert_eq!(filter.beyond, Beyond::Fails(libc::EPERM as u32));
    for refused in ["ptrace", "mount", "bpf", "setuid"] {
        assert!(!filter.allowed.contains(refused), "{refused} is allowed");
    }
    lives(&activate, &filter);
    lives(&activate, &Filter { beyond: Beyond::Kills, ..filter });
}

pub fn ends_at_a_forgotten_call() {
    let Some((activate, mut filter)) = tools() else { return };
    filter.beyond = Beyond::Kills;
    for needed in NEEDED {
        let mut mutant = filter.clone();
        assert!(mutant.allowed.remove(needed), "{needed} is not allowed");
        let (world, mut daemon) = confined(&activate, &mutant);
        let mut chat = world.chat_with("hello");
        let mut chat = chat.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let ended = daemon.0.wait().unwrap();
        let _ = chat.kill();
        let _ = chat.wait();
        assert_eq!(ended.signal(), Some(libc::SIGSYS), "without {needed}: {}", world.log());
    }
}

/// Streams to two uids, a reload, the counters and a drain.
fn lives(activate: &Path, filter: &Filter) {
    let (world, mut daemon) = confined(activate, filter);
    let well = |output: Output| {
        assert!(output.status.success(), "{}\n{}", told(&output), world.log());
    };
    well(world.chat());
    if nix::unistd::geteuid().is_root() {
        // The bell of another user is rung by other calls.
        let mut other = world.chat_with("[[sim n=40 gap_us=2000 seed=1]]");
        well(other.uid(OTHER_UID).gid(OTHER_UID).output().unwrap());
    }
    daemon.signal(Signal::SIGHUP);
    common::eventually("it reloads", || world.log().contains("read again"));
    well(world.chat());
    let mut status = Command::new(ringmain());
    well(status.arg("status").env("RINGMAIN_SOCKET", world.path("broker.sock")).output().unwrap());
    // A stream that is in flight when the end is asked for.
    let mut last = world.chat_with("[[sim n=40 gap_us=10000 size=8 seed=1]]");
    let mut last = last.stdout(Stdio::piped()).spawn().unwrap();
    last.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    daemon.signal(Signal::SIGTERM);
    well(last.wait_with_output().unwrap());
    let ended = daemon.0.wait().unwrap();
    assert!(ended.success(), "{ended}: {}", world.log());
    assert!(!world.log().contains("WARN"), "{}", world.log());
}

/// What this needs of the host, and the filter; `None` after saying that the test is skipped.
fn tools() -> Option<(PathBuf, Filter)> {
    if TargetArch::try_from(ARCH).is_err() {
        println!("skipped: no filter can be made for {ARCH}");
        return None;
    }
    let (analyze, activate) = (tool("systemd-analyze")?, tool("systemd-socket-activate")?);
    Some((activate, Filter::of_unit(&analyze)))
}

/// A broker that begins to run when the first client knocks.
fn confined(activate: &Path, filter: &Filter) -> (World, Daemon) {
    let world = World::new();
    filter.write(&world.path("filter"));
    let socket = world.path("broker.sock");
    let set = |name: &str, path: PathBuf| format!("--setenv={name}={}", path.display());
    let mut command = Command::new(activate);
    command.args(["--seqpacket", "--listen"]).arg(&socket);
    command.arg(set("RINGMAIN_CHILD", world.path("filter")));
    command.arg(set(CONFIG_VARIABLE, world.path("ringmain.toml")));
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "confined_child", "--nocapture", "--test-threads=1"]);
    let daemon = world.spawn(command);
    common::eventually("the socket is there", || socket.exists());
    world.open_to_all();
    (world, daemon)
}
