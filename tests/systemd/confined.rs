//! The broker under the filter of its unit, which the kernel enforces: system calls, address
//! families, and memory that would be executable after it was written.
//!
//! A copy of this test binary takes the socket from systemd's own activator, installs the filter
//! and becomes `ringmain serve`: the order in which the service manager does it. Once the filter
//! acts as the unit says, and once it kills, so that no call which fails unnoticed is missed.

use std::env::consts::ARCH;
use std::io::{Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use seccompiler::TargetArch;

use crate::calls::{Beyond, Filter};
use crate::common::{self, ringmain};
use crate::wire::Connection;
use crate::{Daemon, OTHER_UID, World, has_ipv6, told, tool};

/// Names the configuration for [`become_broker`].
const CONFIG_VARIABLE: &str = "RINGMAIN_TEST_CONFIG";

/// Calls without which there is no session: each is needed at another place of the handshake.
const NEEDED: [&str; 3] = ["memfd_create", "eventfd2", "sendmsg"];

/// Installs the filter in that file and becomes the broker.
pub fn become_broker(filter: &Path) {
    let config = std::env::var_os(CONFIG_VARIABLE).unwrap();
    Filter::read(filter).install();
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

pub fn works_in_the_families_of_the_unit() {
    let Some((activate, filter)) = tools() else { return };
    serves_every_family(&activate, &filter);
    serves_every_family(&activate, &Filter { beyond: Beyond::Kills, ..filter });
}

pub fn ends_at_a_forgotten_family() {
    let Some((activate, mut filter)) = tools() else { return };
    filter.beyond = Beyond::Kills;
    for needed in ["AF_UNIX", "AF_INET", "AF_INET6"] {
        if needed == "AF_INET6" && !has_ipv6() {
            println!("skipped: this host has no {needed}");
            continue;
        }
        let mut mutant = filter.clone();
        assert!(mutant.arguments.families.remove(needed), "{needed} is not allowed");
        ends(World::of_every_family(), &activate, &mutant, needed);
    }
}

/// Installs the filter in that file, and says how each attempt went that is to be refused.
pub fn try_what_is_refused(filter: &Path) {
    Filter::read(filter).install();
    let families = [AddressFamily::Inet, AddressFamily::Netlink, AddressFamily::Vsock];
    let mut out = std::io::stdout().lock();
    for family in families {
        let made = socket(family, SockType::Datagram, SockFlag::empty(), None);
        writeln!(out, "TRIED {family:?} {:?}", made.map(drop)).unwrap();
    }
    for (call, made) in ringmain_shm::testing::ask_for_new_code() {
        let made = made.map_err(|error| error.raw_os_error());
        writeln!(out, "TRIED {call} {made:?}").unwrap();
    }
}

pub fn refuses_other_families_and_new_code() {
    let Some((_, filter)) = tools() else { return };
    let refused = format!("Err(Some({}))", libc::EPERM);
    let with = |new_code: &str, netlink: &str| {
        let families = ["Inet Ok(())".to_owned(), format!("Netlink {netlink}")];
        let vsock = ["Vsock Err(EAFNOSUPPORT)".to_owned()];
        // The one that is not on the list of calls either.
        let keyed = format!("pkey_mprotect {refused}");
        let [mapped, changed, shared] =
            ["mmap", "mprotect", "shmat"].map(|c| format!("{c} {new_code}"));
        let calls = [mapped, changed, keyed, shared];
        families.into_iter().chain(vsock).chain(calls).collect::<Vec<_>>()
    };
    assert_eq!(tried(&filter), with(&refused, "Err(EAFNOSUPPORT)"));
    // What this looks at is the filter, and not what the kernel refuses anyhow.
    let mut lax = filter.clone();
    lax.arguments.families.insert("AF_NETLINK".to_owned());
    assert_eq!(tried(&lax), with(&refused, "Ok(())"));
    let mut lax = filter;
    lax.arguments.allows_new_code = true;
    assert_eq!(tried(&lax), with("Ok(())", "Err(EAFNOSUPPORT)"));
}

/// What [`try_what_is_refused`] says under this filter.
fn tried(filter: &Filter) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    filter.write(&dir.path().join("filter"));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "refused_child", "--nocapture", "--test-threads=1"]);
    let output = command.env("RINGMAIN_CHILD", dir.path().join("filter")).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let told = told(&output);
    let tried = told.lines().filter_map(|line| line.split_once("TRIED ")).map(|(_, rest)| rest);
    tried.map(str::to_owned).collect()
}

pub fn ends_at_a_forgotten_call() {
    let Some((activate, mut filter)) = tools() else { return };
    filter.beyond = Beyond::Kills;
    for needed in NEEDED {
        let mut mutant = filter.clone();
        assert!(mutant.allowed.remove(needed), "{needed} is not allowed");
        ends(World::new(), &activate, &mutant, needed);
    }
}

/// The kernel ends a broker that lacks something it needs.
fn ends(world: World, activate: &Path, mutant: &Filter, needed: &str) {
    let mut daemon = confined(&world, activate, mutant);
    let mut chat = world.chat_with("hello");
    let mut chat = chat.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let ended = daemon.0.wait().unwrap();
    let _ = chat.kill();
    let _ = chat.wait();
    assert_eq!(ended.signal(), Some(libc::SIGSYS), "without {needed}: {}", world.log());
}

/// A stream through a session and a request through each address of the HTTP face, to a provider
/// that is looked up by name and spoken to over TLS.
fn serves_every_family(activate: &Path, filter: &Filter) {
    let world = World::of_every_family();
    let _daemon = confined(&world, activate, filter);
    let chat = world.chat();
    assert!(chat.status.success(), "{}\n{}", told(&chat), world.log());
    let mut faces = vec![Connection::unix(&world.path("http.sock"))];
    faces.push(Connection::tcp(world.http("127.0.0.1")));
    if has_ipv6() {
        faces.push(Connection::tcp(world.http("[::1]")));
    }
    for mut face in faces {
        let body = r#"{"model":"tiny","messages":[{"role":"user","content":"[[sim n=8]]"}]}"#;
        let reply = face.post("/v1/chat/completions", &[], body.as_bytes());
        assert_eq!(reply.status, 200, "{reply:?}\n{}", world.log());
    }
}

/// Streams to two uids, a reload, the counters and a drain.
fn lives(activate: &Path, filter: &Filter) {
    let world = World::new();
    let mut daemon = confined(&world, activate, filter);
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
fn confined(world: &World, activate: &Path, filter: &Filter) -> Daemon {
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
    daemon
}
