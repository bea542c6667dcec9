//! One connection of the control socket: `SOCK_SEQPACKET`, so datagrams keep their borders, arrive
//! in order, and the end of the peer shows.
//!
//! No call here waits, but for [`Control::connect`], which waits a second at most.
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg,
    setsockopt, socket, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use ringmain_wire::limits::CONTROL_FDS_MAX;

use crate::map::Trust;
use crate::peer::Peer;
use crate::segment::Compat;

/// Milliseconds that a connect waits for room in the listener's queue.
const CONNECT_MS_MAX: i64 = 1000;

/// One end of a connection. Sends and receives never wait.
#[derive(Debug)]
pub struct Control {
    fd: OwnedFd,
}

/// What one receive brought.
#[derive(Debug)]
pub struct Received {
    /// Bytes that were written to the buffer. 0 is the end of the connection (an empty datagram
    /// counts as one: nothing honest sends it).
    pub bytes: usize,
    /// The descriptors that came along, close-on-exec, at most [`CONTROL_FDS_MAX`].
    pub fds: Vec<OwnedFd>,
    /// The datagram was longer than the buffer, or had more descriptors than are taken. The surplus
    /// is gone: the kernel closed it.
    pub truncated: bool,
}

impl Control {
    /// Connects to a listener. Waits at most a second when the listener's queue is full, and
    /// answers `WouldBlock` then.
    pub fn connect(path: &Path) -> io::Result<Control> {
        let fd = seqpacket(SockFlag::SOCK_CLOEXEC)?;
        // A blocking connect, bounded: a non-blocking one fails at once on a full queue.
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(CONNECT_MS_MAX))?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        Ok(Control { fd })
    }

    /// Connects as a process that takes the listener's word, and may borrow what it writes: who
    /// names the path chooses whom to believe.
    ///
    /// # Errors
    /// As for [`Control::connect`].
    pub fn connect_trusting(path: &Path) -> io::Result<(Control, Trust)> {
        Control::connect(path).map(|control| (control, Trust::of_a_listener()))
    }

    /// Two connected ends.
    pub fn pair() -> io::Result<(Control, Control)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Control { fd: a }, Control { fd: b }))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Control {
        Control { fd }
    }

    /// Sends one datagram with its descriptors, whole or not at all. `WouldBlock` when the peer
    /// does not read.
    ///
    /// # Errors
    /// `InvalidInput` for more than [`CONTROL_FDS_MAX`] descriptors; `BrokenPipe` or
    /// `ConnectionReset` for a peer that is gone; `PermissionDenied` for a peer that takes
    /// no descriptors.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if fds.len() > CONTROL_FDS_MAX {
            let text = format!("{} descriptors, {CONTROL_FDS_MAX} at most", fds.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let parts = [io::IoSlice::new(bytes)];
        sendmsg::<()>(self.fd.as_raw_fd(), &parts, rights, flags, None)?;
        Ok(())
    }

    /// Receives one datagram. `WouldBlock` when there is none.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<Received> {
        match self.recv_once(buf) {
            // A peer that closes over something unread leaves this error in front of what it sent
            // before, a goodbye perhaps. It is told once; then the queue, then the end.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => self.recv_once(buf),
            received => received,
        }
    }

    fn recv_once(&self, buf: &mut [u8]) -> io::Result<Received> {
        // Room for exactly the descriptors that are taken: the kernel closes the surplus.
        let mut space = MaybeUninit::<Space>::uninit();
        let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        // SAFETY: all fields are integers and pointers, for which zero is a valid value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = space.as_mut_ptr().cast();
        message.msg_controllen = SPACE_BYTES as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the header names a buffer and a control space that are valid for writes of the
        // lengths given, for the time of the call.
        let bytes = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, flags) };
        let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the kernel has just filled the header and the control space that it names, and
        // the descriptors in it are nobody's yet.
        let fds = unsafe { take_rights(&message) };
        let truncated = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        Ok(Received { bytes, fds, truncated })
    }

    /// Who is at the other end, as it was when it connected.
    pub fn peer(&self, compat: &Compat) -> io::Result<Peer> {
        Peer::of(self.fd.as_fd(), compat)
    }

    /// A duplicate of the socket, for a [`Ringer`](crate::Ringer) or a registration.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) fn seqpacket(flags: SockFlag) -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

const FDS_BYTES: usize = CONTROL_FDS_MAX * size_of::<RawFd>();
// SAFETY: `CMSG_SPACE` is arithmetic on its argument.
const SPACE_BYTES: usize = unsafe { libc::CMSG_SPACE(FDS_BYTES as u32) } as usize;

/// Aligned as the control message headers in it.
#[repr(C)]
union Space {
    header: libc::cmsghdr,
    bytes: [u8; SPACE_BYTES],
}

/// Takes every descriptor out of a received control space.
///
/// # Safety
/// `message` was filled by a `recvmsg` that succeeded, its control space is alive, and nobody has
/// taken the descriptors yet.
unsafe fn take_rights(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the caller vouches for the header; the macros walk inside `msg_controllen`, which the
    // kernel set to what it wrote.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // Bound: the control space holds `CONTROL_FDS_MAX` descriptors and so few headers.
    while !header.is_null() {
        // SAFETY: not null, so it lies inside the control space, written by the kernel.
        let (level, kind, len) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: `CMSG_LEN` is arithmetic; `CMSG_DATA` points behind a valid header.
            let (start, empty) = unsafe { (libc::CMSG_DATA(header), libc::CMSG_LEN(0) as usize) };
            #[allow(clippy::unnecessary_cast, reason = "32 bits with musl")]
            let count = (len as usize).saturating_sub(empty) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: `cmsg_len` says that this many descriptors follow the header; they may
                // stand unaligned. Each is new in this process and taken once.
                fds.push(unsafe {
                    let fd = start.cast::<RawFd>().add(index).read_unaligned();
                    OwnedFd::from_raw_fd(fd)
                });
            }
        }
        // SAFETY: as for the first header.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    fds
}
