//! Segments: sealed memfds with exactly one writer, kept so by the kernel.
//!
//! The broker makes both segments of a session. One it writes itself ([`OwnSegment`]) and one the
//! peer writes ([`PeerSegment`]). The order is always the same: create, size, map, seal in one
//! call, and pass the descriptor last, so that nobody ever holds an unsealed one.
//!
//! What keeps a peer from writing an [`OwnSegment`]:
//!
//! | the peer tries | another uid | the broker's uid, or root |
//! |---|---|---|
//! | to map the passed descriptor writable | it is open for reading only | the same |
//! | to reopen it through `/proc/self/fd` | the memfd has mode 0 | sealed against future writers |
//! | `fchmod`, then reopen | not the owner | sealed against future writers |
//! | to punch, truncate or grow | open for reading only | sealed |
//!
//! A process of another uid that was given `CAP_DAC_OVERRIDE` or `CAP_FOWNER` can do what root can,
//! and no uid shows it: whoever grants these has granted the broker's memory.
//!
//! The seal against future writers binds the broker as well: the kernel refuses to punch such a
//! memfd. That is why only peers get it who could otherwise reopen the file. Memory that such a
//! peer keeps by holding its mapping is memory of the broker's own uid, which the peer could take
//! without any session.
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};

use crate::attach::{SIZE_SEALS, check_bytes};
use crate::map::{ReadMap, WriteMap};
use crate::process::own_uid;
use crate::region;

/// Bit of `memfd_create`: never executable, and sealed so (Linux 6.3).
const MFD_NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(0x0008);

/// Which kernel features may be used. The default uses all that the running kernel has; tests
/// switch them off one by one to walk the paths of older kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compat {
    /// `MFD_NOEXEC_SEAL`, Linux 6.3.
    pub noexec_seal: bool,
    /// `SO_PEERPIDFD`, Linux 6.5.
    pub peer_pidfd: bool,
    /// Kernel AIO, which a kernel or a container may refuse.
    pub aio: bool,
}

impl Default for Compat {
    fn default() -> Compat {
        Compat { noexec_seal: true, peer_pidfd: true, aio: true }
    }
}

/// A segment that this process writes and its peer reads.
#[derive(Debug)]
pub struct OwnSegment {
    /// The writable mapping.
    pub map: WriteMap,
    /// A description that is open for reading only, to be passed and then closed.
    pub fd: OwnedFd,
    /// Returns the memory at the end of the session.
    pub punch: Puncher,
}

impl OwnSegment {
    /// Makes a segment of `bytes` zero bytes (whole words) for a peer of `peer_uid`. `name` shows
    /// in `/proc/*/maps` and nowhere else.
    pub fn create(name: &str, bytes: usize, peer_uid: u32, compat: &Compat) -> io::Result<Self> {
        let writable = Arc::new(sized_memfd(name, bytes, compat)?);
        let map = WriteMap::map(writable.clone(), bytes)?;
        // Reopened while the mode still lets us: mode 0 shuts out an owner without capabilities.
        let fd = reopen_read_only(&writable)?;
        fchmod(&*writable, Mode::empty())?;
        seal(&writable, if could_reopen(peer_uid) { SealFlag::F_SEAL_FUTURE_WRITE } else { NONE })?;
        let punch = Puncher { fd: writable, bytes };
        Ok(OwnSegment { map, fd, punch })
    }
}

/// A segment that the peer writes and this process reads.
#[derive(Debug)]
pub struct PeerSegment {
    /// The read-only mapping.
    pub map: ReadMap,
    /// A description that is open for reading and writing, to be passed and then closed.
    pub fd: OwnedFd,
    /// Returns the memory at the end of the session, whatever the peer still holds.
    pub punch: Puncher,
}

impl PeerSegment {
    /// Makes a segment of `bytes` zero bytes (whole words). `name` shows in `/proc/*/maps` and
    /// nowhere else.
    pub fn create(name: &str, bytes: usize, compat: &Compat) -> io::Result<Self> {
        let fd = sized_memfd(name, bytes, compat)?;
        let map = ReadMap::map(&fd, bytes)?;
        // Nobody needs to open it by path: the peer gets the descriptor itself.
        fchmod(&fd, Mode::empty())?;
        seal(&fd, NONE)?;
        let punch = Puncher { fd: Arc::new(fd.try_clone()?), bytes };
        Ok(PeerSegment { map, fd, punch })
    }
}

/// Returns the memory of one segment to the kernel. A peer that keeps its mapping keeps empty
/// pages: what it writes there afterwards is charged to itself.
///
/// A segment sealed against future writers can not be punched by anybody; its memory goes with the
/// last mapping. [`Puncher::is_effective`] tells.
#[derive(Clone, Debug)]
pub struct Puncher {
    fd: Arc<OwnedFd>,
    bytes: usize,
}

impl Puncher {
    /// Punches the whole segment. Does nothing where a seal forbids it.
    pub fn punch_all(&self) -> io::Result<()> {
        region::punch(&*self.fd, 0, self.bytes)
    }

    /// Whether [`Puncher::punch_all`] frees memory that a peer still maps.
    #[must_use]
    pub fn is_effective(&self) -> bool {
        matches!(region::is_sealed_against_punching(&*self.fd), Ok(false))
    }
}

const NONE: SealFlag = SealFlag::empty();

/// Whether a process of that uid may open a memfd of ours for writing, whatever its mode: the owner
/// changes the mode, root passes over it.
fn could_reopen(peer_uid: u32) -> bool {
    peer_uid == 0 || peer_uid == own_uid()
}

fn sized_memfd(name: &str, bytes: usize, compat: &Compat) -> io::Result<OwnedFd> {
    check_bytes(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let plain = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = if compat.noexec_seal {
        match memfd_create(name, plain | MFD_NOEXEC_SEAL) {
            // Before Linux 6.3 the bit is unknown.
            Err(Errno::EINVAL) => memfd_create(name, plain)?,
            made => made?,
        }
    } else {
        memfd_create(name, plain)?
    };
    let file = File::from(fd);
    file.set_len(bytes as u64)?;
    Ok(file.into())
}

fn seal(fd: &OwnedFd, more: SealFlag) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(SIZE_SEALS | more))?;
    Ok(())
}

/// A second description of the same memfd that can never be written through.
fn reopen_read_only(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = OpenOptions::new().read(true).open(&path).map_err(|e| {
        io::Error::new(e.kind(), format!("segment can not be reopened at {path}: {e}"))
    })?;
    Ok(file.into())
}
