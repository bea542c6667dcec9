//! Who has to be rung, and when: the armed word.
//!
//! The sleeper owns an [`Armed`], the other side a [`Ring`] over the same word. Each arming stores
//! a number never used before, so that a ring for an earlier sleep is never taken for one of
//! this: with a mere flag, a ringer that was held up between its look and its ring could answer
//! for a sleep that began later, and that sleep would never end.

use std::sync::atomic::Ordering;

use crossbeam_utils::CachePadded;

use crate::cell::AtomicU64;
use crate::memory::{Memory, MemoryMut};
use crate::mutant::{self, Mutant};

/// The sleeper's side of an armed word: one per session and direction, whatever the number of
/// lanes. `W` is the sleeper's own segment.
#[derive(Debug)]
pub struct Armed<W> {
    own: W,
    offset: usize,
    epoch: u64,
}

/// The ringer's side of an armed word. `R` is the sleeper's segment.
///
/// One per session and direction, shared by all lanes (in an `Arc`): the number that was rung for
/// last is private to the process and the same for all of them.
#[derive(Debug)]
pub struct Ring<R> {
    peer: R,
    offset: usize,
    rung: CachePadded<AtomicU64>,
}

impl<W: MemoryMut> Armed<W> {
    /// The armed word at `offset` of the sleeper's own segment.
    pub fn new(own: W, offset: usize) -> Self {
        Armed { own, offset, epoch: 0 }
    }

    /// "Wake me." After this call, look once more at everything this bell covers, and sleep only
    /// if there is nothing.
    pub fn arm(&mut self) {
        // Odd numbers mean armed; 2^63 armings outlast any session.
        self.epoch = if mutant::is(Mutant::NoEpoch) { 1 } else { self.epoch.wrapping_add(1) | 1 };
        self.own.store(self.offset, self.epoch);
        // Pairs with: the fence in `Ring::due`. Either the ringer sees this number, or the look
        // that follows sees what the ringer published.
        if !mutant::is(Mutant::NoSleeperFence) {
            W::fence(Ordering::SeqCst);
        }
    }

    /// "I am awake."
    pub fn disarm(&mut self) {
        self.epoch = if mutant::is(Mutant::NoEpoch) { 0 } else { self.epoch.wrapping_add(1) & !1 };
        self.own.store(self.offset, self.epoch);
    }

    /// Sleeps, unless there is something to do: arms, looks, calls `sleep` only if `is_ready` says
    /// no, and disarms. Returns what `sleep` returned.
    ///
    /// `is_ready` looks at *everything* that this bell covers: every waiting lane or entry, loans,
    /// cancels, starved lanes, the end of the session.
    pub fn park<T>(
        &mut self,
        mut is_ready: impl FnMut() -> bool,
        sleep: impl FnOnce() -> T,
    ) -> Option<T> {
        let early = mutant::is(Mutant::LookOnlyBeforeArming) && is_ready();
        self.arm();
        let ready = if mutant::is(Mutant::LookOnlyBeforeArming) { early } else { is_ready() };
        let woken = (!ready).then(sleep);
        self.disarm();
        woken
    }
}

impl<R: Memory> Ring<R> {
    /// The armed word at `offset` of the sleeper's segment.
    pub fn new(peer: R, offset: usize) -> Self {
        Ring { peer, offset, rung: CachePadded::new(AtomicU64::new(0)) }
    }

    /// Whether [`Ring::due`] would say that the sleeper has to be rung. Whoever finds so and lets
    /// another ring sees to it that the other asks `due` after this.
    #[inline]
    pub fn is_due(&self) -> bool {
        // Pairs with: the fence in `Armed::arm`, as in `due`.
        if !mutant::is(Mutant::NoLookFence) {
            R::fence(Ordering::SeqCst);
        }
        let epoch = self.peer.load(self.offset);
        epoch & 1 == 1 && self.rung.load(Ordering::Relaxed) != epoch
    }

    /// Whether the sleeper has to be rung now. True once per sleep.
    ///
    /// Called after a batch of publications, on any thread, and always before whoever published
    /// waits for anything. If the ring then comes late it wakes the sleeper for nothing, once.
    #[inline]
    #[must_use = "a sleeper that is due sleeps until it is rung"]
    pub fn due(&self) -> bool {
        // Pairs with: the fence in `Armed::arm`. It stands after the publications it covers.
        if !mutant::is(Mutant::NoWriterFence) && !mutant::is(Mutant::FenceBeforePublish) {
            R::fence(Ordering::SeqCst);
        }
        let epoch = self.peer.load(self.offset);
        if epoch & 1 == 0 {
            return false;
        }
        // Relaxed: only the number itself matters, and a swap always sees the latest one.
        self.rung.swap(epoch, Ordering::Relaxed) != epoch
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::HeapMemory;

    fn pair() -> (Armed<HeapMemory>, Ring<HeapMemory>, HeapMemory) {
        let memory = HeapMemory::new(64);
        (Armed::new(memory.clone(), 0), Ring::new(memory.clone(), 0), memory)
    }

    #[test]
    fn one_sleep_is_rung_once() {
        let (mut armed, ring, _) = pair();
        assert!(!ring.is_due() && !ring.due());
        armed.arm();
        assert!(ring.is_due() && ring.is_due(), "a look takes nothing");
        assert!(ring.due());
        assert!(!ring.is_due() && !ring.due());
        armed.disarm();
        assert!(!ring.due());
        armed.arm();
        assert!(ring.due());
    }

    #[test]
    fn no_number_is_used_twice() {
        let (mut armed, _, memory) = pair();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..100 {
            armed.arm();
            let epoch = memory.load(0);
            assert!(epoch & 1 == 1 && seen.insert(epoch));
            armed.disarm();
            assert!(memory.load(0) & 1 == 0);
        }
    }

    #[test]
    fn arming_again_without_a_sleep_is_a_new_sleep() {
        let (mut armed, ring, _) = pair();
        armed.arm();
        assert!(ring.due());
        armed.arm();
        assert!(ring.due());
    }

    #[test]
    fn nobody_sleeps_on_what_is_ready() {
        let (mut armed, ring, memory) = pair();
        assert_eq!(armed.park(|| true, || panic!("slept")), None::<()>);
        let slept = armed.park(|| false, || ring.due());
        assert_eq!(slept, Some(true));
        assert!(memory.load(0) & 1 == 0);
    }

    /// A peer may write anything into its own armed word: all it gets is rings.
    #[test]
    fn garbage_only_rings() {
        let (_, ring, memory) = pair();
        let numbers =
            [(u64::MAX, true), (0, false), (u64::MAX, false), (1 << 63, false), (7, true)];
        for (word, due) in numbers {
            memory.store(0, word);
            assert_eq!(ring.due(), due, "{word}");
            assert!(!ring.due());
        }
    }
}
