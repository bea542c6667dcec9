//! Who is at the other end of a control connection, and whether it still lives.
//!
//! Identity is what the kernel recorded when the peer connected; liveness is a pidfd. A bare pid is
//! never trusted: it may belong to another process a moment later.
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};

use crate::segment::Compat;

/// Most supplementary groups that the kernel gives a process (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// The peer of a connection, as it was when it connected.
#[derive(Debug)]
pub struct Peer {
    /// Its effective uid.
    pub uid: u32,
    /// Its effective gid.
    pub gid: u32,
    /// Its pid, for people to read. Nothing may be decided by it.
    pub pid: i32,
    /// Readable once the process has exited.
    pub pidfd: OwnedFd,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// The peer of a connected Unix socket of whatever type.
    ///
    /// # Errors
    /// The kernel does not say who it is, or it is gone already.
    pub fn of_socket(socket: BorrowedFd<'_>) -> io::Result<Peer> {
        Peer::of(socket, &Compat::default())
    }

    pub(crate) fn of(socket: BorrowedFd<'_>, compat: &Compat) -> io::Result<Peer> {
        let who = getsockopt(&socket, sockopt::PeerCredentials)?;
        let (uid, gid, pid) = (who.uid(), who.gid(), who.pid());
        let pidfd = pidfd(socket, pid, compat)?;
        Ok(Peer { uid, gid, pid, pidfd, groups: groups(socket)? })
    }
}

fn pidfd(socket: BorrowedFd<'_>, pid: i32, compat: &Compat) -> io::Result<OwnedFd> {
    if compat.peer_pidfd {
        match getsockopt(&socket, sockopt::PeerPidfd) {
            // Before Linux 6.5 the option is unknown.
            Err(Errno::ENOPROTOOPT) => {}
            found => return Ok(found?),
        }
    }
    let fd = pidfd_open(pid)?;
    // The pid may have been given to another process before it was opened. Had the peer ended by
    // then, its end of the socket would be closed; a socket that still stands was open at a later
    // moment than the open, so the pid was still the peer's.
    confirm_stands(socket)?;
    Ok(fd)
}

/// An error when the other end is closed.
fn confirm_stands(socket: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match recv(socket.as_raw_fd(), &mut [0], flags) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::NotConnected, "peer hung up while it attached")),
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a system call on plain integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    // Bound: the kernel names the length it needs, so a second round is enough.
    for _ in 0..2 {
        let mut bytes = libc::socklen_t::try_from(size_of_val(&groups[..])).unwrap_or(0);
        // SAFETY: the kernel writes at most `bytes` bytes into a vector of that many, and the
        // length to a valid place.
        let done = unsafe {
            let out = groups.as_mut_ptr().cast();
            let fd = socket.as_fd().as_raw_fd();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, out, &raw mut bytes)
        };
        let count = bytes as usize / size_of::<u32>();
        if done == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
    Err(io::Error::other("the groups of a peer changed their number twice"))
}
