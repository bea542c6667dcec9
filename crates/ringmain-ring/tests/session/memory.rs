//! The two segments as the responder of a hostile session has them: what it reads may change
//! between any two loads, and what it writes is looked at.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ringmain_ring::{HeapMemory, Memory, MemoryMut};
use ringmain_wire::frame::lines_of;
use ringmain_wire::{Geometry, Kind, LaneId};

/// The caller segment, read by the responder while its caller writes.
#[derive(Clone, Debug)]
pub struct Raced {
    heap: HeapMemory,
    race: Arc<Race>,
}

/// A store that happens right before a certain load.
#[derive(Debug, Default)]
struct Race {
    /// Loads until then; 0: none is planned.
    loads: AtomicU64,
    offset: AtomicU64,
    value: AtomicU64,
}

/// The responder segment. A store outside the lane in hand, a publish word that is not that of
/// its place, a second terminal of one exchange: each panics.
#[derive(Clone, Debug)]
pub struct Guarded {
    heap: HeapMemory,
    geometry: Geometry,
    guard: Arc<Mutex<Guard>>,
}

#[derive(Debug)]
struct Guard {
    in_hand: Option<LaneId>,
    lanes: Vec<Published>,
}

/// What was published on a lane.
#[derive(Clone, Copy, Debug)]
struct Published {
    position: u64,
    terminal: Option<u64>,
}

impl Raced {
    pub fn new(heap: HeapMemory) -> Raced {
        Raced { heap, race: Arc::default() }
    }

    /// Plans a store right before the load number `loads` from now, 1 being the next one.
    pub fn plan(&self, loads: u64, offset: usize, value: u64) {
        self.race.offset.store(offset as u64, Ordering::Relaxed);
        self.race.value.store(value, Ordering::Relaxed);
        self.race.loads.store(loads, Ordering::Relaxed);
    }

    fn pass(&self) {
        let left = self.race.loads.load(Ordering::Relaxed);
        if left == 0 {
            return;
        }
        self.race.loads.store(left - 1, Ordering::Relaxed);
        if left == 1 {
            let offset = self.race.offset.load(Ordering::Relaxed) as usize;
            self.heap.store(offset, self.race.value.load(Ordering::Relaxed));
        }
    }
}

impl Memory for Raced {
    fn load(&self, offset: usize) -> u64 {
        self.pass();
        self.heap.load(offset)
    }

    fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.pass();
        self.heap.copy_out(offset, out);
    }
}

impl Guarded {
    /// All lanes begin at the same position.
    pub fn new(heap: HeapMemory, geometry: Geometry, start: u64) -> Guarded {
        let fresh = Published { position: start, terminal: None };
        let lanes = vec![fresh; geometry.lanes() as usize];
        Guarded { heap, geometry, guard: Arc::new(Mutex::new(Guard { in_hand: None, lanes })) }
    }

    /// From here on the responder may write this lane alone.
    pub fn take_in_hand(&self, lane: LaneId) {
        self.guard().in_hand = Some(lane);
    }

    /// The exchange whose terminal was published last on a lane.
    pub fn last_terminal(&self, lane: LaneId) -> Option<u64> {
        self.guard().lanes[lane.index()].terminal
    }

    fn guard(&self) -> MutexGuard<'_, Guard> {
        self.guard.lock().expect("a broken promise ends the session")
    }

    fn check(&self, offset: usize, bytes: usize) {
        if offset == Geometry::RESPONDER_ARMED && bytes == 8 {
            return;
        }
        let lane = self.guard().in_hand.expect("a lane is in hand");
        let words = [self.geometry.starved_offset(lane), self.geometry.loan_offset(lane)];
        let from = self.geometry.lane_offset(lane);
        let to = from + self.geometry.lane_bytes() as usize;
        let is_inside = offset >= from && offset + bytes <= to;
        assert!(
            is_inside || (words.contains(&offset) && bytes == 8),
            "{bytes} bytes at {offset} do not belong to lane {}, {from} to {to}",
            lane.number()
        );
    }

    /// Looks at a publish word that is about to be stored.
    fn check_publish(&self, offset: usize, word: u64) {
        let mut guard = self.guard();
        let lane = guard.in_hand.expect("a lane is in hand");
        let Some(inside) = offset.checked_sub(self.geometry.lane_offset(lane)) else { return };
        let position = word.wrapping_sub(1);
        let published = &mut guard.lanes[lane.index()];
        assert_eq!(position, published.position, "positions follow each other");
        assert_eq!(position % self.geometry.lane_lines() * 64, inside as u64);
        let tag = self.heap.load(offset + 16);
        published.position = position.wrapping_add(lines_of(tag as u32 as usize));
        let kind = Kind::from_number((tag >> 32) as u8).expect("a kind that exists");
        if kind.is_terminal() {
            let exchange = self.heap.load(offset + 8);
            assert!(published.terminal < Some(exchange), "a second terminal of {exchange}");
            published.terminal = Some(exchange);
        }
    }
}

impl Memory for Guarded {
    fn load(&self, offset: usize) -> u64 {
        self.heap.load(offset)
    }

    fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.heap.copy_out(offset, out);
    }
}

impl MemoryMut for Guarded {
    fn store(&self, offset: usize, value: u64) {
        self.check(offset, 8);
        self.heap.store(offset, value);
    }

    fn store_release(&self, offset: usize, value: u64) {
        self.check(offset, 8);
        self.check_publish(offset, value);
        self.heap.store_release(offset, value);
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        self.heap.copy_in(offset, bytes);
    }
}
