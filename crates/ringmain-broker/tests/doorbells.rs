//! Waking a caller that sleeps: of the broker's own uid, of another one, and without AIO.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::env;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Caller, Provider, Served, WATCHDOG, everything};
use ringmain_broker::{Allow, BrokerConfig};
use ringmain_ring::Armed;
use ringmain_shm::{Bell, Compat, Sleeper, own_uid};
use ringmain_wire::control::Message;
use ringmain_wire::{Entry, Geometry};

/// A uid that no test runs as.
const OTHER_UID: u32 = 54_321;
const SOCKET: &str = "RINGMAIN_TEST_DOORBELL_SOCKET";
const EXPECT: &str = "RINGMAIN_TEST_DOORBELL_EXPECT";

/// Pings, each slept for: nothing is polled but what a wake-up leads to. Tells whether the rings
/// came by the eventfd.
async fn sleep_for_pings(socket: &Path) -> bool {
    let mut caller = Caller::attach(socket).await;
    let bell = Bell::from_fd(caller.bell.try_clone().unwrap());
    let broker = caller.control.peer(&Compat::default()).unwrap();
    let sleeper = Sleeper::new(&bell, caller.control.as_fd(), broker.pidfd.as_fd()).unwrap();
    let mut armed = Armed::new(caller.own.clone(), Geometry::CALLER_ARMED);
    let (mut by_bell, mut rings) = (true, 0);
    // Bound: by the watchdog of the tests. An answer that is there before the sleep rings nobody.
    while rings < 5 {
        caller.push(Entry::ping(caller.lane(0)));
        // Bound: by the watchdog of each sleep.
        while caller.next(0).is_none() {
            let is_ready = || caller.is_ready(0);
            let woken = armed.park(is_ready, || sleeper.sleep(Some(WATCHDOG)).unwrap());
            let Some(woken) = woken else { continue };
            assert!(woken.bell || woken.control, "slept through a ring");
            rings += 1;
            if woken.control {
                by_bell = false;
                let mut datagram = [0; 16];
                let received = caller.control.recv(&mut datagram).unwrap();
                assert_eq!(Message::parse(&datagram[..received.bytes]), Ok(Message::Ring));
            }
        }
    }
    by_bell
}

fn config(compat: Compat) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    config.allow = Allow::standard(None).uid(OTHER_UID);
    config.compat = compat;
    config
}

async fn served(compat: Compat) -> Served {
    Served::start(config(compat), everything(&Provider::of(vec![]).await))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeper_of_the_own_uid_is_rung_by_write() {
    let served = served(Compat::default()).await;
    assert!(sleep_for_pings(&served.socket).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_kernels_attach_and_ring_as_well() {
    let served = served(Compat { noexec_seal: false, peer_pidfd: false, aio: false }).await;
    assert!(sleep_for_pings(&served.socket).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeper_of_another_uid_is_rung_without_a_write() {
    let with_aio = served(Compat::default()).await;
    run_as_other_uid(&with_aio.socket, "bell");
    let without = served(Compat { aio: false, ..Compat::default() }).await;
    run_as_other_uid(&without.socket, "control");
}

/// Runs `the_sleeper_of_another_uid` in a process of its own; needs root, as nobody else can.
fn run_as_other_uid(socket: &Path, expect: &str) {
    if own_uid() != 0 {
        return;
    }
    let folder = socket.parent().unwrap();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o666)).unwrap();
    // A copy that the other uid can reach, wherever the build folder lies.
    let program = folder.join("test");
    std::fs::copy(env::current_exe().unwrap(), &program).unwrap();
    let status = Command::new(&program)
        .args(["--exact", "the_sleeper_of_another_uid"])
        .env(SOCKET, socket)
        .env(EXPECT, expect)
        .current_dir("/")
        .uid(OTHER_UID)
        .gid(OTHER_UID)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Only a part of the test above: does nothing when it runs by itself.
#[tokio::test]
async fn the_sleeper_of_another_uid() {
    let Some(socket) = env::var_os(SOCKET).map(PathBuf::from) else { return };
    assert_eq!(own_uid(), OTHER_UID);
    let slept = sleep_for_pings(&socket);
    let by_bell = tokio::time::timeout(Duration::from_secs(8), slept).await.unwrap();
    let how = if by_bell { "bell" } else { "control" };
    assert_eq!(env::var(EXPECT).unwrap(), how);
}
