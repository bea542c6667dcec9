//! The session's own task: takes submissions, wakes lanes that have room again, sleeps on the
//! bell, and ends when the peer hangs up, exits, misbehaves or the broker is done.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use ringmain_policy::RateBucket;
use ringmain_ring::{Armed, SubmissionReader};
use ringmain_shm::{Control, ReadMap, Readiness, WriteMap, monotonic_ns};
use ringmain_wire::control::{Goodbye, Message};
use ringmain_wire::limits::SUBMISSIONS_PER_TURN;
use ringmain_wire::{Code, Entry, ExchangeId, Submission};
use tokio::time::{Sleep, sleep};

use super::Session;
use crate::broker::{Broker, Phase};
use crate::exchange;
use crate::failure::Violation;
use crate::lines::{Leave, Subject};
use crate::stop::StopCause;

/// Wake-ups in a row that find nothing before the bell is muted. A ring that comes late makes one.
const IDLE_WAKES: u32 = 8;
/// How long a muted bell stays deaf.
const MUTE: Duration = Duration::from_millis(10);
/// Control datagrams that are read in one turn.
const DATAGRAMS_PER_TURN: usize = 16;
/// Control datagrams per second that a peer may send.
const DATAGRAMS_PER_S: u32 = 1000;

/// The descriptors and ring ends that belong to the session's task alone.
pub(crate) struct SessionIo {
    pub submissions: SubmissionReader<ReadMap>,
    pub armed: Armed<WriteMap>,
    pub control: Control,
    pub control_ready: Readiness,
    pub bell: BellEnd,
    pub exited: Readiness,
}

/// The waiting end of the broker's bell for this session.
pub(crate) enum BellEnd {
    Listening(Readiness),
    /// Deregistered for a while: its rings cost nothing.
    Muted(OwnedFd, Pin<Box<Sleep>>),
    /// Only while one turns into the other, or when that failed.
    Moving,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    /// The broker is done.
    Closed,
    /// The peer's process is gone.
    Exited,
    /// The peer closed its control socket.
    HungUp,
    /// The broker cannot wait for the session any more.
    Io(String),
    /// The peer left the protocol.
    Violation(Violation),
}

enum Woken {
    Bell,
    Control,
    Exited,
    Told,
    Unmuted,
}

/// Runs the session to its end.
pub(crate) async fn run(broker: Arc<Broker>, session: Arc<Session>, io: SessionIo) {
    let _listed = broker.enlist(&session);
    let datagrams = RateBucket::new(DATAGRAMS_PER_S, monotonic_ns());
    let mut task = Task {
        broker,
        session,
        io,
        idle_wakes: 0,
        datagrams,
        told_draining: false,
        // What came with the Hello lies there without an edge of its own.
        is_hearing: true,
    };
    let ending = task.serve().await;
    task.end(ending);
}

struct Task {
    broker: Arc<Broker>,
    session: Arc<Session>,
    io: SessionIo,
    idle_wakes: u32,
    datagrams: RateBucket,
    told_draining: bool,
    /// Datagrams were left at the bound of a turn.
    is_hearing: bool,
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
            let ending = match self.rest().await {
                Ok(woken) => self.heed(woken),
                Err(error) => Err(Ending::Io(error.to_string())),
            };
            if let Err(ending) = ending {
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
            false => self.sleep().await.map(Some),
        };
        self.io.armed.disarm();
        if let Ok(None) = woken {
            tokio::task::yield_now().await;
        }
        woken
    }

    /// One bounded turn: submissions, starved lanes, one ring. True if there may be more.
    fn turn(&mut self) -> Result<bool, Ending> {
        self.look_outside()?;
        if self.is_hearing {
            self.hear()?;
        }
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
            self.session.ring();
        }
        if taken > 0 || fed {
            self.idle_wakes = 0;
        }
        Ok(taken == SUBMISSIONS_PER_TURN || self.is_hearing)
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

    /// What others want of this session.
    fn look_outside(&mut self) -> Result<(), Ending> {
        if let Some(violation) = self.session.violation() {
            return Err(Ending::Violation(violation));
        }
        match self.broker.phase() {
            Phase::Serving => {}
            Phase::Draining if self.told_draining => {}
            Phase::Draining => {
                self.told_draining = true;
                // A peer that does not read it finds out by its next request.
                let _ = self.io.control.send(&Message::Draining.encode(), &[]);
            }
            Phase::Closing => return Err(Ending::Closed),
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        // An impossible cursor was told to the session; the turn that follows ends it.
        self.io.submissions.is_ready() || self.session.feed_starved().unwrap_or(true)
    }

    /// Sleeps until something rings. One poll covers everything: no waiter is queued and taken
    /// out again for each source and each sleep.
    async fn sleep(&mut self) -> io::Result<Woken> {
        let SessionIo { bell, control_ready, exited, .. } = &mut self.io;
        let mut told = pin!(self.session.told());
        poll_fn(|cx| {
            if let Poll::Ready(rung) = bell.poll_rung(cx) {
                return Poll::Ready(rung);
            }
            if let Poll::Ready(ready) = control_ready.poll_readable(cx) {
                return Poll::Ready(ready.map(|()| Woken::Control));
            }
            if let Poll::Ready(ready) = exited.poll_readable(cx) {
                return Poll::Ready(ready.map(|()| Woken::Exited));
            }
            told.as_mut().poll(cx).map(|()| Ok(Woken::Told))
        })
        .await
    }

    fn heed(&mut self, woken: Option<Woken>) -> Result<(), Ending> {
        match woken {
            None | Some(Woken::Told) => Ok(()),
            Some(Woken::Bell) => self.count_idle_wake(),
            Some(Woken::Control) => self.hear(),
            Some(Woken::Exited) => Err(Ending::Exited),
            Some(Woken::Unmuted) => self.unmute(),
        }
    }

    /// A wake-up counts as idle until the turn that follows finds something.
    fn count_idle_wake(&mut self) -> Result<(), Ending> {
        self.idle_wakes += 1;
        if self.idle_wakes > IDLE_WAKES {
            self.io.bell.mute();
        }
        Ok(())
    }

    fn unmute(&mut self) -> Result<(), Ending> {
        // The registration itself wakes once, so one more ring for nothing mutes again.
        self.idle_wakes = IDLE_WAKES - 1;
        self.io.bell.unmute().map_err(|error| Ending::Io(error.to_string()))
    }

    /// Reads the control socket. A peer has nothing to say there after its Hello but rings.
    fn hear(&mut self) -> Result<(), Ending> {
        self.is_hearing = false;
        let bad = |what: &str| Ending::Violation(Violation::new(Code::ViolationControl, what));
        for _ in 0..DATAGRAMS_PER_TURN {
            let mut datagram = [0; 64];
            let received = match self.io.control.recv(&mut datagram) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Ending::HungUp),
            };
            if received.bytes == 0 {
                return Err(Ending::HungUp);
            }
            if !received.fds.is_empty() {
                return Err(bad("a client sent descriptors"));
            }
            if !self.datagrams.take(monotonic_ns()) {
                return Err(bad("more than 1,000 control messages in a second"));
            }
            let message = Message::parse(&datagram[..received.bytes]);
            if received.truncated || message != Ok(Message::Ring) {
                return Err(bad("a control message that has no place in a session"));
            }
            self.count_idle_wake()?;
        }
        // The edge was taken and datagrams may be left: the next turn goes on.
        self.is_hearing = true;
        Ok(())
    }

    /// Stops what runs, tells the peer and the log why, once each.
    fn end(self, ending: Ending) {
        let cause = match ending {
            Ending::Closed => StopCause::Drained,
            _ => StopCause::SessionClosed,
        };
        self.session.stop_all(cause);
        let peer = &self.session.peer;
        let (code, text) = ending.describe();
        if let Some(code) = code {
            let goodbye = Message::Goodbye(Goodbye::new(code, text.clone()));
            // The peer may be gone, or not read; it learns the same from the closed socket.
            let _ = self.io.control.send(&goodbye.encode(), &[]);
        }
        let (session, uid, pid) = (self.session.id, peer.uid, peer.pid);
        let exchanges = self.session.exchanges_total.load(Ordering::Relaxed);
        let violation = match ending {
            Ending::Violation(Violation { code, .. }) => Some(code),
            _ => None,
        };
        if let Some(code) = violation {
            self.broker.live().refused(code);
        }
        let leave = self.broker.lines().leave(uid, Subject::Session);
        let Some(Leave { suppressed }) = leave else { return };
        match violation.map(Code::name) {
            Some(code) => tracing::warn!(
                session, uid, pid, exchanges, suppressed, code, reason = %text, "session closed"
            ),
            None => tracing::info!(
                session, uid, pid, exchanges, suppressed, reason = %text, "session ended"
            ),
        }
    }
}

impl BellEnd {
    fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Woken>> {
        match self {
            BellEnd::Listening(bell) => bell.poll_readable(cx).map_ok(|()| Woken::Bell),
            BellEnd::Muted(_, over) => over.as_mut().poll(cx).map(|()| Ok(Woken::Unmuted)),
            BellEnd::Moving => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn mute(&mut self) {
        *self = match std::mem::replace(self, BellEnd::Moving) {
            BellEnd::Listening(bell) => BellEnd::Muted(bell.into_fd(), Box::pin(sleep(MUTE))),
            other => other,
        };
    }

    fn unmute(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, BellEnd::Moving) {
            BellEnd::Muted(fd, _) => BellEnd::Listening(Readiness::new(fd)?),
            other => other,
        };
        Ok(())
    }
}

impl Ending {
    /// The code for a Goodbye, if the peer is to be told, and the reason in words.
    fn describe(&self) -> (Option<Code>, String) {
        match self {
            Ending::Closed => {
                (Some(Code::Drained), "the broker shut down; a successor may be there".to_owned())
            }
            Ending::Exited => (None, "the process exited".to_owned()),
            Ending::HungUp => (None, "the peer hung up".to_owned()),
            Ending::Io(error) => (Some(Code::Internal), error.clone()),
            Ending::Violation(Violation { code, text }) => (Some(*code), text.clone()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
