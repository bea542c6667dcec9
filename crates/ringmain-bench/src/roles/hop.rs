//! Round trips: through a broker, and with the bare primitives.

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::{Ordering, fence};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{read, write};
use ringmain_client::{Config, Session, Wait};
use ringmain_shm::{ReadMap, monotonic_ns};
use serde::{Deserialize, Serialize};

use super::answer;
use super::meet::{Meet, receive};
use crate::error::{Result, Tried};
use crate::harness::Latency;
use crate::harness::latency::Buckets;

/// How long to measure, and how many round trips each look at the clock covers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Pace {
    pub warm_up_ms: u64,
    pub measure_ms: u64,
    pub batch: u32,
}

impl Pace {
    /// The same time in so many runs.
    pub(crate) fn over(self, runs: u32) -> Pace {
        let each = |ms: u64| ms / u64::from(runs.max(1));
        Pace { warm_up_ms: each(self.warm_up_ms), measure_ms: each(self.measure_ms), ..self }
    }
}

/// Round trips with a process of the harness.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ping {
    pub meet: Meet,
    pub pace: Pace,
}

/// Round trips with a broker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SessionPing {
    pub socket: PathBuf,
    pub spin: bool,
    pub pace: Pace,
}

/// What was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hops {
    /// Median of the time per round trip.
    pub median_ns: f64,
    pub buckets: Buckets,
}

/// `ping` -> END through the broker's session: validated, charged, answered.
pub(crate) fn session_ping(told: &SessionPing) -> Result<()> {
    let mut config = Config::at(&told.socket);
    config.wait = if told.spin { Wait::Spin } else { Wait::Block };
    let mut session = Session::attach(config)?;
    answer(&measure(told.pace, || Ok(session.ping()?))?)
}

/// Answers each ring of one eventfd by a ring of another.
pub(crate) fn eventfd_echo(meet: &Meet) -> Result<()> {
    let control = meet.host()?;
    let made = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC).tried("eventfd");
    let (ping, pong) = (made()?, made()?);
    control.send(b"bells", &[ping.as_fd(), pong.as_fd()]).tried("passing eventfds")?;
    let one = 1u64.to_ne_bytes();
    let mut count = [0; 8];
    // Bound: the life of the parent, which ends this process when the other one is done.
    loop {
        read(&ping, &mut count).tried("reading an eventfd")?;
        write(&pong, &one).tried("writing an eventfd")?;
    }
}

/// Rings one eventfd and waits for the other: two system calls on each side of a round trip.
pub(crate) fn eventfd_ping(told: &Ping) -> Result<()> {
    let control = told.meet.join()?;
    let [ping, pong] = receive(&control)?;
    // Blocking descriptors: the cheapest way to sleep that there is.
    debug_assert!(ping.as_raw_fd() >= 0);
    let one = 1u64.to_ne_bytes();
    let mut count = [0; 8];
    answer(&measure(told.pace, || {
        write(&ping, &one).tried("writing an eventfd")?;
        read(&pong, &mut count).tried("reading an eventfd")?;
        Ok(())
    })?)
}

/// One line each way, nothing else in the segments.
const LINE_BYTES: usize = 4096;
const WORD: usize = 128;

/// Answers each new value of one line by writing it to another.
pub(crate) fn cache_echo(meet: &Meet) -> Result<()> {
    let shared = meet.host_shared(LINE_BYTES, LINE_BYTES)?;
    let mut next = 1;
    // Bound: the life of the parent, which ends this process when the other one is done.
    loop {
        await_word(&shared.peer, next);
        shared.own.store_release(WORD, next);
        next += 1;
    }
}

/// Writes a new value to one line and spins until it comes back on the other.
pub(crate) fn cache_ping(told: &Ping) -> Result<()> {
    let shared = told.meet.join_shared(LINE_BYTES, LINE_BYTES)?;
    let mut next = 0;
    answer(&measure(told.pace, || {
        next += 1;
        shared.own.store_release(WORD, next);
        await_word(&shared.peer, next);
        Ok(())
    })?)
}

/// Spins without a pause: on two idle cores nothing is faster.
fn await_word(peer: &ReadMap, value: u64) {
    while peer.load(WORD) != value {}
    fence(Ordering::Acquire);
}

/// A closed loop: the next round trip begins when the last one is over, so each latency is seen.
pub(super) fn measure(pace: Pace, mut hop: impl FnMut() -> Result<()>) -> Result<Hops> {
    let batch = pace.batch.max(1);
    let warm_until = monotonic_ns() + pace.warm_up_ms * 1_000_000;
    while monotonic_ns() < warm_until {
        hop()?;
    }
    let mut batches = Latency::new();
    let mut hops = Latency::new();
    let mut start = monotonic_ns();
    let until = start + pace.measure_ms * 1_000_000;
    while start < until {
        for _ in 0..batch {
            hop()?;
        }
        let end = monotonic_ns();
        batches.record(end - start);
        hops.record((end - start) / u64::from(batch));
        start = end;
    }
    let median_ns = batches.quantile(0.5) as f64 / f64::from(batch);
    Ok(Hops { median_ns, buckets: hops.buckets() })
}
