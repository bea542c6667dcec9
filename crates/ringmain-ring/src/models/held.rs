//! The held doorbell: whoever finds the sleeper due leaves the bell to a releaser, and whoever
//! finds it held leaves it alone. A lost wake-up is a deadlock to loom.
//!
//! Holding and releasing belong to the broker's sessions, so it is not their code that is checked
//! here but the same steps in the same order over this crate's own lanes and [`Ring`]: a
//! [`Doorbell`] for the queue of held bells and one for the descriptor that the sleeper sleeps on.
//! Time is a word of each writer that says how often a bell that it finds held was held for too
//! long. What the model leaves out is a queue that nobody serves, and rings that are slow.
//!
//! The releaser is ended by the sleeper, when all frames were read, and by nobody else: a word
//! from a writer would make its publication known to the releaser, and hide what a fence is for.

use super::bell::sleep_and_read;
use super::*;
use crate::Ring;
use crate::cell::AtomicU64;
use crate::mutant::Mutant;

const SIZES: Sizes = Sizes { lines: 8, quarter: 2, reserve: 0, terminal: 1 };

/// What the writers and the releaser share.
struct Held {
    ring: Ring<LoomMemory>,
    /// Not 0: the bell is held, since that time.
    held: AtomicU64,
    /// What the releaser sleeps on, rung by whoever holds the bell.
    told: Doorbell,
    /// What the sleeper sleeps on.
    bell: Doorbell,
    is_done: Mutex<bool>,
}

impl Held {
    fn new(small: &Small) -> Held {
        Held {
            ring: Ring::new(small.caller.clone(), 0),
            held: AtomicU64::new(0),
            told: Doorbell::new(),
            bell: Doorbell::new(),
            is_done: Mutex::new(false),
        }
    }

    /// After a publication: sees to it that a sleeper is rung, by somebody. As often as `lapses`
    /// says, the bell was held for too long by then.
    fn ring_with_others(&self, lapses: &mut u8) {
        let early =
            mutant::is(Mutant::HeldReadBeforeLook).then(|| self.held.load(Ordering::Relaxed));
        if !self.ring.is_due() {
            return;
        }
        let held = early.unwrap_or_else(|| self.held.load(Ordering::Relaxed));
        if held == 0 {
            if self.hold() {
                self.told.ring();
            }
        } else if *lapses > 0 {
            *lapses -= 1;
            self.ring_myself(held);
        }
    }

    fn ring_myself(&self, held: u64) {
        let later = held + 1;
        if mutant::is(Mutant::HeldTakenBack) {
            self.held.store(later, Ordering::Release);
        } else {
            let _ = self.held.compare_exchange(held, later, Ordering::Release, Ordering::Relaxed);
        }
        if self.ring.due() {
            self.bell.ring();
        }
    }

    fn hold(&self) -> bool {
        self.held.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn release(&self) {
        let late = mutant::is(Mutant::HeldClearedLate);
        if !late {
            self.held.swap(0, Ordering::SeqCst);
        }
        if self.ring.due() {
            self.bell.ring();
        }
        if late {
            self.held.swap(0, Ordering::SeqCst);
        }
    }

    /// The releaser: rings for whoever left the bell to it.
    fn serve(&self) {
        // Bound: one turn per holding, and one for the end.
        loop {
            self.told.sleep();
            if *self.is_done.lock().unwrap() {
                return;
            }
            self.release();
        }
    }

    fn end(&self) {
        *self.is_done.lock().unwrap() = true;
        self.told.ring();
    }
}

/// Two writers with `frames` frames each on a lane of its own, the first with so many `lapses`, the
/// releaser, and the sleeper.
fn held(name: &str, floor: usize, preemptions: usize, frames: u8, lapses: u8) {
    check(name, floor, Some(preemptions), move || {
        let small = Small::new(SIZES);
        let held = Arc::new(Held::new(&small));
        let mut parties: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        for lane in 0..2 {
            let (mut writer, held) = (small.writer(lane), held.clone());
            let mut lapses = if lane == 0 { lapses } else { 0 };
            parties.push(Box::new(move || {
                writer.begin(ExchangeId(lane as u64)).unwrap();
                for mark in 1..=frames {
                    let kind = if mark == frames { Kind::End } else { Kind::Body };
                    assert!(write(&mut writer, kind, &[mark]));
                    held.ring_with_others(&mut lapses);
                }
            }));
        }
        let releaser = held.clone();
        parties.push(Box::new(move || releaser.serve()));
        parties.push(Box::new(move || {
            sleep_and_read(&small, 2, frames, &held.bell);
            held.end();
        }));
        run(parties);
    });
}

#[test]
fn loom_held() {
    held("held, 2 writers, 1 bell", 12_000, 2, 1, 0);
}

#[test]
fn loom_held_for_too_long() {
    held("held for too long, 2 writers, 1 bell", 100_000, 2, 2, 1);
}
