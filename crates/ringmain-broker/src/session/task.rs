//! The session's own task: takes submissions, wakes lanes that have room again, sleeps on the
//! bell, and ends when the peer hangs up, exits, misbehaves or the broker is done.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use ringmain_ring::{Armed, SubmissionReader};
use ringmain_shm::{ReadMap, WriteMap, monotonic_ns};
use ringmain_wire::limits::SUBMISSIONS_PER_TURN;
use ringmain_wire::{Code, Entry, ExchangeId, Submission};

use super::Session;
use super::spin::Spin;
use super::watch::{Ending, Watch, Woken};
use crate::broker::Broker;
use crate::exchange;
use crate::failure::Violation;
use crate::stop::StopCause;

/// The descriptors and ring ends that belong to the session's task alone.
pub(crate) struct SessionIo {
    pub submissions: SubmissionReader<ReadMap>,
    pub armed: Armed<WriteMap>,
    pub watch: Watch,
}

/// Runs the session to its end.
pub(crate) async fn run(broker: Arc<Broker>, session: Arc<Session>, io: SessionIo) {
    let _listed = broker.enlist(&session);
    let mut task = Task { broker, session, io, spin: Spin::default() };
    let ending = task.serve().await;
    task.end(ending);
}

struct Task {
    broker: Arc<Broker>,
    session: Arc<Session>,
    io: SessionIo,
    spin: Spin,
}

impl Task {
    async fn serve(&mut self) -> Ending {
        loop {
            match self.turn() {
                Ok(true) => {
                    // The bound of a turn was reached: others first.
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(false) => {}
                Err(ending) => return ending,
            }
            let woken = match self.spin.is_on(self.broker.spinners()) {
                true => self.spin().await,
                false => self.rest().await,
            };
            if let Err(ending) = self.io.watch.heed(woken) {
                return ending;
            }
        }
    }

    /// Sleeps until something happened. Armed, it looks once more at everything that the bell
    /// covers; what it finds then is work, and others come first: a peer that always has one more
    /// entry ready at this moment would otherwise keep the worker for good.
    async fn rest(&mut self) -> io::Result<Option<Woken>> {
        self.io.armed.arm();
        let woken = match self.is_ready() {
            true => Ok(None),
            false => self.io.watch.sleep(self.session.told()).await.map(Some),
        };
        self.io.armed.disarm();
        if let Ok(None) = woken {
            tokio::task::yield_now().await;
        }
        woken
    }

    /// Polls until something happened, or until the session has been silent for so long that it
    /// sleeps. Not armed: nobody rings meanwhile but a consumer that gave room to a full lane.
    async fn spin(&mut self) -> io::Result<Option<Woken>> {
        let Task { session, io: SessionIo { submissions, watch, .. }, spin, .. } = self;
        let mut rest = pin!(watch.sleep(session.told()));
        // Bound: the session speaks, or is silent for too long.
        poll_fn(|cx| {
            if spin.is_check() {
                if let Poll::Ready(woken) = rest.as_mut().poll(cx) {
                    return Poll::Ready(woken.map(Some));
                }
                if session.feed_starved().unwrap_or(true) || spin.is_over(monotonic_ns()) {
                    return Poll::Ready(Ok(None));
                }
            }
            if spin.look(|| submissions.is_ready()) {
                return Poll::Ready(Ok(None));
            }
            // To the back of the queue, not past the reactor as a yield of the runtime goes.
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// One bounded turn: submissions, starved lanes, one ring. True if there may be more.
    fn turn(&mut self) -> Result<bool, Ending> {
        if let Some(violation) = self.session.violation() {
            return Err(Ending::Violation(violation));
        }
        self.io.watch.look(&self.broker)?;
        let mut taken = 0;
        while taken < SUBMISSIONS_PER_TURN {
            let Some((id, entry)) = self.io.submissions.next() else { break };
            self.take(id, &entry).map_err(Ending::Violation)?;
            taken += 1;
        }
        if taken == 0 && self.io.submissions.is_overrun() {
            // Nothing could ever be read from this ring again.
            let text = "the submission ring holds what no caller writes there";
            return Err(Ending::Violation(Violation::new(Code::ViolationEntry, text)));
        }
        let fed = self.session.feed_starved().map_err(Ending::Violation)?;
        if taken > 0 {
            self.spin.heard();
            self.session.ring();
        }
        if taken > 0 || fed {
            self.io.watch.was_due();
        }
        Ok(taken == SUBMISSIONS_PER_TURN || self.io.watch.is_hearing())
    }

    fn take(&self, id: ExchangeId, entry: &Entry) -> Result<(), Violation> {
        let judged = Submission::parse(entry, &self.session.geometry);
        match judged.map_err(|error| Violation::new(Code::ViolationEntry, error))? {
            Submission::Cancel { lane, target } => self.session.lane(lane).cancel(target),
            Submission::Ping { lane } => exchange::ping(&self.broker, &self.session, lane, id)?,
            Submission::Request(request) => {
                exchange::start(&self.broker, &self.session, id, request)?;
            }
            _ => return Err(Violation::new(Code::ViolationEntry, "this op is not served here")),
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        // An impossible cursor was told to the session; the turn that follows ends it.
        self.io.submissions.is_ready() || self.session.feed_starved().unwrap_or(true)
    }

    /// Stops what runs, tells the peer and the log why, once each.
    fn end(self, ending: Ending) {
        let cause = match ending {
            Ending::Closed => StopCause::Drained,
            _ => StopCause::SessionClosed,
        };
        self.session.stop_all(cause);
        self.io.watch.part(&ending);
        let exchanges = self.session.exchanges_total.load(Ordering::Relaxed);
        ending.tell(&self.broker, self.session.id, &self.session.peer, exchanges);
    }
}

#[cfg(test)]
pub(crate) mod tests;
