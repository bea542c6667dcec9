//! One exchange: begun by the session's task, carried by a task of its own, ended exactly once.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ringmain_policy::{Deadline, DeadlineOrigin, Slot};
use ringmain_shm::monotonic_ns;
use ringmain_wire::frame::EndFrame;
use ringmain_wire::{Code, ExchangeId, Kind, LaneId, Request, Sent, Stage};

use crate::account::Charge;
use crate::broker::{Broker, Phase};
use crate::egress::LaneEgress;
use crate::failure::{Failure, Violation};
use crate::intake::{Body, Copies, HeadCopy, chunk_bytes};
use crate::lines::{Leave, Subject};
use crate::loan::Loan;
use crate::log_id::LogId;
use crate::pipeline::{self, Inbound};
use crate::record::Record;
use crate::relay::Ended;
use crate::session::Session;
use crate::stop::{Stop, StopCause};

/// How long the rest of an answer behind its terminal marker is read, for the connection's sake.
const SETTLE: Duration = Duration::from_secs(1);

/// An exchange that was accepted.
struct Exchange {
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: Request,
    id: LogId,
    stop: Arc<Stop>,
    deadline: Deadline,
    /// Counted as in flight; charged to the uid of the caller.
    held: Held,
}

/// What an exchange holds of the broker while it runs. The charge is given back before its terminal
/// frame: a caller that submits as soon as it sees the end finds room for the next. A drain is let
/// go on after it: a session is not closed between the two.
struct Held {
    broker: Arc<Broker>,
    session: Arc<Session>,
    charge: Option<Charge>,
}

/// Answers a ping: the way of a request through validation and charging, without an upstream.
pub(crate) fn ping(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    lane: LaneId,
    id: ExchangeId,
) -> Result<(), Violation> {
    session.lane(lane).begin(id, None)?;
    let verdict = hold(broker, session);
    session.lane(lane).return_loan(id);
    let done = match verdict {
        Ok(mut held) => {
            held.settle();
            broker.live().ended.fetch_add(1, Relaxed);
            let mut payload = Vec::with_capacity(16);
            EndFrame::default().encode(&mut payload);
            let done = session.lane(lane).finish(Kind::End, &payload);
            drop(held);
            done
        }
        Err(failure) => {
            broker.live().refused(failure.code);
            let payload = failure.payload(broker.log_id(), 0, 0);
            session.lane(lane).finish(Kind::Error, &payload)
        }
    };
    debug_assert_eq!(done, Ok(()), "an open exchange takes its terminal");
    Ok(())
}

/// Accepts a request, or refuses it on its lane. Only what no honest caller does is an error.
pub(crate) fn start(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    exchange: ExchangeId,
    request: Request,
) -> Result<(), Violation> {
    let stop = Arc::new(Stop::default());
    session.lane(request.lane).begin(exchange, Some(stop.clone()))?;
    let bytes = chunk_bytes(&request);
    session.lend(bytes)?;
    let loan = Loan::new(session.clone(), request.lane, exchange, bytes);
    let id = broker.log_id();
    let egress = LaneEgress::new(session.clone(), request.lane, id, loan);
    let held = match hold(broker, session) {
        Ok(held) => held,
        Err(failure) => {
            broker.live().refused(failure.code);
            egress.finish(Kind::Error, &failure.payload(id, 0, 0));
            Record::new().tell(broker, session, id, Some(failure.code));
            return Ok(());
        }
    };
    let total = broker.config().limits.total;
    let deadline = Deadline::capped(monotonic_ns(), request.deadline_ns, total);
    let (broker, session) = (broker.clone(), session.clone());
    tokio::spawn(Exchange { broker, session, request, id, stop, deadline, held }.run(egress));
    Ok(())
}

fn hold(broker: &Arc<Broker>, session: &Arc<Session>) -> Result<Held, Failure> {
    let charge = broker.ledger().charge(session.peer.uid, Slot::Exchanges, 1);
    let charge = charge.map_err(|exceeded| Failure::quota(&exceeded))?;
    let held = Held { broker: broker.clone(), session: session.clone(), charge: Some(charge) };
    // Counted before the phase is looked at: whoever drains waits for it or it is refused.
    broker.enter();
    session.exchanges.fetch_add(1, Relaxed);
    if broker.phase() != Phase::Serving {
        let text = Code::Draining.sentence();
        return Err(Failure::new(Code::Draining, Stage::Intake, text));
    }
    session.exchanges_total.fetch_add(1, Relaxed);
    broker.live().exchanges_total.fetch_add(1, Relaxed);
    Ok(held)
}

impl Held {
    /// Gives the charge back, and counts the exchange as one that is over.
    fn settle(&mut self) {
        if self.charge.take().is_some() {
            self.session.exchanges.fetch_sub(1, Relaxed);
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
    async fn run(self, mut egress: LaneEgress) {
        let mut record = Record::new();
        let verdict = self.relay(&mut egress, &mut record).await;
        let Exchange { broker, session, id, mut held, .. } = self;
        held.settle();
        broker.count(&verdict, &record);
        match verdict {
            Ok(Ended { payload, rest }) => {
                egress.finish(Kind::End, &payload);
                drop(held);
                record.tell(&broker, &session, id, None);
                // The caller has its END; what is left of the answer only saves a connection.
                if let Some(rest) = rest {
                    let _ = tokio::time::timeout(SETTLE, rest.settle()).await;
                }
            }
            Err(failure) => {
                let payload = failure.payload(id, record.attempts, record.bytes);
                egress.finish(Kind::Error, &payload);
                drop(held);
                record.tell(&broker, &session, id, Some(failure.code));
            }
        }
    }

    /// Runs the pipeline until it ends, the exchange is stopped, or its deadline passes. Whichever
    /// is first drops the rest, and with it the request upstream.
    async fn relay(&self, egress: &mut LaneEgress, record: &mut Record) -> Result<Ended, Failure> {
        if self.deadline.has_passed(monotonic_ns()) {
            return Err(self.late(record));
        }
        let cut = {
            let mut work = pin!(self.work(egress, record));
            let late = tokio::time::sleep(self.deadline.left(monotonic_ns()));
            tokio::select! {
                biased;
                cause = self.stop.requested() => Some(cause),
                ended = &mut work => return ended,
                () = late => None,
            }
        };
        Err(match cut {
            Some(cause) => stopped(cause, record),
            None => self.late(record),
        })
    }

    async fn work(&self, egress: &mut LaneEgress, record: &mut Record) -> Result<Ended, Failure> {
        let Exchange { broker, session, request, .. } = self;
        let (caller, geometry) = (session.caller(), &session.geometry);
        let copies = Copies { ledger: broker.ledger().clone(), uid: session.peer.uid };
        let head = HeadCopy::of(caller, geometry, request, &copies)?;
        let inbound = Inbound {
            id: self.id,
            head: head.judge()?,
            body: Body::of(caller, geometry, request, egress.loan()),
            copies: &copies,
            mode: request.mode,
            flags: request.flags,
            caller: &session.peer,
            routes: broker.routes(),
            producers: broker.producers(),
            deadline_ns: self.deadline.at_ns,
            limits: broker.config().limits,
            body_bytes_max: broker.config().body_bytes_max,
            copied_body_bytes_max: broker.config().copied_body_bytes_max,
        };
        pipeline::run(inbound, egress, record).await
    }

    fn late(&self, record: &Record) -> Failure {
        let (code, whose) = match self.deadline.origin {
            DeadlineOrigin::Caller => (Code::DeadlineExceeded, "the deadline of the caller passed"),
            DeadlineOrigin::Total => (Code::TotalTimeout, "the total limit of an exchange passed"),
        };
        let (stage, sent) = record.reached();
        Failure::while_sent(code, stage, sent, format!("{whose} {stage}"))
    }
}

fn stopped(cause: StopCause, record: &Record) -> Failure {
    let code = cause.code();
    let (stage, sent) = record.reached();
    Failure::while_sent(code, stage, sent, format!("{} {stage}", code.sentence()))
}

impl Record {
    /// How far the exchange has come, for whoever ends it from outside.
    fn reached(&self) -> (Stage, Sent) {
        match (self.is_dispatched, self.first_content) {
            (false, _) => self.produced.unwrap_or((Stage::Intake, Sent::No)),
            (true, None) => {
                self.produced.unwrap_or_else(|| (self.progress.stage(), self.progress.sent()))
            }
            (true, Some(_)) => (Stage::Relay, Sent::Yes),
        }
    }

    /// The log line.
    fn tell(&self, broker: &Broker, session: &Session, id: LogId, code: Option<Code>) {
        // What reached no provider costs its caller nothing, so its lines are counted; so does what
        // a producer of another uid than the broker's own answers.
        let leave = match self.is_dispatched && !self.is_free {
            true => Some(Leave { suppressed: None }),
            false => broker.lines().leave(session.peer.uid, Subject::Exchange),
        };
        let Some(Leave { suppressed }) = leave else { return };
        let since = |at: std::time::Instant| at.saturating_duration_since(self.started);
        tracing::info!(
            %id,
            uid = session.peer.uid,
            pid = session.peer.pid,
            session = session.id,
            suppressed,
            route = %self.route,
            endpoint = %self.endpoint,
            attempts = self.attempts,
            status = self.status,
            code = code.map_or("ok", Code::name),
            ttfc_us = self.first_content.map(|at| since(at).as_micros() as u64),
            deltas = self.frames,
            bytes = self.bytes,
            duration_us = self.started.elapsed().as_micros() as u64,
            "exchange"
        );
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
        let mut held = hold(broker, &bench.session).unwrap();
        let charged = || broker.ledger().held(uid, Slot::Exchanges);
        assert_eq!((charged(), broker.in_flight()), (1, 1));
        held.settle();
        assert_eq!((charged(), broker.in_flight()), (0, 1));
        assert_eq!((bench.session.exchanges.load(Relaxed), broker.snapshot().exchanges), (0, 0));
        drop(held);
        assert_eq!(broker.in_flight(), 0);
        assert_eq!(broker.snapshot().exchanges, 0);
    }
}
