//! The handshake: one datagram each way, four descriptors, and checks before anything is mapped.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use ringmain_policy::Backoff;
use ringmain_shm::{
    Bell, Control, ForkMark, Peer, Received, Ringer, Sleeper, Trust, TrustedMap, WriteMap,
    bell_pair, monotonic_ns,
};
use ringmain_wire::control::{ControlError, Hello, Message, Role, Welcome};
use ringmain_wire::limits::{CLOCK_OFFSET_NS_MIN, CONTROL_BYTES_MAX, POPULATE_BYTES_MAX};
use ringmain_wire::{Code, Geometry, Stage};

use crate::config::Config;
use crate::discover;
use crate::error::{Error, Result};

/// One attachment to a broker: memory, bells, liveness. Lives as long as its session.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) welcome: Welcome,
    /// The segment that this side writes.
    pub(crate) own: WriteMap,
    /// The segment that the broker writes.
    pub(crate) theirs: TrustedMap,
    /// Where this side sleeps.
    pub(crate) bell: Bell,
    /// Wakes the broker.
    pub(crate) ringer: Ringer,
    pub(crate) control: Control,
    /// Readable when the broker exited.
    pub(crate) pidfd: OwnedFd,
    pub(crate) fork: ForkMark,
    pub(crate) clock: Clock,
}

/// This process's monotonic clock against the broker's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Broker minus ours, 0 unless the two live in different time namespaces.
    offset_ns: i64,
}

/// A Hello that was sent and not yet answered.
#[derive(Debug)]
pub(crate) struct Knock {
    pub(crate) control: Control,
    pub(crate) peer: Peer,
    trust: Trust,
    role: Role,
    fork: ForkMark,
}

/// The patience with a broker that is absent, draining or full.
#[derive(Debug)]
pub(crate) struct Patience {
    until_ns: u64,
    /// The first attempt is made in any case, so it has time of its own.
    first_until_ns: u64,
    attempt: u32,
    random: RandomState,
    quota_is_final: bool,
    /// Why the attempt before failed: says more than that the last one had no time left.
    before: Option<Error>,
}

/// Waits between attempts. The cap keeps a broker's restart unnoticed in most calls.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(400));

/// Bytes at the start of each segment that the first exchanges touch: the words, the first
/// entries and lines. Half of what both together may take.
const POPULATE_BYTES: usize = POPULATE_BYTES_MAX / 2;

/// Time that one attempt has even where nothing is to be tried again.
const FIRST_NS_MIN: u64 = 1_000_000_000;

/// Attaches, with patience, on the calling thread.
pub(crate) fn attach(config: &Config, deadline_ns: Option<u64>) -> Result<Attachment> {
    let mut patience = Patience::new(config, deadline_ns);
    loop {
        let attempt = Knock::send(config).and_then(|knock| knock.wait_blocking(&patience));
        match attempt {
            Ok(attachment) => return Ok(attachment),
            Err(error) => thread::sleep(patience.wait_after(error)?),
        }
    }
}

// --- Knock -----------------------------------------------------------------------------------

impl Knock {
    /// Connects to the first socket that answers and says Hello.
    pub(crate) fn send(config: &Config) -> Result<Knock> {
        // The broker of this host is the one party that a process on it trusts.
        let (control, trust) = connect(config)?;
        let io = |error| lost("the broker's socket failed", error);
        let peer = control.peer(&config.compat).map_err(io)?;
        let now_ns = monotonic_ns();
        let mut hello = match &config.producer {
            Some(name) => Hello::producer(config.geometry, now_ns, name),
            None => Hello::caller(config.geometry, now_ns),
        };
        hello.credential.clone_from(&config.credential);
        let role = hello.role;
        control.send(&Message::Hello(hello).encode(), &[]).map_err(io)?;
        Ok(Knock { control, peer, trust, role, fork: ForkMark::new().map_err(io)? })
    }

    /// Takes the answer, if it is there.
    pub(crate) fn answer(&self) -> Result<Option<(Welcome, Vec<OwnedFd>)>> {
        let mut buffer = [0; CONTROL_BYTES_MAX];
        let received = match self.control.recv(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(lost("the broker's socket failed", error)),
        };
        judge(&buffer, received).map(Some)
    }

    /// Checks and maps what the broker granted.
    pub(crate) fn finish(self, welcome: Welcome, fds: Vec<OwnedFd>) -> Result<Attachment> {
        let bad = |what: String| {
            let text = format!("what the broker granted is not valid: {what}; update both sides");
            Error::new(Code::ViolationSegment, Stage::Attach, text)
        };
        let [own, theirs, broker_bell, bell] = <[OwnedFd; 4]>::try_from(fds)
            .map_err(|fds| bad(format!("{} descriptors came, 4 are due", fds.len())))?;
        let geometry = welcome.geometry;
        let (caller_bytes, responder_bytes) = (geometry.caller_bytes(), geometry.responder_bytes());
        let (own_bytes, their_bytes) = match self.role {
            Role::Caller => (caller_bytes, responder_bytes),
            Role::Responder => (responder_bytes, caller_bytes),
        };
        let own = WriteMap::attach(own, own_bytes).map_err(|error| bad(error.to_string()))?;
        let theirs = TrustedMap::attach(theirs, their_bytes, &self.trust)
            .map_err(|error| bad(error.to_string()))?;
        // Later faults on these pages would fall into the first exchange. It may fail: a kernel
        // that cannot do it faults them in one by one.
        let _ = own.populate(0, POPULATE_BYTES.min(own.len()));
        let _ = theirs.populate(0, POPULATE_BYTES.min(theirs.len()));
        Ok(Attachment {
            welcome,
            own,
            theirs,
            bell: Bell::from_fd(bell),
            ringer: Ringer::write(broker_bell),
            control: self.control,
            pidfd: self.peer.pidfd,
            fork: self.fork,
            clock: Clock::new(monotonic_ns(), welcome.now_ns),
        })
    }

    fn wait_blocking(self, patience: &Patience) -> Result<Attachment> {
        let io = |error| lost("waiting for the broker failed", error);
        // The session's own bell comes with the answer; until then an idle one stands in.
        let (bell, _ringing_end) = bell_pair().map_err(io)?;
        let sleeper =
            Sleeper::new(&bell, self.control.as_fd(), self.peer.pidfd.as_fd()).map_err(io)?;
        loop {
            if let Some((welcome, fds)) = self.answer()? {
                return self.finish(welcome, fds);
            }
            let left = patience.left();
            if left.is_zero() {
                return Err(silent());
            }
            let woken = sleeper.sleep(Some(left)).map_err(io)?;
            if woken.exited && !woken.control {
                let exited = io::Error::from(io::ErrorKind::ConnectionReset);
                return Err(lost("the broker exited", exited));
            }
        }
    }
}

/// The error of a broker that took the connection and says nothing.
pub(crate) fn silent() -> Error {
    Error::new(
        Code::BrokerAbsent,
        Stage::Attach,
        "the broker accepted the connection and did not answer in time; is it stopped?",
    )
}

fn lost(what: &str, source: io::Error) -> Error {
    let text = format!("{what}: {source}; look at the broker's log");
    Error::new(Code::BrokerGone, Stage::Attach, text).with_source(source)
}

fn connect(config: &Config) -> Result<(Control, Trust)> {
    let mut tried: Vec<(PathBuf, io::Error)> = Vec::new();
    for path in discover::candidates(config.socket.as_deref()) {
        match Control::connect_trusting(&path) {
            Ok(connected) => return Ok(connected),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let text = format!(
                    "{} may not be opened by this user; ask for membership in its group",
                    path.display()
                );
                return Err(Error::new(Code::NotAllowed, Stage::Attach, text).with_source(error));
            }
            Err(error) => {
                let exists = error.kind() != io::ErrorKind::NotFound;
                tried.push((path, error));
                // The first that exists is the one that was meant.
                if exists {
                    break;
                }
            }
        }
    }
    Err(discover::absent(&tried))
}

fn judge(buffer: &[u8], received: Received) -> Result<(Welcome, Vec<OwnedFd>)> {
    if received.bytes == 0 {
        let hung_up = io::Error::from(io::ErrorKind::UnexpectedEof);
        return Err(lost("the broker hung up", hung_up));
    }
    let bad = |what: String| {
        let text = format!("the answer of the broker is not valid: {what}; update both sides");
        Error::new(Code::ViolationControl, Stage::Attach, text)
    };
    if received.truncated {
        return Err(bad("it was cut by the kernel".to_owned()));
    }
    match Message::parse(&buffer[..received.bytes]) {
        Ok(Message::Welcome(welcome)) => Ok((welcome, received.fds)),
        Ok(Message::Refused(refused)) => Err(Error::new(refused.code, Stage::Attach, refused.text)),
        Ok(Message::Goodbye(goodbye)) => Err(Error::new(goodbye.code, Stage::Attach, goodbye.text)),
        Ok(Message::Draining) => Err(Error::new(
            Code::Draining,
            Stage::Attach,
            "the broker is shutting down and takes nothing new",
        )),
        Ok(_) => Err(bad("it is no welcome".to_owned())),
        Err(error @ ControlError::Abi { .. }) => {
            let text = format!("{error}; update the older of the two");
            Err(Error::new(Code::Abi, Stage::Attach, text))
        }
        Err(error) => Err(bad(error.to_string())),
    }
}

// --- Patience --------------------------------------------------------------------------------

impl Patience {
    pub(crate) fn new(config: &Config, deadline_ns: Option<u64>) -> Patience {
        let wait_ns = u64::try_from(config.attach_wait.as_nanos()).unwrap_or(u64::MAX);
        let now_ns = monotonic_ns();
        let bounded = |ns: u64| deadline_ns.map_or(ns, |deadline_ns| ns.min(deadline_ns));
        Patience {
            until_ns: bounded(now_ns.saturating_add(wait_ns)),
            first_until_ns: bounded(now_ns.saturating_add(wait_ns.max(FIRST_NS_MIN))),
            attempt: 0,
            random: RandomState::new(),
            quota_is_final: config.quota_is_final,
            before: None,
        }
    }

    /// Time until the present attempt has to be over.
    pub(crate) fn left(&self) -> Duration {
        let until_ns = if self.attempt == 0 { self.first_until_ns } else { self.until_ns };
        Duration::from_nanos(until_ns.saturating_sub(monotonic_ns()))
    }

    /// How long to wait before the next attempt.
    ///
    /// # Errors
    /// The error itself when it is final or the time is up.
    // Bound: waits end at `until_ns`.
    pub(crate) fn wait_after(&mut self, error: Error) -> Result<Duration> {
        let final_quota = self.quota_is_final && error.code() == Code::QuotaExceeded;
        if final_quota || !error.is_retryable() {
            return Err(error);
        }
        let left = Duration::from_nanos(self.until_ns.saturating_sub(monotonic_ns()));
        if left.is_zero() {
            return Err(self.before.take().unwrap_or(error));
        }
        self.before = Some(error);
        let mut hasher = self.random.build_hasher();
        hasher.write_u32(self.attempt);
        let delay = BACKOFF.delay(self.attempt, hasher.finish());
        self.attempt = self.attempt.saturating_add(1);
        Ok(delay.min(left))
    }
}

// --- Clock -----------------------------------------------------------------------------------

impl Clock {
    fn new(ours_ns: u64, brokers_ns: u64) -> Clock {
        let offset_ns = brokers_ns.wrapping_sub(ours_ns).cast_signed();
        let far = offset_ns.unsigned_abs() > CLOCK_OFFSET_NS_MIN;
        Clock { offset_ns: if far { offset_ns } else { 0 } }
    }

    pub(crate) fn to_broker(self, ours_ns: u64) -> u64 {
        ours_ns.saturating_add_signed(self.offset_ns)
    }

    /// Age of a time of the broker's clock.
    pub(crate) fn age(self, brokers_ns: u64) -> Duration {
        Duration::from_nanos(self.to_broker(monotonic_ns()).saturating_sub(brokers_ns))
    }
}

/// Bytes of an arena that holds one body of this size, head and padding included; `None` beyond
/// the largest possible one.
pub(crate) fn arena_for(geometry: &Geometry, chunk_bytes: u64) -> Option<Geometry> {
    if chunk_bytes <= geometry.arena_bytes() {
        return Some(*geometry);
    }
    let bytes = chunk_bytes.checked_next_power_of_two()?;
    Geometry::new(geometry.lanes(), geometry.lane_bytes(), bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_difference_of_the_clocks_is_delay_and_a_large_one_a_namespace() {
        assert_eq!(Clock::new(5_000_000_000, 5_900_000_000).to_broker(7), 7);
        assert_eq!(Clock::new(5_000_000_000, 8_000_000_000).to_broker(7), 3_000_000_007);
        assert_eq!(
            Clock::new(8_000_000_000, 5_000_000_000).to_broker(4_000_000_000),
            1_000_000_000
        );
    }

    #[test]
    fn a_final_refusal_is_not_tried_again() {
        let mut patience = Patience::new(&Config::default(), None);
        let refused = Error::new(Code::NotAllowed, Stage::Attach, "uid 7 is not allowed");
        assert_eq!(patience.wait_after(refused).unwrap_err().code(), Code::NotAllowed);
        let absent = || Error::new(Code::BrokerAbsent, Stage::Attach, "nobody there");
        assert!(patience.wait_after(absent()).unwrap() <= Duration::from_millis(10));
        let mut patience = Patience::new(&Config::default(), Some(0));
        assert_eq!(patience.wait_after(absent()).unwrap_err().code(), Code::BrokerAbsent);
    }

    #[test]
    fn a_large_body_asks_for_a_large_arena() {
        let geometry = Geometry::default();
        assert_eq!(arena_for(&geometry, 100), Some(geometry));
        let larger = arena_for(&geometry, (16 << 20) + 1).unwrap();
        assert_eq!(larger.arena_bytes(), 32 << 20);
        assert_eq!(arena_for(&geometry, (1 << 30) + 1), None);
    }
}
