//! Doorbells: how a process that sleeps is told to look again.
//!
//! The waiting end ([`Bell`]) is an eventfd that is registered edge-triggered and never read or
//! written by the one who waits: each ring is an edge, so there is no counter to empty, and nothing
//! that the peer does to the shared description can make the waiter wait.
//!
//! The ringing end ([`Ringer`]) has to be more careful, because a peer can fill the counter and
//! clear `O_NONBLOCK`, after which a write would wait for ever:
//!
//! | kind | for | how |
//! |---|---|---|
//! | [`RingerKind::Write`] | a peer of the own uid | `write` of 1 to the eventfd |
//! | [`RingerKind::Aio`] | any other peer | the kernel's completion signal, which never waits |
//! | [`RingerKind::Control`] | any other, where AIO is refused | one byte on its control socket |
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, send};
use ringmain_wire::control::RING;

use crate::aio;
use crate::process::own_uid;
use crate::segment::Compat;

/// The waiting end of a doorbell.
///
/// Whoever waits registers it edge-triggered ([`Sleeper`](crate::Sleeper), `Readiness`) and looks
/// at everything that the bell covers before the first sleep.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
}

impl Bell {
    /// Takes the waiting end that a peer's datagram brought.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Bell {
        Bell { fd }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Bell> for OwnedFd {
    fn from(bell: Bell) -> OwnedFd {
        bell.fd
    }
}

/// Makes a doorbell: the waiting end, and a descriptor for the ringing end (or the other way round:
/// both are the same eventfd, either can be passed to the peer).
pub fn bell_pair() -> io::Result<(Bell, OwnedFd)> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let fd = OwnedFd::from(EventFd::from_flags(flags)?);
    let other = fd.try_clone()?;
    Ok((Bell { fd }, other))
}

/// How a [`Ringer`] rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingerKind {
    /// Through kernel AIO.
    Aio,
    /// By a byte on the control socket.
    Control,
    /// By a write to the eventfd.
    Write,
}

/// The ringing end of a doorbell. Never waits, on any thread. What a ring costs depends on what the
/// peer hung onto its eventfd, so a broker measures the time around [`Ringer::ring`].
#[derive(Debug)]
pub struct Ringer {
    kind: RingerKind,
    /// The eventfd, or for [`RingerKind::Control`] the socket.
    fd: OwnedFd,
}

impl Ringer {
    /// Rings by `write`. Only for a peer that could do anything to this process anyway: one of the
    /// same uid, or the broker seen from its client.
    #[must_use]
    pub fn write(bell: OwnedFd) -> Ringer {
        Ringer { kind: RingerKind::Write, fd: bell }
    }

    /// Rings through kernel AIO. Fails where the kernel or the container refuses AIO.
    pub fn aio(bell: OwnedFd) -> io::Result<Ringer> {
        aio::probe()?;
        Ok(Ringer { kind: RingerKind::Aio, fd: bell })
    }

    /// Rings by one byte on the control socket, of which a duplicate is given.
    #[must_use]
    pub fn control(socket: OwnedFd) -> Ringer {
        Ringer { kind: RingerKind::Control, fd: socket }
    }

    /// Picks the kind for a peer: `write` for our own uid, AIO for any other, the control socket
    /// where AIO is refused. Root is no exception: it is not the one who would have to wait.
    pub fn for_peer(
        bell: OwnedFd,
        control: BorrowedFd<'_>,
        peer_uid: u32,
        compat: &Compat,
    ) -> io::Result<Ringer> {
        if peer_uid == own_uid() {
            return Ok(Ringer::write(bell));
        }
        if compat.aio
            && let Ok(ringer) = Ringer::aio(bell)
        {
            return Ok(ringer);
        }
        Ok(Ringer::control(control.try_clone_to_owned()?))
    }

    /// Wakes the peer. `Ok` when it is woken or will find the ring when it next looks; an error
    /// means that the peer can not be rung any more.
    pub fn ring(&self) -> io::Result<()> {
        match self.kind {
            RingerKind::Aio => aio::signal(self.fd.as_fd()),
            RingerKind::Control => ring_by_datagram(self.fd.as_fd()),
            RingerKind::Write => {
                let one = 1u64.to_ne_bytes();
                // A full counter is an error: no number of honest rings fills it.
                nix::unistd::write(&self.fd, &one)?;
                Ok(())
            }
        }
    }

    /// How it rings.
    #[must_use]
    pub fn kind(&self) -> RingerKind {
        self.kind
    }
}

fn ring_by_datagram(socket: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match send(socket.as_raw_fd(), &RING, flags) {
        // A full queue is readable, so the peer is awake or about to be.
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
