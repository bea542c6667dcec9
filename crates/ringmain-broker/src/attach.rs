//! The handshake: Hello, segments, bells, Welcome - or a refusal with its sentence.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ringmain_policy::Slot;
use ringmain_ring::{Armed, Ring, SubmissionReader};
use ringmain_shm::{
    Bell, Control, OwnSegment, PeerSegment, Readiness, Ringer, bell_pair, monotonic_ns,
};
use ringmain_wire::control::{ControlError, Hello, Message, Refused, Role, Welcome};
use ringmain_wire::limits::{CONTROL_BYTES_MAX, PAGE_BYTES, POPULATE_BYTES_MAX};
use ringmain_wire::{Code, Geometry};
use tokio::time::timeout;

use crate::account::Charge;
use crate::allow::Identity;
use crate::broker::Broker;
use crate::listen::permit;
use crate::producer::{self, Producer};
use crate::session::task::{self, SessionIo};
use crate::session::watch::{Watch, WatchParts};
use crate::session::{Session, SessionParts};

/// A connection that may attach.
pub(crate) struct Admission {
    pub identity: Identity,
    pub pidfd: OwnedFd,
    pub charge: Charge,
}

/// A session that was made and not yet told to its peer.
struct Made {
    work: Work,
    welcome: Welcome,
    /// In the order of the Welcome: the segment that the peer writes, the one that it reads, the
    /// bell of the broker, the bell of the peer.
    fds: [OwnedFd; 4],
}

/// Why a connection got no session.
enum NotMade {
    /// The peer hung up before it said anything, as one does that dies or only looks whether
    /// somebody is there: no fault of anybody, and nobody is left to be told.
    Left,
    Refused(Refused),
}

/// What runs once the peer is welcome.
enum Work {
    Caller(Arc<Session>, SessionIo),
    Producer(Arc<Producer>, Watch),
}

/// Takes a connection to its refusal or to the end of its session.
pub(crate) async fn run(
    broker: Arc<Broker>,
    control: Control,
    admission: Result<Admission, Refused>,
) {
    match attach(&broker, control, admission).await {
        Ok(Made { work, welcome, fds }) => {
            if let Err(error) = send_welcome(work.watch().control(), welcome, fds) {
                let session = welcome.session;
                tracing::debug!(session, %error, "the peer left before its Welcome");
                return;
            }
            match work {
                Work::Caller(session, io) => task::run(broker, session, io).await,
                Work::Producer(producer, watch) => {
                    producer::task::run(broker, producer, watch).await;
                }
            }
        }
        Err(NotMade::Left) => tracing::debug!("a peer left without a word"),
        Err(NotMade::Refused(refused)) => {
            broker.live().refused(refused.code);
            if broker.may_log_refusal() {
                tracing::info!(code = refused.code.name(), reason = %refused.text, "refused");
            }
        }
    }
}

/// Passes the descriptors on and closes the broker's copies: a session holds none of them.
fn send_welcome(control: &Control, welcome: Welcome, fds: [OwnedFd; 4]) -> io::Result<()> {
    control.send(&Message::Welcome(welcome).encode(), &fds.each_ref().map(AsFd::as_fd))
}

async fn attach(
    broker: &Arc<Broker>,
    control: Control,
    admission: Result<Admission, Refused>,
) -> Result<Made, NotMade> {
    // A refused peer is heard too, so that it reads its refusal and not a broken connection; but
    // only so many of them at once. The permit lives until the refusal is sent.
    let permit = admission.is_err().then(|| broker.refusals().try_acquire());
    let heard = match permit {
        Some(Err(_)) => Err(no_hello(broker).into()),
        _ => hear(broker, &control).await,
    };
    let made = match (admission, heard) {
        (Err(refused), _) | (Ok(_), Err(NotMade::Refused(refused))) => Err(refused),
        (Ok(_), Err(NotMade::Left)) => return Err(NotMade::Left),
        (Ok(admission), Ok((hello, ready))) => match hello.role {
            Role::Caller => make(broker, &control, &hello, admission)
                .map(|parts| (Either::Caller(parts), ready)),
            Role::Responder => producer::attach::make(broker, &control, &hello, admission)
                .map(|parts| (Either::Producer(parts), ready)),
        },
    };
    match made {
        Ok((parts, ready)) => Ok(parts.with(control, ready)),
        Err(refused) => {
            // A peer that does not take its refusal finds the connection closed.
            let _ = control.send(&Message::Refused(refused.clone()).encode(), &[]);
            Err(refused.into())
        }
    }
}

/// Waits for the Hello.
async fn hear(broker: &Broker, control: &Control) -> Result<(Hello, Readiness), NotMade> {
    let ready = control.try_clone_fd().and_then(Readiness::new).map_err(|error| inside(&error))?;
    let mut datagram = vec![0; CONTROL_BYTES_MAX];
    let received = timeout(broker.config().hello, receive(control, &ready, &mut datagram));
    let received = match received.await.map_err(|_| no_hello(broker))? {
        Ok(received) => received,
        Err(error) if is_hang_up(&error) => return Err(NotMade::Left),
        Err(error) => {
            let text = format!("the Hello could not be read: {error}");
            return Err(Refused::new(Code::BadHello, text).into());
        }
    };
    let refused = match Message::parse(&datagram[..received.bytes]) {
        _ if received.truncated || !received.fds.is_empty() => {
            Refused::new(Code::BadHello, "a Hello is one datagram without descriptors")
        }
        Ok(Message::Hello(hello)) => return Ok((hello, ready)),
        Ok(_) => Refused::new(Code::BadHello, "the first message is not a Hello"),
        Err(error @ ControlError::Abi { .. }) => Refused::new(Code::Abi, error.to_string()),
        Err(error) => Refused::new(Code::BadHello, error.to_string()),
    };
    Err(refused.into())
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

async fn receive(
    control: &Control,
    ready: &Readiness,
    datagram: &mut [u8],
) -> io::Result<ringmain_shm::Received> {
    loop {
        match control.recv(datagram) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.readable().await?,
            Ok(received) if received.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => return received,
        }
    }
}

/// Everything of a session but the control socket, which stays with whoever may still refuse.
struct Parts {
    session: Arc<Session>,
    submissions: SubmissionReader<ringmain_shm::ReadMap>,
    armed: Armed<ringmain_shm::WriteMap>,
    bell: Readiness,
    exited: Readiness,
    welcome: Welcome,
    fds: [OwnedFd; 4],
}

/// The same for either role.
enum Either {
    Caller(Parts),
    Producer(producer::attach::Parts),
}

/// Charges, makes and fills the two segments and the two bells.
fn make(
    broker: &Arc<Broker>,
    control: &Control,
    hello: &Hello,
    admission: Admission,
) -> Result<Parts, Refused> {
    // One who may come in as a producer is no caller by that.
    permit(broker, &admission.identity)?;
    let Admission { identity, pidfd, charge } = admission;
    let (geometry, uid) = (hello.geometry, identity.uid);
    let bytes = broker.ledger().charge(uid, Slot::SegmentBytes, geometry.session_bytes());
    let bytes = bytes.map_err(|error| Refused::new(Code::QuotaExceeded, error.to_string()))?;
    let compat = &broker.config().compat;
    let made = || -> io::Result<Parts> {
        let id = broker.next_session();
        let peer_segment = PeerSegment::create("ringmain-caller", geometry.caller_bytes(), compat)?;
        let own_segment =
            OwnSegment::create("ringmain-responder", geometry.responder_bytes(), uid, compat)?;
        let (first, second) = first_pages(&geometry);
        peer_segment.map.populate(0, first)?;
        own_segment.map.populate(0, second)?;
        let (own_bell, own_ringer) = bell_pair()?;
        let (peer_bell, peer_ringer) = bell_pair()?;
        let ringer = Ringer::for_peer(peer_ringer, control.as_fd(), uid, compat)?;
        let ring = Ring::new(peer_segment.map.clone(), Geometry::CALLER_ARMED);
        let submissions = SubmissionReader::new(peer_segment.map.clone(), geometry);
        let armed = Armed::new(own_segment.map.clone(), Geometry::RESPONDER_ARMED);
        let session = Session::new(SessionParts {
            id,
            peer: identity,
            geometry,
            caller: peer_segment.map,
            responder: own_segment.map,
            bell: broker.bells().bell(uid, ring, ringer),
            punchers: [peer_segment.punch, own_segment.punch],
            charges: [bytes, charge],
            reaper: broker.reaper().clone(),
        });
        Ok(Parts {
            session,
            submissions,
            armed,
            bell: Readiness::new(own_bell.into())?,
            exited: Readiness::new(pidfd)?,
            welcome: welcome(broker, id, geometry),
            fds: [peer_segment.fd, own_segment.fd, own_ringer, peer_fd(peer_bell)],
        })
    };
    made().map_err(|error| inside(&error))
}

impl Either {
    fn with(self, control: Control, control_ready: Readiness) -> Made {
        match self {
            Either::Caller(parts) => {
                let Parts { session, submissions, armed, bell, exited, welcome, fds } = parts;
                let watch = Watch::new(WatchParts { control, control_ready, bell, exited });
                let work = Work::Caller(session, SessionIo { submissions, armed, watch });
                Made { work, welcome, fds }
            }
            Either::Producer(parts) => {
                let producer::attach::Parts { producer, bell, exited, welcome, fds } = parts;
                let watch = Watch::new(WatchParts { control, control_ready, bell, exited });
                Made { work: Work::Producer(producer, watch), welcome, fds }
            }
        }
    }
}

impl From<Refused> for NotMade {
    fn from(refused: Refused) -> NotMade {
        NotMade::Refused(refused)
    }
}

impl Work {
    fn watch(&self) -> &Watch {
        match self {
            Work::Caller(_, io) => &io.watch,
            Work::Producer(_, watch) => watch,
        }
    }
}

pub(crate) fn welcome(broker: &Broker, id: u64, geometry: Geometry) -> Welcome {
    let mut welcome = Welcome::new(id, broker.epoch(), monotonic_ns(), geometry);
    let total = broker.config().limits.total.as_nanos();
    welcome.deadline_ns_max = u64::try_from(total).unwrap_or(u64::MAX);
    welcome.body_bytes_max = broker.config().body_bytes_max.min(geometry.arena_bytes());
    welcome
}

/// Bytes of the caller segment and of the responder segment that every session touches at once:
/// words and entries, the first page of the arena, the start of the first lane.
pub(crate) fn first_pages(geometry: &Geometry) -> (usize, usize) {
    let caller = (geometry.arena_offset() + PAGE_BYTES).min(POPULATE_BYTES_MAX * 2 / 3);
    (caller, (POPULATE_BYTES_MAX - caller).min(geometry.responder_bytes()))
}

fn peer_fd(bell: Bell) -> OwnedFd {
    bell.into()
}

fn no_hello(broker: &Broker) -> Refused {
    let text = format!("no Hello came within {:?}", broker.config().hello);
    Refused::new(Code::BadHello, text)
}

pub(crate) fn inside(error: &io::Error) -> Refused {
    Refused::new(Code::Internal, format!("the session could not be made: {error}"))
}
