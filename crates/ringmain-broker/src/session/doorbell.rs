//! Ringing a peer, and keeping a peer that makes it expensive from costing others.
//!
//! Whoever waits on an eventfd decides what a ring costs: a peer can hang any number of poll
//! entries onto it. So rings are timed. After two in a row above [`SLOW_NS`] the peer's uid is
//! rung from a thread of its own, at most once per 20 times the last cost; until then rings of
//! one session coalesce. A cheap ring from there ends the exception.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use ringmain_ring::Ring;
use ringmain_shm::{ReadMap, Ringer, RingerKind, monotonic_ns};

/// A ring above this is slow.
const SLOW_NS: u64 = 100_000;
/// Slow rings in a row that move a uid to the slow thread.
const STRIKES: u32 = 2;
/// A slow uid is rung once per this many times its last cost, so it takes a twentieth of a CPU.
const PACE: u64 = 20;
/// Longest pause between two rings of a slow uid.
const PAUSE_NS_MAX: u64 = 500_000_000;

/// The bell of one session's peer.
pub(crate) struct PeerBell {
    ring: Ring<ReadMap>,
    ringer: Ringer,
    pace: Arc<Pace>,
    slow: Arc<SlowRings>,
    is_pending: AtomicBool,
}

/// What rings of one uid cost lately.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    strikes: AtomicU32,
    due_ns: AtomicU64,
}

/// The bells of a broker: a pace per uid, and the slow thread once it is needed.
#[derive(Default)]
pub(crate) struct Bells {
    paces: Mutex<HashMap<u32, Weak<Pace>>>,
    slow: Arc<SlowRings>,
}

#[derive(Default)]
pub(crate) struct SlowRings {
    queue: Mutex<SlowQueue>,
    changed: Condvar,
}

/// Bound: one entry per session, kept by its pending bit.
#[derive(Default)]
struct SlowQueue {
    pending: Vec<Arc<PeerBell>>,
    is_running: bool,
    is_closed: bool,
}

impl PeerBell {
    /// Rings if the peer sleeps. Called after each batch of publications, before waiting.
    #[inline]
    pub fn ring_if_due(self: &Arc<Self>) {
        if self.ring.due() {
            self.ring_now();
        }
    }

    /// How it rings.
    pub fn kind(&self) -> RingerKind {
        self.ringer.kind()
    }

    #[cold]
    fn defer(self: &Arc<Self>) {
        if !self.is_pending.swap(true, Relaxed) {
            SlowRings::add(&self.slow, self.clone());
        }
    }

    fn ring_now(self: &Arc<Self>) {
        match self.pace.is_slow() {
            true => self.defer(),
            false => self.ring_timed(),
        }
    }

    fn ring_timed(&self) {
        let before_ns = monotonic_ns();
        // A peer that cannot be rung any more is found by its control socket or its pidfd.
        let _ = self.ringer.ring();
        let after_ns = monotonic_ns();
        self.pace.note(after_ns, after_ns.saturating_sub(before_ns));
    }
}

impl Pace {
    fn is_slow(&self) -> bool {
        self.strikes.load(Relaxed) >= STRIKES
    }

    fn note(&self, now_ns: u64, cost_ns: u64) {
        if cost_ns <= SLOW_NS {
            // A load, which leaves the line shared, is the common case.
            if self.strikes.load(Relaxed) != 0 {
                self.strikes.store(0, Relaxed);
            }
            return;
        }
        self.strikes.fetch_add(1, Relaxed);
        let pause_ns = cost_ns.saturating_mul(PACE).min(PAUSE_NS_MAX);
        self.due_ns.store(now_ns.saturating_add(pause_ns), Relaxed);
    }
}

impl Bells {
    /// The bell of a session of this uid.
    pub fn bell(&self, uid: u32, ring: Ring<ReadMap>, ringer: Ringer) -> Arc<PeerBell> {
        Arc::new(PeerBell {
            ring,
            ringer,
            pace: self.pace(uid),
            slow: self.slow.clone(),
            is_pending: AtomicBool::new(false),
        })
    }

    fn pace(&self, uid: u32) -> Arc<Pace> {
        let mut paces = self.paces.lock();
        if let Some(pace) = paces.get(&uid).and_then(Weak::upgrade) {
            return pace;
        }
        // Bound: one entry per uid with a session, and the one that is added.
        paces.retain(|_, pace| pace.strong_count() > 0);
        let pace = Arc::new(Pace::default());
        paces.insert(uid, Arc::downgrade(&pace));
        pace
    }
}

impl Drop for Bells {
    fn drop(&mut self) {
        let mut queue = self.slow.queue.lock();
        queue.is_closed = true;
        queue.pending.clear();
        self.slow.changed.notify_one();
    }
}

impl SlowRings {
    fn add(rings: &Arc<SlowRings>, bell: Arc<PeerBell>) {
        let mut queue = rings.queue.lock();
        if queue.is_closed {
            return;
        }
        queue.pending.push(bell);
        if !queue.is_running {
            let thread = std::thread::Builder::new().name("slow-rings".to_owned());
            let run = rings.clone();
            // Without a thread the rings stay pending until one can be made.
            queue.is_running = thread.spawn(move || run.run()).is_ok();
        }
        rings.changed.notify_one();
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        // Bound: ends with the broker; every round rings, waits for a due time, or for a change.
        while !queue.is_closed {
            let now_ns = monotonic_ns();
            let is_due = |bell: &Arc<PeerBell>| bell.pace.due_ns.load(Relaxed) <= now_ns;
            if let Some(at) = queue.pending.iter().position(is_due) {
                let bell = queue.pending.swap_remove(at);
                parking_lot::MutexGuard::unlocked(&mut queue, || {
                    // Cleared first: a ring that comes now is a new one.
                    bell.is_pending.store(false, Relaxed);
                    bell.ring_timed();
                });
                continue;
            }
            let due = queue.pending.iter().map(|bell| bell.pace.due_ns.load(Relaxed)).min();
            match due {
                None => self.changed.wait(&mut queue),
                Some(due_ns) => {
                    let pause = Duration::from_nanos(due_ns.saturating_sub(now_ns));
                    self.changed.wait_for(&mut queue, pause);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use ringmain_ring::Armed;
    use ringmain_shm::{Compat, PeerSegment, WriteMap, bell_pair};
    use ringmain_wire::Geometry;

    use super::*;

    #[test]
    fn two_slow_rings_in_a_row_defer_and_a_cheap_one_ends_it() {
        let pace = Pace::default();
        pace.note(0, SLOW_NS + 1);
        assert!(!pace.is_slow());
        pace.note(0, SLOW_NS);
        pace.note(0, SLOW_NS + 1);
        assert!(!pace.is_slow());
        pace.note(7, 17_000_000);
        assert!(pace.is_slow());
        assert_eq!(pace.due_ns.load(Relaxed), 7 + 340_000_000);
        pace.note(0, u64::MAX);
        assert_eq!(pace.due_ns.load(Relaxed), PAUSE_NS_MAX);
        pace.note(0, 5_000);
        assert!(!pace.is_slow());
    }

    /// Rings of a slow uid come late, from the other thread, and as one.
    #[test]
    fn deferred_rings_coalesce_and_come() {
        let geometry = Geometry::new(1, 4096, 1 << 16).unwrap();
        let bytes = geometry.caller_bytes();
        let segment = PeerSegment::create("test", bytes, &Compat::default()).unwrap();
        let caller = WriteMap::attach(segment.fd, bytes).unwrap();
        let mut armed = Armed::new(caller, Geometry::CALLER_ARMED);
        let (bell, ringer) = bell_pair().unwrap();
        let bells = Bells::default();
        let ring = Ring::new(segment.map, Geometry::CALLER_ARMED);
        let peer = bells.bell(7, ring, Ringer::write(ringer));
        peer.pace.strikes.store(STRIKES, Relaxed);
        peer.pace.due_ns.store(monotonic_ns() + 20_000_000, Relaxed);
        for _ in 0..3 {
            armed.arm();
            peer.ring_if_due();
        }
        assert!(peer.is_pending.load(Relaxed));
        let mut counter = std::fs::File::from(OwnedFd::from(bell));
        let mut count = [0; 8];
        // Bound: by the test runner; the ring is due in 20 ms.
        while counter.read_exact(&mut count).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(u64::from_ne_bytes(count), 1);
        let slow = Arc::downgrade(&bells.slow);
        drop((bells, peer));
        // The thread ends with the broker.
        while slow.strong_count() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn paces_are_shared_per_uid_and_go_with_the_last_session() {
        let bells = Bells::default();
        let (a, b) = (bells.pace(1), bells.pace(1));
        assert!(Arc::ptr_eq(&a, &b));
        drop((a, b));
        let _other = bells.pace(2);
        assert_eq!(bells.paces.lock().len(), 1);
    }
}
