//! The door for other faces of the broker: a request that came over something else than a session
//! runs on the same pipeline, is charged, limited, drained, counted and logged in the same way, and
//! brings its own [`Egress`].
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use std::task::{Context, Poll};
//! use bytes::Bytes;
//! use ringmain_broker::face::{Egress, Exchange, Failure, Push, Request};
//! use ringmain_broker::{Broker, Identity};
//! use ringmain_wire::{Kind, Mode, RequestHead};
//!
//! /// Keeps what was written.
//! struct Kept(Vec<(Kind, Vec<u8>)>);
//!
//! impl Egress for Kept {
//!     fn push(&mut self, kind: Kind, _choice: u16, payload: &[u8]) -> Result<Push, Failure> {
//!         self.0.push((kind, payload.to_vec()));
//!         Ok(Push::Written)
//!     }
//!     fn poll_room(&mut self, _: &mut Context<'_>, _: u64) -> Poll<Result<(), Failure>> {
//!         Poll::Ready(Ok(()))
//!     }
//!     fn release_request(&mut self) {}
//!     fn flush(&mut self) {}
//! }
//!
//! # async fn ask(broker: &Arc<Broker>, caller: Identity) {
//! let mut exchange = Exchange::begin(broker, caller).unwrap();
//! let head = RequestHead::new("tiny", "/chat/completions");
//! let request = Request::new(head, Bytes::from_static(b"{}"), Mode::Events);
//! let mut egress = Kept(Vec::new());
//! let ended = exchange.run(request, &mut egress).await;
//! match &ended.verdict {
//!     Ok(payload) => egress.0.push((Kind::End, payload.clone())),
//!     Err(failure) => egress.0.push((Kind::Error, exchange.error_payload(failure))),
//! }
//! // Its caller has the end; the log line is written, and no drain waits for it any more.
//! drop(exchange);
//! // What is left of the provider's answer saves its connection when it is read.
//! ended.settle().await;
//! # }
//! ```
//! An exchange that is dropped in the midst drops its request upstream and counts as cancelled, so
//! a face may poll [`Exchange::run`] inside the body of its answer and have no task of its own.

use std::sync::Arc;

use bytes::Bytes;
use ringmain_upstream::AnswerBody;
use ringmain_wire::{Flags, Mode, RequestHead};

use crate::account::Charge;
use crate::allow::Identity;
use crate::broker::Broker;
use crate::exchange::{self, Asked, Origin};
use crate::intake::{Body, Copies};

pub use ringmain_ring::Push;

pub use crate::egress::Egress;
pub use crate::failure::Failure;
pub use crate::log_id::LogId;
pub use crate::stop::{Stop, StopCause};

/// An exchange that was accepted: charged to the uid of its caller, waited for by a drain.
pub struct Exchange {
    inner: exchange::Exchange,
    caller: Identity,
}

/// An exchange that was refused before it began. It was counted and logged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// Its id in the log.
    pub id: LogId,
    /// Why.
    pub failure: Failure,
}

/// A request whose bytes nobody else can change.
#[non_exhaustive]
pub struct Request<'a> {
    /// The judged head: build it with [`RequestHead::new`] and let [`RequestHead::encode`] judge
    /// what came from outside, or read it with [`RequestHead::parse`].
    pub head: RequestHead<'a>,
    /// The body. What it takes of memory is for the face to charge: [`Exchange::charge`].
    pub body: Bytes,
    /// What the frames are to carry.
    pub mode: Mode,
    /// What the caller says about the request.
    pub flags: Flags,
    /// The caller's deadline, ns of [`ringmain_shm::monotonic_ns`]; capped by the total limit.
    pub deadline_ns: Option<u64>,
}

/// How an exchange ended. Its caller is to be told.
#[non_exhaustive]
pub struct Ended {
    /// The payload of the END frame ([`EndFrame`](ringmain_wire::frame::EndFrame)), or what went
    /// wrong. All frames before it were pushed.
    pub verdict: Result<Vec<u8>, Failure>,
    /// With the uid whose answer it is.
    rest: Option<(Box<AnswerBody>, u32)>,
}

/// Charges memory to the uid of an exchange, which may be over meanwhile.
#[derive(Debug)]
pub struct Charger(Copies);

/// Memory that is charged to a uid until this is dropped.
#[derive(Debug)]
pub struct Charged {
    _charge: Option<Charge>,
}

impl<'a> Request<'a> {
    /// A request without flags and without a deadline of its own.
    pub fn new(head: RequestHead<'a>, body: Bytes, mode: Mode) -> Request<'a> {
        Request { head, body, mode, flags: Flags::NONE, deadline_ns: None }
    }
}

impl Exchange {
    /// Begins an exchange for this caller.
    ///
    /// # Errors
    /// [`Refused`] when its uid has too many in flight or the broker drains.
    pub fn begin(broker: &Arc<Broker>, caller: Identity) -> Result<Exchange, Refused> {
        let id = broker.log_id();
        let stop = Arc::new(Stop::default());
        let origin = Origin { uid: caller.uid, pid: caller.pid, session: None };
        // Listed before it is counted: whoever cuts what was counted finds it.
        broker.enter_guest(id, &stop);
        match exchange::Exchange::begin(broker, origin, None, id, stop) {
            Ok(inner) => Ok(Exchange { inner, caller }),
            Err(failure) => {
                broker.leave_guest(id);
                Err(Refused { id, failure })
            }
        }
    }

    /// Its id, as in the log, in HEAD and in error texts.
    pub fn id(&self) -> LogId {
        self.inner.id()
    }

    /// Ends it before its time, from wherever.
    pub fn stop(&self) -> Arc<Stop> {
        self.inner.stop().clone()
    }

    /// Charges memory for a body to the uid of the caller: before it is read, for what it may take.
    ///
    /// # Errors
    /// [`Failure`] with [`Code::QuotaExceeded`](ringmain_wire::Code::QuotaExceeded).
    pub fn charge(&self, bytes: u64) -> Result<Charged, Failure> {
        self.charger().charge(bytes)
    }

    /// What charges to the uid of the caller beside the run of the exchange, and behind it.
    pub fn charger(&self) -> Charger {
        Charger(self.inner.copies())
    }

    /// Runs the request to its end. Content goes to `egress`; the terminal is for the face to
    /// write. Once per exchange.
    ///
    /// When this returns the exchange is counted and its charge is back.
    pub async fn run<E: Egress>(&mut self, request: Request<'_>, egress: &mut E) -> Ended {
        let Request { head, body, mode, flags, deadline_ns } = request;
        let Exchange { inner, caller } = self;
        let body = Body::Own(body);
        let asked = Asked { head, body, mode, flags, deadline_ns, caller };
        let verdict = inner.run(asked, egress).await;
        inner.settle(&verdict);
        match verdict {
            Ok(ended) => {
                let rest = ended.rest.map(|rest| (rest, caller.uid));
                Ended { verdict: Ok(ended.payload), rest }
            }
            Err(failure) => Ended { verdict: Err(failure), rest: None },
        }
    }

    /// Ends it with a failure of the face's own, before or instead of [`Exchange::run`]: it is
    /// counted and logged with this code.
    pub fn fail(&mut self, failure: &Failure) {
        self.inner.settle(&Err(failure.clone()));
    }

    /// The payload of the ERROR frame ([`ErrorFrame`](ringmain_wire::ErrorFrame)) that tells of a
    /// failure of this exchange: with its attempts, bytes and id.
    pub fn error_payload(&self, failure: &Failure) -> Vec<u8> {
        self.inner.error_payload(failure)
    }

    /// Attempts made upstream so far.
    pub fn attempts(&self) -> u16 {
        self.inner.record().attempts
    }

    /// Payload bytes of content pushed so far.
    pub fn bytes(&self) -> u64 {
        self.inner.record().bytes
    }
}

impl Charger {
    /// Charges memory, before it is taken.
    ///
    /// # Errors
    /// [`Failure`] with [`Code::QuotaExceeded`](ringmain_wire::Code::QuotaExceeded).
    pub fn charge(&self, bytes: u64) -> Result<Charged, Failure> {
        self.0.charge(bytes).map(|charge| Charged { _charge: charge })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.inner.broker().leave_guest(self.inner.id());
    }
}

impl Ended {
    /// Whether something may be left behind the terminal marker: else there is nothing to settle.
    pub fn has_rest(&self) -> bool {
        self.rest.as_ref().is_some_and(|(rest, _)| !rest.is_over())
    }

    /// Reads what is left behind the terminal marker of the answer, for at most a second, so that
    /// its connection can be used again. To be called after the caller was told.
    pub async fn settle(self) {
        if let Some((rest, uid)) = self.rest {
            exchange::settle(rest, uid).await;
        }
    }
}
