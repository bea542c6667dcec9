//! What the task of any session waits for: its bell, its control socket, its peer's end, and
//! whatever else the broker tells it. The same for an application and for a producer.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use ringmain_policy::RateBucket;
use ringmain_shm::{Control, Readiness, monotonic_ns};
use ringmain_wire::Code;
use ringmain_wire::control::{Goodbye, Message};
use tokio::time::{Sleep, sleep};

use crate::allow::Identity;
use crate::broker::{Broker, Phase};
use crate::failure::Violation;
use crate::lines::{Leave, Subject};

/// Wake-ups in a row that find nothing before the bell is muted. A ring that comes late makes one.
const IDLE_WAKES: u32 = 8;
/// How long a muted bell stays deaf.
const MUTE: Duration = Duration::from_millis(10);
/// Control datagrams that are read in one turn.
const DATAGRAMS_PER_TURN: usize = 16;
/// Control datagrams per second that a peer may send.
const DATAGRAMS_PER_S: u32 = 1000;

/// The descriptors that belong to a session's task alone.
pub(crate) struct Watch {
    control: Control,
    control_ready: Readiness,
    bell: BellEnd,
    exited: Readiness,
    idle_wakes: u32,
    datagrams: RateBucket,
    told_draining: bool,
    /// Datagrams were left at the bound of a turn.
    is_hearing: bool,
}

/// The descriptors of a watch.
pub(crate) struct WatchParts {
    pub control: Control,
    pub control_ready: Readiness,
    pub bell: Readiness,
    pub exited: Readiness,
}

/// The waiting end of the broker's bell for a session.
enum BellEnd {
    Listening(Readiness),
    /// Deregistered for a while: its rings cost nothing.
    Muted(OwnedFd, Pin<Box<Sleep>>),
    /// Only while one turns into the other, or when that failed.
    Moving,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
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

/// What ended a sleep.
pub(crate) enum Woken {
    Bell,
    Control,
    Exited,
    Told,
    Unmuted,
}

impl Watch {
    pub fn new(parts: WatchParts) -> Watch {
        let WatchParts { control, control_ready, bell, exited } = parts;
        Watch {
            control,
            control_ready,
            bell: BellEnd::Listening(bell),
            exited,
            idle_wakes: 0,
            datagrams: RateBucket::new(DATAGRAMS_PER_S, monotonic_ns()),
            told_draining: false,
            // What came with the Hello lies there without an edge of its own.
            is_hearing: true,
        }
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Begins a turn: what the broker is about, and datagrams that the last turn left.
    pub fn look(&mut self, broker: &Broker) -> Result<(), Ending> {
        match broker.phase() {
            Phase::Serving => {}
            Phase::Draining if self.told_draining => {}
            Phase::Draining => {
                self.told_draining = true;
                // A peer that does not read it finds out by its next request.
                let _ = self.control.send(&Message::Draining.encode(), &[]);
            }
            Phase::Closing => return Err(Ending::Closed),
        }
        if self.is_hearing {
            self.hear()?;
        }
        Ok(())
    }

    /// Whether the next turn has something to read without being woken for it.
    pub fn is_hearing(&self) -> bool {
        self.is_hearing
    }

    /// Sleeps until something rings. One poll covers everything: no waiter is queued and taken
    /// out again for each source and each sleep.
    pub async fn sleep(&mut self, told: impl Future<Output = ()>) -> io::Result<Woken> {
        let Watch { bell, control_ready, exited, .. } = self;
        let mut told = pin!(told);
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

    /// Does what a sleep was ended for; `None`: there was no need to sleep.
    pub fn heed(&mut self, woken: io::Result<Option<Woken>>) -> Result<(), Ending> {
        match woken.map_err(|error| Ending::Io(error.to_string()))? {
            None | Some(Woken::Told) => Ok(()),
            Some(Woken::Bell) => self.count_idle_wake(),
            Some(Woken::Control) => self.hear(),
            Some(Woken::Exited) => Err(Ending::Exited),
            Some(Woken::Unmuted) => self.unmute(),
        }
    }

    /// The turn found what it was rung for.
    pub fn was_due(&mut self) {
        self.idle_wakes = 0;
    }

    /// Tells the peer why its session ended, if there is anything to tell.
    pub fn part(&self, ending: &Ending) {
        if let (Some(code), text) = ending.describe() {
            let goodbye = Message::Goodbye(Goodbye::new(code, text));
            // The peer may be gone, or not read; it learns the same from the closed socket.
            let _ = self.control.send(&goodbye.encode(), &[]);
        }
    }

    /// A wake-up counts as idle until the turn that follows finds something.
    fn count_idle_wake(&mut self) -> Result<(), Ending> {
        self.idle_wakes += 1;
        if self.idle_wakes > IDLE_WAKES {
            self.bell.mute();
        }
        Ok(())
    }

    fn unmute(&mut self) -> Result<(), Ending> {
        // The registration itself wakes once, so one more ring for nothing mutes again.
        self.idle_wakes = IDLE_WAKES - 1;
        self.bell.unmute().map_err(|error| Ending::Io(error.to_string()))
    }

    /// Reads the control socket. A peer has nothing to say there after its Hello but rings.
    fn hear(&mut self) -> Result<(), Ending> {
        self.is_hearing = false;
        let bad = |what: &str| Ending::Violation(Violation::new(Code::ViolationControl, what));
        for _ in 0..DATAGRAMS_PER_TURN {
            let mut datagram = [0; 64];
            let received = match self.control.recv(&mut datagram) {
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
    /// The one log line of a session's end, if its uid has not caused too many of late.
    pub fn tell(&self, broker: &Broker, session: u64, peer: &Identity, exchanges: u64) {
        let (&Identity { uid, pid, .. }, (_, text)) = (peer, self.describe());
        let violation = match self {
            Ending::Violation(Violation { code, .. }) => Some(*code),
            _ => None,
        };
        if let Some(code) = violation {
            broker.live().refused(code);
        }
        let leave = broker.lines().leave(uid, Subject::Session);
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

    /// The code for a Goodbye, if the peer is to be told, and the reason in words.
    pub fn describe(&self) -> (Option<Code>, String) {
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
