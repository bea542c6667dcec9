//! One owner per path, exact permissions, no stale file.
#![allow(unsafe_code, clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::thread;

use common::{STRANGER, alone, can_change_uid, spawn};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, umask};
use ringmain_shm::{BindError, Control, Listener};
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    (dir, path)
}

/// A listening socket of somebody who takes no lock.
fn foreign(path: &Path) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&fd, Backlog::new(8).unwrap()).unwrap();
    fd
}

/// A socket file that nobody listens on.
fn leave_stale(path: &Path) -> u64 {
    drop(foreign(path));
    fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn listener_accepts_what_connects_and_none_otherwise() {
    let _alone = alone();
    let (_dir, path) = place();
    let listener = Listener::bind(&path, 0o600, None).unwrap();
    assert!(listener.accept().unwrap().is_none());
    let client = Control::connect(&path).unwrap();
    let server = listener.accept().unwrap().unwrap();
    assert!(listener.accept().unwrap().is_none());
    client.send(b"hello", &[]).unwrap();
    assert_eq!(server.recv(&mut [0; 64]).unwrap().bytes, 5);
}

#[test]
fn listener_has_exactly_the_mode_and_group_whatever_the_umask() {
    let _alone = alone();
    // In children: the umask belongs to the whole process.
    for mask in [0o000, 0o077, 0o777] {
        for mode in [0o600, 0o660, 0o666] {
            let (_dir, path) = place();
            let gid = can_change_uid().then_some(STRANGER);
            let child = spawn(None, || {
                umask(Mode::from_bits_truncate(mask));
                let listener = Listener::bind(&path, mode, gid).unwrap();
                let meta = fs::symlink_metadata(&path).unwrap();
                let group = gid.is_none_or(|gid| meta.gid() == gid);
                let exact = meta.permissions().mode() & 0o777 == mode && group;
                drop(listener);
                // And whoever owns the files can start again.
                i32::from(!exact || Listener::bind(&path, mode, gid).is_err())
            });
            assert_eq!(child.wait(), 0, "umask {mask:o}, mode {mode:o}");
        }
    }
}

#[test]
fn listener_of_mode_600_keeps_another_uid_out() {
    let _alone = alone();
    if !can_change_uid() {
        return;
    }
    let (dir, path) = place();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let _listener = Listener::bind(&path, 0o600, None).unwrap();
    let child = spawn(Some(STRANGER), || {
        let error = Control::connect(&path).unwrap_err();
        let locked = fs::File::open(dir.path().join("socket.lock")).is_ok();
        i32::from(error.kind() != std::io::ErrorKind::PermissionDenied || locked)
    });
    assert_eq!(child.wait(), 0);
}

#[test]
fn listener_replaces_a_stale_socket() {
    let _alone = alone();
    let (_dir, path) = place();
    leave_stale(&path);
    let _listener = Listener::bind(&path, 0o600, None).unwrap();
    Control::connect(&path).unwrap();
}

#[test]
fn listener_replaces_the_socket_of_a_killed_process() {
    let _alone = alone();
    let (_dir, path) = place();
    let child = spawn(None, || {
        std::mem::forget(Listener::bind(&path, 0o600, None).unwrap());
        0
    });
    assert_eq!(child.wait(), 0);
    assert!(fs::symlink_metadata(&path).is_ok(), "left behind");
    let _listener = Listener::bind(&path, 0o600, None).unwrap();
    Control::connect(&path).unwrap();
}

#[test]
fn listener_is_refused_while_another_listens() {
    let _alone = alone();
    let (_dir, path) = place();
    let first = Listener::bind(&path, 0o600, None).unwrap();
    let error = Listener::bind(&path, 0o600, None).unwrap_err();
    assert!(matches!(&error, BindError::InUse { path: found } if *found == path), "{error}");
    Control::connect(&path).unwrap();
    drop(first);
    Listener::bind(&path, 0o600, None).unwrap();
}

#[test]
fn listener_is_refused_while_somebody_without_a_lock_listens() {
    let _alone = alone();
    let (_dir, path) = place();
    let other = foreign(&path);
    assert!(matches!(Listener::bind(&path, 0o600, None), Err(BindError::InUse { .. })));
    drop(other);
    let stream = place();
    let _stream = UnixListener::bind(&stream.1).unwrap();
    assert!(matches!(Listener::bind(&stream.1, 0o600, None), Err(BindError::InUse { .. })));
    let datagram = place();
    let _datagram = UnixDatagram::bind(&datagram.1).unwrap();
    assert!(matches!(Listener::bind(&datagram.1, 0o600, None), Err(BindError::InUse { .. })));
}

#[test]
fn listener_leaves_alone_what_is_no_socket() {
    let _alone = alone();
    let (dir, path) = place();
    fs::write(&path, "precious").unwrap();
    let error = Listener::bind(&path, 0o600, None).unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
    assert!(matches!(Listener::bind(&link, 0o600, None), Err(BindError::NotASocket { .. })));
}

#[test]
fn listener_of_many_starters_over_a_stale_socket_is_exactly_one() {
    let _alone = alone();
    for _ in 0..20 {
        let (_dir, path) = place();
        leave_stale(&path);
        let won: Vec<Listener> = thread::scope(|scope| {
            let starters: Vec<_> =
                (0..4).map(|_| scope.spawn(|| Listener::bind(&path, 0o600, None))).collect();
            starters.into_iter().filter_map(|starter| starter.join().unwrap().ok()).collect()
        });
        assert_eq!(won.len(), 1);
        Control::connect(&path).unwrap();
        assert!(won[0].accept().unwrap().is_some(), "the path leads to the winner");
    }
}

#[test]
fn listener_removes_its_path_when_it_is_dropped_and_only_its_own() {
    let _alone = alone();
    let (_dir, path) = place();
    let listener = Listener::bind(&path, 0o600, None).unwrap();
    drop(listener);
    assert!(fs::symlink_metadata(&path).is_err());
    let listener = Listener::bind(&path, 0o600, None).unwrap();
    fs::rename(&path, path.with_extension("old")).unwrap();
    let stale = leave_stale(&path);
    drop(listener);
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), stale, "somebody else's stays");
}

#[test]
fn listener_released_leaves_its_path() {
    let _alone = alone();
    let (_dir, path) = place();
    Listener::bind(&path, 0o600, None).unwrap().release();
    assert!(fs::symlink_metadata(&path).is_ok());
    Listener::bind(&path, 0o600, None).unwrap();
}

#[test]
fn listener_that_fails_half_way_leaves_no_socket() {
    let _alone = alone();
    if !can_change_uid() {
        return;
    }
    let (dir, path) = place();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let child = spawn(Some(STRANGER), || {
        let error = Listener::bind(&path, 0o660, Some(STRANGER + 1)).unwrap_err();
        i32::from(!error.to_string().contains("can not be made: changing the group failed: "))
    });
    assert_eq!(child.wait(), 0);
    assert!(fs::symlink_metadata(&path).is_err());
}

#[test]
fn listener_names_the_path_that_can_not_be() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(200));
    let error = Listener::bind(&long, 0o600, None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("can not be made: naming the socket failed: File name"), "{text}");
    let error = Listener::bind(&dir.path().join("none/socket"), 0o600, None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(".lock can not be made: locking failed: No such file"), "{text}");
}

#[test]
fn listener_takes_a_passed_socket_of_the_right_kind_only() {
    let _alone = alone();
    let (_dir, path) = place();
    let listener = Listener::from_fd(foreign(&path)).unwrap();
    let _client = Control::connect(&path).unwrap();
    assert!(listener.accept().unwrap().is_some());
    assert!(listener.accept().unwrap().is_none(), "and it does not wait");
    drop(listener);
    assert!(fs::symlink_metadata(&path).is_ok(), "the path is the service manager's");

    let stream = UnixListener::bind(path.with_extension("stream")).unwrap();
    let error = Listener::from_fd(stream.into()).unwrap_err();
    assert_eq!(error.to_string(), "passed socket is not of type SOCK_SEQPACKET");
    let connected = Control::pair().unwrap().0.try_clone_fd().unwrap();
    let error = Listener::from_fd(connected).unwrap_err();
    assert_eq!(error.to_string(), "passed socket does not listen");
    let null = fs::File::open("/dev/null").unwrap();
    assert!(Listener::from_fd(null.into()).is_err());
}
