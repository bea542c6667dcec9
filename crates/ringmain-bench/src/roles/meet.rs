//! How two child processes of a baseline find each other and share descriptors and memory: with
//! the same sockets and segments as a session, and nothing on top.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringmain_shm::{
    Compat, Control, Listener, OwnSegment, PeerSegment, ReadMap, TrustedMap, WriteMap, own_uid,
};
use serde::{Deserialize, Serialize};

use super::ready;
use crate::error::{BenchError, Result, Tried};

/// Where two processes meet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meet {
    pub path: PathBuf,
}

/// One side of two segments with one writer each. The side that joins may borrow.
#[derive(Debug)]
pub(crate) struct Shared<M = ReadMap> {
    pub own: WriteMap,
    pub peer: M,
    /// Keeps the connection until the end, so that either side sees the other's.
    _control: Control,
}

impl Meet {
    /// Waits for the other process, as the one that is there first.
    pub(crate) fn host(&self) -> Result<Control> {
        let listener = self.listen()?;
        ready()?;
        accept(&listener)
    }

    pub(crate) fn listen(&self) -> Result<Listener> {
        Listener::bind(&self.path, 0o600, None).map_err(|error| BenchError::Skip(error.to_string()))
    }

    /// Connects to the process that is there.
    pub(crate) fn join(&self) -> Result<Control> {
        Control::connect(&self.path).tried(self.connecting())
    }

    fn connecting(&self) -> String {
        format!("connecting to {}", self.path.display())
    }

    /// Makes both segments and passes them on.
    pub(crate) fn host_shared(&self, own_bytes: usize, peer_bytes: usize) -> Result<Shared> {
        let control = self.host()?;
        let compat = Compat::default();
        let own = OwnSegment::create("bench-own", own_bytes, own_uid(), &compat);
        let own = own.tried("making a segment")?;
        let peer = PeerSegment::create("bench-peer", peer_bytes, &compat);
        let peer = peer.tried("making a segment")?;
        control.send(b"segments", &[own.fd.as_fd(), peer.fd.as_fd()]).tried("passing segments")?;
        Ok(Shared { own: own.map, peer: peer.map, _control: control })
    }

    /// Takes the segments that the host made: its peer segment is the one written here.
    pub(crate) fn join_shared(
        &self,
        own_bytes: usize,
        peer_bytes: usize,
    ) -> Result<Shared<TrustedMap>> {
        let (control, trust) = Control::connect_trusting(&self.path).tried(self.connecting())?;
        let [peer, own] = receive(&control)?;
        let bad = |error: ringmain_shm::AttachError| BenchError::NotIntact(error.to_string());
        let own = WriteMap::attach(own, own_bytes).map_err(bad)?;
        let peer = TrustedMap::attach(peer, peer_bytes, &trust).map_err(bad)?;
        Ok(Shared { own, peer, _control: control })
    }
}

/// Waits for the next connection.
pub(crate) fn accept(listener: &Listener) -> Result<Control> {
    // Bound: the life of the parent, which ends this process with it.
    loop {
        if let Some(control) = listener.accept().tried("accept")? {
            return Ok(control);
        }
        await_readable(listener.as_fd())?;
    }
}

/// Waits for one datagram with `N` descriptors.
pub(crate) fn receive<const N: usize>(control: &Control) -> Result<[OwnedFd; N]> {
    await_readable(control.as_fd())?;
    let received = control.recv(&mut [0; 64]).tried("receiving descriptors")?;
    let wrong = |fds: Vec<OwnedFd>| BenchError::NotIntact(format!("{} descriptors", fds.len()));
    received.fds.try_into().map_err(wrong)
}

pub(crate) fn await_readable(fd: BorrowedFd<'_>) -> Result<()> {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE).tried("poll")?;
    Ok(())
}
