//! Ringing a peer, and keeping a peer that makes it expensive from costing others.
//!
//! Whoever waits on an eventfd decides what a ring costs: a peer can hang any number of poll
//! entries onto it. So rings are timed. After two in a row above [`SLOW_NS`] on one bell, or when
//! the slow rings of a uid together took too much time, the uid is rung from a thread of its own,
//! at most once per 20 times the last cost; meanwhile rings of one session coalesce. Only time
//! ends the exception: a pause in which a slow ring was possible and none came. What a uid's other
//! bells cost proves nothing of this one, and a bell that is cheap right after it was dear has
//! only had its load taken off for a moment.
//!
//! A ring also takes long when the one who is woken runs at once in the ringer's place. So the
//! clock alone only raises a suspicion; while it lasts, what counts is the time of the ringing
//! thread itself, which costs one more system call per ring.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use ringmain_ring::Ring;
use ringmain_shm::{ReadMap, Ringer, RingerKind, monotonic_ns, thread_cpu_ns};

use super::held::{HELD_NS_MAX, HeldBells};

/// A ring above this is slow.
const SLOW_NS: u64 = 100_000;
/// Slow rings in a row that move a uid to the slow thread.
const STRIKES: u32 = 2;
/// A slow uid is rung once per this many times its last cost, so it takes a twentieth of a CPU.
const PACE: u64 = 20;
/// How long a suspicion lasts.
const SUSPICION_NS: u64 = 1_000_000_000;
/// Longest pause between two rings of a slow uid.
const PAUSE_NS_MAX: u64 = 500_000_000;
/// Time that the slow rings of a uid may take in a burst, over however many bells, before it is
/// slow; it is earned back at a twentieth of a CPU.
const DEBT_NS_MAX: u64 = 50_000_000;

/// The bell of one session's peer.
pub(crate) struct PeerBell {
    ring: Ring<ReadMap>,
    ringer: Ringer,
    pace: Arc<Pace>,
    slow: Arc<SlowRings>,
    strikes: Strikes,
    is_pending: AtomicBool,
    held: Arc<HeldBells>,
    /// Since when it is held for the tasks beside the one that would have rung; 0: it is not.
    held_ns: AtomicU64,
}

/// Slow rings in a row of one bell.
#[derive(Debug, Default)]
struct Strikes {
    count: AtomicU32,
    /// Until then a cheap ring wipes nothing out.
    calm_ns: AtomicU64,
}

/// What rings of one uid cost lately.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the slow thread may ring next.
    due_ns: AtomicU64,
    /// Until when rings are measured by the time of the thread that rings.
    suspect_until_ns: AtomicU64,
    /// When the uid is like any other again.
    slow_until_ns: AtomicU64,
    debt: Mutex<Debt>,
}

/// Time that slow rings took and that is not earned back.
#[derive(Debug, Default)]
struct Debt {
    owed_ns: u64,
    at_ns: u64,
}

/// The bells of a broker: a pace per uid, and the slow thread once it is needed.
#[derive(Default)]
pub(crate) struct Bells {
    paces: Mutex<HashMap<u32, Weak<Pace>>>,
    slow: Arc<SlowRings>,
    held: Arc<HeldBells>,
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

    /// The same where tasks beside this one may have something for the peer too: what they all
    /// write is rung for once, soon. See [`HeldBells`].
    #[inline]
    pub fn ring_with_others(self: &Arc<Self>) {
        if self.ring.is_due() {
            self.hold();
        }
    }

    fn hold(self: &Arc<Self>) {
        let now_ns = monotonic_ns();
        // Whoever releases the bell clears this before he looks whether the peer sleeps, with a
        // fence in between, and a fence stood in the look just made: so either this is seen
        // cleared, or the publication before is seen by a peer that arms later, or by that look.
        let held_ns = self.held_ns.load(Relaxed);
        if held_ns == 0 {
            let is_first = self.held_ns.compare_exchange(0, now_ns, Relaxed, Relaxed).is_ok();
            if is_first && !self.held.hold(self) {
                self.release();
            }
        } else if now_ns.saturating_sub(held_ns) > HELD_NS_MAX {
            // Not where it was released meanwhile: it stands in no queue then. Release: whoever
            // releases it comes after this, and so does whatever finds it released.
            let _ = self.held_ns.compare_exchange(held_ns, now_ns, Release, Relaxed);
            self.ring_if_due();
        }
    }

    /// Held no longer: rings if the peer sleeps.
    pub fn release(self: &Arc<Self>) {
        self.held_ns.swap(0, SeqCst);
        self.ring_if_due();
    }

    /// Rings whether or not the peer said that it sleeps: it waits for a cursor.
    pub fn ring(self: &Arc<Self>) {
        self.ring_now();
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
        let now_ns = monotonic_ns();
        match self.pace.is_slow(now_ns) {
            true => self.defer(),
            false => self.ring_timed(now_ns),
        }
    }

    fn ring_timed(&self, before_ns: u64) {
        let measured = self.pace.is_suspect(before_ns).then(thread_cpu_ns);
        // A peer that cannot be rung any more is found by its control socket or its pidfd.
        let _ = self.ringer.ring();
        let after_ns = monotonic_ns();
        let is_quick = after_ns.saturating_sub(before_ns) <= SLOW_NS;
        match measured {
            _ if is_quick => self.strikes.cheap(after_ns),
            None => self.pace.suspect(after_ns),
            Some(before) => {
                let cost_ns = thread_cpu_ns().saturating_sub(before);
                self.pace.note(&self.strikes, after_ns, cost_ns);
            }
        }
    }
}

impl Strikes {
    /// Notes a cheap ring.
    fn cheap(&self, now_ns: u64) {
        // Loads, which leave the line shared, are the common case.
        if self.count.load(Relaxed) != 0 && self.calm_ns.load(Relaxed) <= now_ns {
            self.count.store(0, Relaxed);
        }
    }

    /// Notes a slow ring; true if it is one too many.
    fn slow(&self, calm_ns: u64) -> bool {
        self.calm_ns.store(calm_ns, Relaxed);
        self.count.fetch_add(1, Relaxed).saturating_add(1) >= STRIKES
    }
}

impl Pace {
    #[inline]
    fn is_slow(&self, now_ns: u64) -> bool {
        now_ns < self.slow_until_ns.load(Relaxed)
    }

    fn is_suspect(&self, now_ns: u64) -> bool {
        now_ns < self.suspect_until_ns.load(Relaxed)
    }

    #[cold]
    fn suspect(&self, now_ns: u64) {
        self.suspect_until_ns.fetch_max(now_ns.saturating_add(SUSPICION_NS), Relaxed);
    }

    /// Notes what a ring cost the one who rang.
    fn note(&self, strikes: &Strikes, now_ns: u64, cost_ns: u64) {
        match cost_ns <= SLOW_NS {
            true => strikes.cheap(now_ns),
            false => self.note_slow(strikes, now_ns, cost_ns),
        }
    }

    #[cold]
    fn note_slow(&self, strikes: &Strikes, now_ns: u64, cost_ns: u64) {
        let pause_ns = cost_ns.saturating_mul(PACE).min(PAUSE_NS_MAX);
        let due_ns = now_ns.saturating_add(pause_ns);
        self.suspect(due_ns);
        let is_struck = strikes.slow(due_ns);
        let is_in_debt = self.debt.lock().add(now_ns, cost_ns);
        if is_struck || is_in_debt || self.is_slow(now_ns) {
            // One more pause beyond the next ring: the slow thread gets to try first.
            let until_ns = due_ns.saturating_add(pause_ns);
            self.due_ns.fetch_max(due_ns, Relaxed);
            self.slow_until_ns.fetch_max(until_ns, Relaxed);
        }
    }
}

impl Debt {
    /// True if it is too much by now.
    fn add(&mut self, now_ns: u64, cost_ns: u64) -> bool {
        let earned_ns = now_ns.saturating_sub(self.at_ns) / PACE;
        self.owed_ns = self.owed_ns.saturating_sub(earned_ns).saturating_add(cost_ns);
        self.at_ns = now_ns;
        self.owed_ns > DEBT_NS_MAX
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
            strikes: Strikes::default(),
            is_pending: AtomicBool::new(false),
            held: self.held.clone(),
            held_ns: AtomicU64::new(0),
        })
    }

    /// The bells that wait for the tasks beside those that would have rung them.
    pub fn held(&self) -> &Arc<HeldBells> {
        &self.held
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
                    bell.ring_timed(monotonic_ns());
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

    const MS: u64 = 1_000_000;

    #[test]
    fn two_slow_rings_in_a_row_of_one_bell_defer_and_time_ends_it() {
        let (pace, bell) = (Pace::default(), Strikes::default());
        pace.note(&bell, 0, SLOW_NS + 1);
        assert!(!pace.is_slow(0));
        let calm_ns = bell.calm_ns.load(Relaxed);
        pace.note(&bell, calm_ns, SLOW_NS);
        pace.note(&bell, calm_ns, SLOW_NS + 1);
        assert!(!pace.is_slow(calm_ns), "a cheap ring in time wiped the first one out");
        pace.note(&bell, calm_ns + 7, 17 * MS);
        assert!(pace.is_slow(calm_ns + 7));
        let due_ns = calm_ns + 7 + 340 * MS;
        assert_eq!(pace.due_ns.load(Relaxed), due_ns);
        pace.note(&bell, due_ns, 5_000);
        assert!(pace.is_slow(due_ns), "a cheap ring proves nothing");
        assert!(pace.is_slow(due_ns + 340 * MS - 1) && !pace.is_slow(due_ns + 340 * MS));
        pace.note(&bell, due_ns, u64::MAX);
        assert_eq!(pace.due_ns.load(Relaxed), due_ns + PAUSE_NS_MAX);
    }

    #[test]
    fn a_suspicion_passes_and_is_held_against_nobody() {
        let pace = Pace::default();
        assert!(!pace.is_suspect(0));
        pace.suspect(5);
        pace.suspect(4);
        assert!(pace.is_suspect(SUSPICION_NS + 4) && !pace.is_suspect(SUSPICION_NS + 5));
        assert!(!pace.is_slow(5));
    }

    /// A uid with a dear bell and cheap ones is as slow as with the dear one alone.
    #[test]
    fn cheap_rings_of_other_bells_and_moments_change_nothing() {
        let (pace, dear, cheap) = (Pace::default(), Strikes::default(), Strikes::default());
        pace.note(&dear, 0, 17 * MS);
        pace.note(&cheap, MS, 5_000);
        pace.note(&dear, 2 * MS, 5_000);
        pace.note(&dear, 20 * MS, 17 * MS);
        assert!(pace.is_slow(20 * MS));
    }

    /// So many bells that none is dear twice still make their uid slow.
    #[test]
    fn slow_rings_over_many_bells_add_up() {
        let pace = Pace::default();
        let rings = (1..).find(|ring| {
            pace.note(&Strikes::default(), ring * 17 * MS, 17 * MS);
            pace.is_slow(ring * 17 * MS)
        });
        assert_eq!(rings, Some(4));
        let pace = Pace::default();
        for ring in 0..100 {
            pace.note(&Strikes::default(), ring * 400 * MS, 17 * MS);
            assert!(!pace.is_slow(ring * 400 * MS), "a twentieth of the time is no debt");
        }
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
        let due_ns = monotonic_ns() + 20 * MS;
        peer.pace.due_ns.store(due_ns, Relaxed);
        peer.pace.slow_until_ns.store(u64::MAX, Relaxed);
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
