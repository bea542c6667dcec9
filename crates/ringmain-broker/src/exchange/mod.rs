//! One exchange: charged when it begins, run under its deadline and its stop, settled exactly once
//! however it ends. How its request came and where its frames go is the business of its face.

mod lane;
mod outcome;
mod tail;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use ringmain_policy::{Deadline, Slot};
use ringmain_shm::monotonic_ns;
use ringmain_wire::{Code, Flags, Mode, RequestHead, Stage};

pub(crate) use lane::{ping, start};
pub(crate) use tail::settle;

use crate::account::Charge;
use crate::alarm::Alarm;
use crate::allow::Identity;
use crate::broker::{Broker, Phase};
use crate::egress::Egress;
use crate::failure::Failure;
use crate::intake::{Body, Copies};
use crate::log_id::LogId;
use crate::pipeline::{self, Inbound};
use crate::record::Record;
use crate::relay::Ended;
use crate::session::Session;
use crate::stop::{Stop, StopCause};

/// An exchange that was accepted. Dropped before it was settled, it counts as one that its caller
/// left.
pub(crate) struct Exchange {
    broker: Arc<Broker>,
    origin: Origin,
    id: LogId,
    stop: Arc<Stop>,
    record: Record,
    held: Held,
    /// How it ended, for the log line.
    ended: Option<Result<(), Code>>,
}

/// Where an exchange came from, as the log tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub uid: u32,
    pub pid: i32,
    /// The session, when it came through one.
    pub session: Option<u64>,
}

/// What an exchange holds of the broker while it runs. The charge is given back before its terminal
/// frame: a caller that submits as soon as it sees the end finds room for the next. A drain is let
/// go on after it: a session is not closed between the two.
struct Held {
    broker: Arc<Broker>,
    session: Option<Arc<Session>>,
    charge: Option<Charge>,
}

/// A request as its face took it.
pub(crate) struct Asked<'a> {
    pub head: RequestHead<'a>,
    pub body: Body,
    pub mode: Mode,
    pub flags: Flags,
    /// The caller's own deadline, ns of the monotonic clock.
    pub deadline_ns: Option<u64>,
    pub caller: &'a Identity,
}

impl Origin {
    pub fn of_session(session: &Session) -> Origin {
        Origin { uid: session.peer.uid, pid: session.peer.pid, session: Some(session.id) }
    }
}

impl Held {
    fn new(
        broker: &Arc<Broker>,
        uid: u32,
        session: Option<&Arc<Session>>,
    ) -> Result<Held, Failure> {
        let charge = broker.ledger().charge(uid, Slot::Exchanges, 1);
        let charge = charge.map_err(|exceeded| Failure::quota(&exceeded))?;
        let session = session.cloned();
        let held = Held { broker: broker.clone(), session, charge: Some(charge) };
        // Counted before the phase is looked at: whoever drains waits for it or it is refused.
        broker.enter();
        if let Some(session) = &held.session {
            session.exchanges.fetch_add(1, Relaxed);
        }
        if broker.phase() != Phase::Serving {
            let text = Code::Draining.sentence();
            return Err(Failure::new(Code::Draining, Stage::Intake, text));
        }
        if let Some(session) = &held.session {
            session.exchanges_total.fetch_add(1, Relaxed);
        }
        broker.live().exchanges_total.fetch_add(1, Relaxed);
        Ok(held)
    }

    /// Gives the charge back, and counts the exchange as one that is over.
    fn settle(&mut self) {
        if self.charge.take().is_some() {
            if let Some(session) = &self.session {
                session.exchanges.fetch_sub(1, Relaxed);
            }
            self.broker.live().exchanges.fetch_sub(1, Relaxed);
            self.broker.live().touch();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.settle();
        self.broker.leave();
    }
}

impl Exchange {
    /// Charges and counts an exchange. A refusal was counted and logged.
    pub fn begin(
        broker: &Arc<Broker>,
        origin: Origin,
        session: Option<&Arc<Session>>,
        id: LogId,
        stop: Arc<Stop>,
    ) -> Result<Exchange, Failure> {
        let record = Record::new();
        match Held::new(broker, origin.uid, session) {
            Ok(held) => {
                let broker = broker.clone();
                Ok(Exchange { broker, origin, id, stop, record, held, ended: None })
            }
            Err(failure) => {
                broker.live().refused(failure.code);
                record.tell(broker, origin, id, Some(failure.code));
                Err(failure)
            }
        }
    }

    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    pub fn id(&self) -> LogId {
        self.id
    }

    pub fn stop(&self) -> &Arc<Stop> {
        &self.stop
    }

    /// Whom private copies of the request are charged to.
    pub fn copies(&self) -> Copies {
        Copies { ledger: self.broker.ledger().clone(), uid: self.origin.uid }
    }

    /// Runs the pipeline until it ends, the exchange is stopped, or a limit passes. Whichever is
    /// first drops the rest, and with it the request upstream.
    pub async fn run<E: Egress>(
        &mut self,
        asked: Asked<'_>,
        egress: &mut E,
    ) -> Result<Ended, Failure> {
        let ended = self.run_pipeline(asked, egress).await;
        ended.map_err(|failure| self.record.judge(failure))
    }

    async fn run_pipeline<E: Egress>(
        &mut self,
        asked: Asked<'_>,
        egress: &mut E,
    ) -> Result<Ended, Failure> {
        let config = self.broker.config();
        let started_ns = monotonic_ns();
        let deadline = Deadline::capped(started_ns, asked.deadline_ns, config.limits.total);
        if deadline.has_passed(started_ns) {
            return Err(self.record.late(deadline.origin));
        }
        let copies = self.copies();
        let alarm = Alarm::new(deadline, self.record.progress.clone());
        let inbound = Inbound {
            id: self.id,
            head: asked.head,
            body: asked.body,
            copy: None,
            copies: &copies,
            mode: asked.mode,
            flags: asked.flags,
            caller: asked.caller,
            session: self.origin.session.unwrap_or(0),
            gate: self.broker.gate(),
            routes: self.broker.routes(),
            producers: self.broker.producers(),
            started_ns,
            deadline_ns: asked.deadline_ns,
            alarm: &alarm,
            limits: config.limits,
            body_bytes_max: config.body_bytes_max,
            copied_body_bytes_max: config.copied_body_bytes_max,
        };
        let cut = {
            let stop = &self.stop;
            let mut stopped = pin!(stop.requested());
            let work = pin!(pipeline::run(inbound, egress, &mut self.record));
            let mut work = pin!(alarm.over(started_ns, work));
            poll_fn(|cx| {
                // A stop goes before what is ready.
                if !stop.is_requested()
                    && let Poll::Ready(ended) = work.as_mut().poll(cx)
                {
                    return Poll::Ready(Ok(ended));
                }
                stopped.as_mut().poll(cx).map(Err)
            })
            .await
        };
        match cut {
            Ok(Ok(ended)) => ended,
            Ok(Err(expired)) => Err(self.record.expired(expired)),
            Err(cause) => Err(self.record.stopped(cause)),
        }
    }

    /// Counts how it ended and gives its charge back, before the caller is told. The log line and
    /// the end of a drain's waiting come with the drop, after it.
    pub fn settle(&mut self, verdict: &Result<Ended, Failure>) {
        if self.ended.is_some() {
            return;
        }
        self.held.settle();
        self.record.is_over();
        self.broker.count(verdict, &self.record);
        self.ended = Some(verdict.as_ref().map(|_| ()).map_err(|failure| failure.code));
    }

    /// The payload of the ERROR frame that tells of this failure.
    pub fn error_payload(&self, failure: &Failure) -> Vec<u8> {
        failure.payload(self.id, self.record.attempts, self.record.bytes)
    }

    pub fn record(&self) -> &Record {
        &self.record
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let left = self.record.stopped(StopCause::Cancelled);
            self.settle(&Err(left));
        }
        let code = self.ended.and_then(Result::err);
        self.record.tell(&self.broker, self.origin, self.id, code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::task::tests::bench;

    /// The quota is back before the terminal frame, the drain goes on only after it.
    #[tokio::test]
    async fn a_drain_waits_for_the_terminal_and_the_quota_does_not() {
        let bench = bench();
        let (broker, uid) = (&bench.broker, bench.session.peer.uid);
        let mut held = Held::new(broker, uid, Some(&bench.session)).unwrap();
        let charged = || broker.ledger().held(uid, Slot::Exchanges);
        assert_eq!((charged(), broker.in_flight()), (1, 1));
        held.settle();
        assert_eq!((charged(), broker.in_flight()), (0, 1));
        assert_eq!((bench.session.exchanges.load(Relaxed), broker.snapshot().exchanges), (0, 0));
        drop(held);
        assert_eq!(broker.in_flight(), 0);
        assert_eq!(broker.snapshot().exchanges, 0);
    }

    /// An exchange that its face drops in the midst is settled, as one that its caller left.
    #[tokio::test]
    async fn a_dropped_exchange_is_settled_once() {
        let bench = bench();
        let broker = &bench.broker;
        let (id, origin) = (broker.log_id(), Origin { uid: 7, pid: 0, session: None });
        let exchange = Exchange::begin(broker, origin, None, id, Arc::default()).ok().unwrap();
        assert_eq!((broker.ledger().held(7, Slot::Exchanges), broker.in_flight()), (1, 1));
        drop(exchange);
        assert_eq!((broker.ledger().held(7, Slot::Exchanges), broker.in_flight()), (0, 0));
        let snapshot = broker.snapshot();
        assert_eq!((snapshot.refusals, snapshot.failures), (vec![], vec![(Code::Cancelled, 1)]));
    }
}
