//! Attaching: a session of the product, and the least that two processes must do to share memory
//! in the same way.

use std::os::fd::AsFd;
use std::path::PathBuf;

use ringmain_client::{Config, Session};
use ringmain_shm::{
    Compat, Listener, OwnSegment, PeerSegment, ReadMap, WriteMap, bell_pair, monotonic_ns, own_uid,
};
use ringmain_wire::Geometry;
use ringmain_wire::limits::{PAGE_BYTES, POPULATE_BYTES_MAX};
use serde::{Deserialize, Serialize};

use super::meet::{Meet, accept, await_readable, receive};
use super::{answer, ready};
use crate::error::{BenchError, Result, Tried};
use crate::harness::Latency;
use crate::harness::latency::Buckets;

/// Attachments to a broker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SessionAttach {
    pub socket: PathBuf,
    pub count: u32,
}

/// Attachments to a process of the harness.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BareAttach {
    pub meet: Meet,
    pub count: u32,
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Attached {
    pub median_ns: f64,
    pub buckets: Buckets,
}

/// Attaches and detaches, one after the other.
pub(crate) fn session(told: &SessionAttach) -> Result<()> {
    answer(&measure(told.count, || Ok(Session::attach(Config::at(&told.socket))?))?)
}

/// The same with the other process of the baseline.
pub(crate) fn bare(told: &BareAttach) -> Result<()> {
    answer(&measure(told.count, || attach_bare(&told.meet))?)
}

/// What an attachment holds and lets go of when it ends.
struct BareSession {
    _own: WriteMap,
    _peer: ReadMap,
    _control: ringmain_shm::Control,
    _bells: [std::os::fd::OwnedFd; 2],
}

fn attach_bare(meet: &Meet) -> Result<BareSession> {
    let geometry = Geometry::default();
    let control = meet.join()?;
    control.send(b"hello", &[]).tried("saying hello")?;
    let [own, peer, ring, bell] = receive(&control)?;
    let bad = |error: ringmain_shm::AttachError| BenchError::NotIntact(error.to_string());
    let own = WriteMap::attach(own, geometry.caller_bytes()).map_err(bad)?;
    let peer = ReadMap::attach(peer, geometry.responder_bytes()).map_err(bad)?;
    Ok(BareSession { _own: own, _peer: peer, _control: control, _bells: [ring, bell] })
}

/// Accepts, takes one message, makes and passes what a session consists of, waits for the end.
pub(crate) fn bare_server(meet: &Meet) -> Result<()> {
    let listener = meet.listen()?;
    ready()?;
    // Bound: the life of the parent, which ends this process when the other one is done.
    loop {
        serve_bare(&listener)?;
    }
}

fn serve_bare(listener: &Listener) -> Result<()> {
    let geometry = Geometry::default();
    let compat = Compat::default();
    let control = accept(listener)?;
    let peer = control.peer(&compat).tried("the peer's identity")?;
    await_readable(control.as_fd())?;
    let mut hello = [0; 64];
    control.recv(&mut hello).tried("the hello")?;
    let theirs = PeerSegment::create("bench-peer", geometry.caller_bytes(), &compat);
    let theirs = theirs.tried("making a segment")?;
    let ours = OwnSegment::create("bench-own", geometry.responder_bytes(), own_uid(), &compat);
    let ours = ours.tried("making a segment")?;
    // The pages that a session touches at once, as many as one may populate.
    let first = (geometry.arena_offset() + PAGE_BYTES).min(POPULATE_BYTES_MAX * 2 / 3);
    theirs.map.populate(0, first).tried("populating")?;
    ours.map.populate(0, POPULATE_BYTES_MAX - first).tried("populating")?;
    let (bell, ring) = bell_pair().tried("eventfd")?;
    let (peer_bell, peer_ring) = bell_pair().tried("eventfd")?;
    let fds = [theirs.fd.as_fd(), ours.fd.as_fd(), ring.as_fd(), peer_bell.as_fd()];
    control.send(b"welcome", &fds).tried("passing the segments")?;
    // The end shows as a datagram of no bytes.
    await_readable(control.as_fd())?;
    drop((bell, peer_ring, peer.pidfd));
    theirs.punch.punch_all().tried("punching")?;
    ours.punch.punch_all().tried("punching")
}

fn measure<T>(count: u32, mut attach: impl FnMut() -> Result<T>) -> Result<Attached> {
    let mut times = Latency::new();
    for _ in 0..count {
        let start_ns = monotonic_ns();
        let session = attach()?;
        times.record(monotonic_ns() - start_ns);
        drop(session);
    }
    Ok(Attached { median_ns: times.quantile(0.5) as f64, buckets: times.buckets() })
}
