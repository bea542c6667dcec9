//! Datagrams, descriptors and identities over the control socket.
#![allow(unsafe_code, clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs::{self, File};
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use common::{Child, Gate, STRANGER, alone, can_change_uid, spawn};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen,
    sendmsg, socket,
};
use nix::unistd::{Gid, pipe, setgroups};
use ringmain_shm::{Compat, Control, Listener, Peer, own_uid};
use ringmain_wire::limits::CONTROL_FDS_MAX;

const WATCHDOG_MS: u16 = 20_000;

fn is_ready(fd: &impl AsFd, timeout: impl Into<PollTimeout>) -> bool {
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout).unwrap() == 1
}

/// A listener, and a connection that the body of a child made.
fn accept_from(uid: Option<u32>, body: impl FnOnce(Control) -> i32) -> (Control, Child) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), open).unwrap();
    let listener = Listener::bind(&path, 0o666, None).unwrap();
    let child = spawn(uid, || body(Control::connect(&path).unwrap()));
    assert!(is_ready(&listener, WATCHDOG_MS));
    (listener.accept().unwrap().unwrap(), child)
}

/// Sends any number of descriptors, as a peer that does not use this crate might.
fn send_raw(control: &Control, fds: &[RawFd]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let parts = [IoSlice::new(b"take these")];
    sendmsg::<()>(control.as_fd().as_raw_fd(), &parts, &rights, MsgFlags::MSG_DONTWAIT, None)
}

fn count_open() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn control_passes_descriptors_in_order_and_closed_on_exec() {
    let _alone = alone();
    let (a, b) = Control::pair().unwrap();
    let (read, write) = pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    a.send(b"welcome", &[null.as_fd(), write.as_fd()]).unwrap();
    drop(write);
    let mut buf = [0; 64];
    let mut received = b.recv(&mut buf).unwrap();
    assert_eq!((&buf[..received.bytes], received.truncated), (&b"welcome"[..], false));
    assert_eq!(received.fds.len(), 2);
    for fd in &received.fds {
        let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }
    nix::unistd::write(received.fds.pop().unwrap(), b"x").unwrap();
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    assert_eq!(text, "x", "and the last writer is closed");
    assert_eq!(b.recv(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn control_sends_no_more_descriptors_than_it_takes() {
    let _alone = alone();
    let (a, _b) = Control::pair().unwrap();
    let fd = a.as_fd();
    let error = a.send(b"x", &[fd; CONTROL_FDS_MAX + 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn control_closes_surplus_descriptors_and_reports_them() {
    let _alone = alone();
    // In a child of one thread, where descriptors can be counted.
    let child = spawn(None, || {
        let (a, b) = Control::pair().unwrap();
        let before = count_open();
        for count in [CONTROL_FDS_MAX + 1, 10, 253] {
            send_raw(&a, &vec![a.as_fd().as_raw_fd(); count]).unwrap();
            let received = b.recv(&mut [0; 64]).unwrap();
            if !received.truncated || received.fds.len() != CONTROL_FDS_MAX {
                return 1;
            }
            drop(received);
            if count_open() != before {
                return 2;
            }
        }
        0
    });
    assert_eq!(child.wait(), 0);
}

#[test]
fn control_reports_a_datagram_longer_than_the_buffer() {
    let _alone = alone();
    let (a, b) = Control::pair().unwrap();
    a.send(&[7; 100], &[]).unwrap();
    a.send(&[8; 10], &[]).unwrap();
    let mut buf = [0; 10];
    let received = b.recv(&mut buf).unwrap();
    assert_eq!((received.bytes, received.truncated, buf), (10, true, [7; 10]));
    let received = b.recv(&mut buf).unwrap();
    assert_eq!((received.bytes, received.truncated, buf), (10, false, [8; 10]));
}

#[test]
fn control_never_waits_for_a_peer_that_does_not_read() {
    let _alone = alone();
    let (a, _b) = Control::pair().unwrap();
    // Bound: far more than a socket's buffer holds.
    let error = (0..100_000).find_map(|_| a.send(&[0; 1024], &[]).err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn control_delivers_a_goodbye_that_was_sent_over_something_unread() {
    let _alone = alone();
    let (client, broker) = Control::pair().unwrap();
    client.send(b"never read", &[]).unwrap();
    broker.send(b"goodbye", &[]).unwrap();
    drop(broker);
    let mut buf = [0; 64];
    assert_eq!(client.recv(&mut buf).unwrap().bytes, 7);
    for _ in 0..2 {
        let end = client.recv(&mut buf).unwrap();
        assert_eq!((end.bytes, end.fds.len(), end.truncated), (0, 0, false));
    }
}

#[test]
fn control_to_nobody_is_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let error = Control::connect(&dir.path().join("none")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(Control::connect(&dir.path().join("x".repeat(200))).is_err());
}

#[test]
fn control_gives_up_on_a_listener_that_accepts_nobody() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let fd =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&fd, Backlog::new(1).unwrap()).unwrap();
    let waiting: Vec<_> = (0..2).map(|_| Control::connect(&path).unwrap()).collect();
    assert_eq!(Control::connect(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(waiting);
}

#[test]
fn listener_lets_no_descriptors_in_where_the_kernel_can_refuse_them() {
    let _alone = alone();
    let (control, child) = accept_from(None, |control| match send_raw(&control, &[0]) {
        Err(nix::Error::EPERM) => 0,
        Ok(_) => 1,
        Err(_) => 2,
    });
    match child.wait() {
        0 => assert!(!is_ready(&control, 0u8) || control.recv(&mut [0; 9]).unwrap().bytes == 0),
        1 => {
            eprintln!("this kernel can not refuse descriptors at the sender (before Linux 6.16)");
            assert_eq!(control.recv(&mut [0; 64]).unwrap().fds.len(), 1);
        }
        code => panic!("sending a descriptor failed otherwise: {code}"),
    }
}

fn peer_by(compat: &Compat) {
    let gate = Gate::new();
    let uid = can_change_uid().then_some(STRANGER);
    let (control, child) = accept_from(uid, |_control| {
        gate.pass();
        0
    });
    let Peer { uid: found, pid, pidfd, groups, .. } = control.peer(compat).unwrap();
    assert_eq!((found, pid), (uid.unwrap_or(own_uid()), child.pid()));
    if uid.is_some() {
        assert!(groups.is_empty());
    }
    assert!(!is_ready(&pidfd, 0u8));
    gate.open();
    assert!(is_ready(&pidfd, WATCHDOG_MS), "its exit shows");
    assert_eq!(child.wait(), 0);
}

#[test]
fn peer_is_known_by_uid_and_by_a_pidfd_of_its_connection() {
    let _alone = alone();
    peer_by(&Compat::default());
}

#[test]
fn peer_is_known_by_a_pidfd_of_its_pid_on_an_older_kernel() {
    let _alone = alone();
    peer_by(&Compat { peer_pidfd: false, ..Compat::default() });
}

#[test]
fn peer_that_hung_up_is_refused_where_its_pid_alone_is_known() {
    let _alone = alone();
    let gate = Gate::new();
    let (control, child) = accept_from(None, |control| {
        drop(control);
        gate.pass();
        0
    });
    assert!(is_ready(&control, WATCHDOG_MS));
    let old = Compat { peer_pidfd: false, ..Compat::default() };
    assert_eq!(control.peer(&old).unwrap_err().kind(), io::ErrorKind::NotConnected);
    gate.open();
    assert_eq!(child.wait(), 0);
}

#[test]
fn peer_that_is_gone_is_refused_or_known_as_exited() {
    let _alone = alone();
    for peer_pidfd in [true, false] {
        let (control, child) = accept_from(None, |_control| 0);
        assert_eq!(child.wait(), 0);
        let compat = Compat { peer_pidfd, ..Compat::default() };
        match control.peer(&compat) {
            Ok(peer) => assert!(peer_pidfd && is_ready(&peer.pidfd, 0u8)),
            Err(error) => assert!(error.raw_os_error().is_some(), "{error}"),
        }
    }
}

#[test]
fn peer_brings_its_groups_however_many() {
    let _alone = alone();
    if !can_change_uid() {
        return;
    }
    for count in [3u32, 64, 300] {
        let gate = Gate::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = Listener::bind(&path, 0o666, None).unwrap();
        let child = spawn(None, || {
            let groups: Vec<Gid> = (1..=count).map(Gid::from_raw).collect();
            setgroups(&groups).unwrap();
            let _control = Control::connect(&path).unwrap();
            gate.pass();
            0
        });
        assert!(is_ready(&listener, WATCHDOG_MS));
        let peer = listener.accept().unwrap().unwrap().peer(&Compat::default()).unwrap();
        assert_eq!(peer.groups, (1..=count).collect::<Vec<u32>>());
        gate.open();
        assert_eq!(child.wait(), 0);
    }
}

#[test]
fn peer_of_a_pair_is_this_process() {
    let _alone = alone();
    let (a, _b) = Control::pair().unwrap();
    let peer = a.peer(&Compat::default()).unwrap();
    assert_eq!(peer.pid, std::process::id().cast_signed());
    let _: OwnedFd = a.try_clone_fd().unwrap();
}
