//! Judging a descriptor that somebody passed, before anything is mapped.
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};

use crate::region::WORD;

/// Why a descriptor was not mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The descriptor was not opened for what the map needs.
    #[error("segment descriptor is open for {found}, this side needs it for {needed}")]
    Access {
        /// What the map needs.
        needed: &'static str,
        /// What the descriptor allows.
        found: &'static str,
    },
    /// The kernel refused.
    #[error("segment can not be mapped")]
    Io(#[from] io::Error),
    /// The descriptor could change its size under the mapping.
    #[error("segment has seals {found:#x}, seals {needed:#x} must be set")]
    Seals {
        /// The bits of `F_GET_SEALS` that were found, 0 for a file that takes no seals.
        found: i32,
        /// The bits that must be set.
        needed: i32,
    },
    /// The descriptor has another size than was agreed.
    #[error("segment has {found} bytes, {expected} were agreed")]
    Size {
        /// `st_size` of the descriptor.
        found: i64,
        /// The agreed size.
        expected: usize,
    },
    /// The agreed size can not be mapped at all.
    #[error("a segment of {0} bytes is not a whole number of words, or empty")]
    Words(usize),
}

/// Seals that keep a mapping from being cut short: without them an access could raise `SIGBUS`.
pub(crate) const SIZE_SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

pub(crate) fn check_bytes(bytes: usize) -> Result<(), AttachError> {
    if bytes == 0 || !bytes.is_multiple_of(WORD) || i64::try_from(bytes).is_err() {
        return Err(AttachError::Words(bytes));
    }
    Ok(())
}

/// Judges a descriptor that somebody passed, before anything is mapped.
pub(crate) fn check_fd(fd: &OwnedFd, bytes: usize) -> Result<(), AttachError> {
    check_bytes(bytes)?;
    // A file that takes no seals answers with an error; it is as good as one without seals.
    let found = fcntl(fd, FcntlArg::F_GET_SEALS).unwrap_or(0);
    let needed = SIZE_SEALS.bits();
    if found & needed != needed {
        return Err(AttachError::Seals { found, needed });
    }
    let size = nix::sys::stat::fstat(fd).map_err(io::Error::from)?.st_size;
    if usize::try_from(size).ok() != Some(bytes) {
        return Err(AttachError::Size { found: size, expected: bytes });
    }
    Ok(())
}

/// What a descriptor was opened for.
pub(crate) fn access(fd: &OwnedFd) -> io::Result<OFlag> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_PATH) {
        return Ok(OFlag::O_PATH);
    }
    Ok(flags & OFlag::O_ACCMODE)
}

pub(crate) fn access_name(access: OFlag) -> &'static str {
    match access {
        OFlag::O_RDONLY => "reading",
        OFlag::O_RDWR => "reading and writing",
        OFlag::O_WRONLY => "writing",
        _ => "nothing",
    }
}
