//! Making a producer's session: the same segments and bells as an application's, with the roles
//! swapped.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ringmain_policy::Slot;
use ringmain_ring::Ring;
use ringmain_shm::{Control, OwnSegment, PeerSegment, Readiness, Ringer, bell_pair};
use ringmain_wire::control::{Hello, Refused, Welcome};
use ringmain_wire::{Code, Geometry};

use super::{Producer, ProducerParts};
use crate::allow::Identity;
use crate::attach::{Admission, first_pages, inside, welcome};
use crate::broker::Broker;

/// Most bytes of a name: what a response head carries of it.
const NAME_BYTES_MAX: usize = 64;

/// Everything of a producer's session but its control socket.
pub(crate) struct Parts {
    pub producer: Arc<Producer>,
    pub bell: Readiness,
    pub exited: Readiness,
    pub welcome: Welcome,
    pub fds: [OwnedFd; 4],
}

/// Charges, makes and fills the two segments and the two bells.
pub(crate) fn make(
    broker: &Arc<Broker>,
    control: &Control,
    hello: &Hello,
    admission: Admission,
) -> Result<Parts, Refused> {
    permit(broker, &hello.name, &admission.identity)?;
    let Admission { identity, pidfd, charge } = admission;
    let (geometry, uid) = (hello.geometry, identity.uid);
    let bytes = broker.ledger().charge(uid, Slot::SegmentBytes, geometry.session_bytes());
    let bytes = bytes.map_err(|error| Refused::new(Code::QuotaExceeded, error.to_string()))?;
    let compat = &broker.config().compat;
    let made = || -> io::Result<Parts> {
        let id = broker.next_session();
        let own = OwnSegment::create("ringmain-caller", geometry.caller_bytes(), uid, compat)?;
        let theirs = PeerSegment::create("ringmain-responder", geometry.responder_bytes(), compat)?;
        let (first, second) = first_pages(&geometry);
        own.map.populate(0, first)?;
        theirs.map.populate(0, second)?;
        let (own_bell, own_ringer) = bell_pair()?;
        let (peer_bell, peer_ringer) = bell_pair()?;
        let ringer = Ringer::for_peer(peer_ringer, control.as_fd(), uid, compat)?;
        let ring = Ring::new(theirs.map.clone(), Geometry::RESPONDER_ARMED);
        let producer = Producer::new(ProducerParts {
            id,
            name: hello.name.clone(),
            peer: identity,
            geometry,
            own: own.map,
            theirs: theirs.map,
            bell: broker.bells().bell(uid, ring, ringer),
            punchers: [own.punch, theirs.punch],
            charges: [bytes, charge],
            reaper: broker.reaper().clone(),
        });
        Ok(Parts {
            producer,
            bell: Readiness::new(own_bell.into())?,
            exited: Readiness::new(pidfd)?,
            welcome: welcome(broker, id, geometry),
            // As for every peer: what it writes, what it reads, the broker's bell, its own.
            fds: [theirs.fd, own.fd, own_ringer, peer_bell.into()],
        })
    };
    made().map_err(|error| inside(&error))
}

/// Whether this peer may answer under this name.
fn permit(broker: &Broker, name: &str, identity: &Identity) -> Result<(), Refused> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) {
        let text = "the name of a producer is 1 to 64 letters, digits, `-`, `_` and `.`";
        return Err(Refused::new(Code::BadHello, text));
    }
    let routes = broker.routes();
    let Some(allow) = routes.producer(name) else {
        let text = format!("no route leads to a producer named {name:?}");
        return Err(Refused::new(Code::UnknownRoute, text));
    };
    if !allow.permits(identity) {
        let text = format!("uid {} may not attach as producer {name:?}", identity.uid);
        return Err(Refused::new(Code::NotAllowed, text));
    }
    Ok(())
}
