//! The ring that the lanes are measured against: one writer, one reader, slots of fixed size, and
//! nothing that a lane has beyond it: no exchange, no kind, no time, no frames of several sizes,
//! no cleared line, no reserve, and no check of anything that is read.

use std::sync::atomic::{Ordering, fence};

use ringmain_shm::{ReadMap, TrustedMap, WriteMap};

const CURSOR: usize = 128;
const SLOTS: usize = 4096;
const HEADER_BYTES: usize = 16;

/// Where the slots stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BareShape {
    slots: u64,
    slot_bytes: usize,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct BareWriter {
    own: WriteMap,
    peer: ReadMap,
    shape: BareShape,
    written: u64,
    slot: u64,
    cursor: u64,
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct BareReader {
    own: WriteMap,
    peer: TrustedMap,
    shape: BareShape,
    read: u64,
    slot: u64,
    published: u64,
}

impl BareShape {
    /// As many slots as fit into `ring_bytes`, each with its payload and on whole lines.
    pub(crate) fn new(ring_bytes: usize, payload_bytes: usize) -> BareShape {
        let slot_bytes = (HEADER_BYTES + payload_bytes).next_multiple_of(64);
        BareShape { slots: (ring_bytes / slot_bytes) as u64, slot_bytes }
    }

    /// Bytes of the segment that the writer of the ring owns.
    pub(crate) fn segment_bytes(&self) -> usize {
        (SLOTS + self.slots as usize * self.slot_bytes).next_multiple_of(4096)
    }

    #[inline(always)]
    fn offset(&self, slot: u64) -> usize {
        SLOTS + slot as usize * self.slot_bytes
    }

    #[inline(always)]
    fn after(&self, slot: u64) -> u64 {
        if slot + 1 == self.slots { 0 } else { slot + 1 }
    }
}

/// Bytes of the segment that holds the reader's cursor.
pub(crate) const CURSOR_SEGMENT_BYTES: usize = 4096;

impl BareWriter {
    pub(crate) fn new(own: WriteMap, peer: ReadMap, shape: BareShape) -> BareWriter {
        BareWriter { own, peer, shape, written: 0, slot: 0, cursor: 0 }
    }

    /// Writes a record; false when the ring is full.
    #[inline]
    pub(crate) fn push(&mut self, payload: &[u8]) -> bool {
        if self.written - self.cursor == self.shape.slots {
            self.cursor = self.peer.load(CURSOR);
            fence(Ordering::Acquire);
            if self.written - self.cursor == self.shape.slots {
                return false;
            }
        }
        let at = self.shape.offset(self.slot);
        self.own.store(at + 8, payload.len() as u64);
        self.own.copy_in(at + HEADER_BYTES, payload);
        self.written += 1;
        self.own.store_release(at, self.written);
        self.slot = self.shape.after(self.slot);
        true
    }
}

impl BareReader {
    pub(crate) fn new(own: WriteMap, peer: TrustedMap, shape: BareShape) -> BareReader {
        BareReader { own, peer, shape, read: 0, slot: 0, published: 0 }
    }

    /// The next record in place, if it is there. The one before is given back with its quarter.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        if self.read - self.published >= self.shape.slots / 4 {
            self.published = self.read;
            self.own.store_release(CURSOR, self.read);
        }
        let at = self.shape.offset(self.slot);
        if self.peer.load(at) != self.read + 1 {
            return None;
        }
        fence(Ordering::Acquire);
        let length = self.peer.load(at + 8) as usize;
        self.read += 1;
        self.slot = self.shape.after(self.slot);
        Some(self.peer.bytes(at + HEADER_BYTES, length))
    }
}
