//! Who has which part of the arena: private bookkeeping of its one owner, the caller.
//!
//! First fit, lowest address first, so that few pages are ever touched. Nothing of this stands in
//! shared memory; the responder only ever sees offsets and lengths, and judges them itself.

use std::ops::Range;

use ringmain_wire::limits::{LINE_BYTES, PAGE_BYTES, PUNCH_CHUNK_BYTES};

const LINE: u64 = LINE_BYTES as u64;
const PAGE: u64 = PAGE_BYTES as u64;

/// The free ranges of an arena.
#[derive(Debug)]
pub struct Arena {
    bytes: u64,
    /// Sorted by address, never empty ranges, never two that touch.
    // Bound: one more than the chunks that are out, of which there is at most one per lane.
    free: Vec<Range<u64>>,
}

/// A part of the arena. Not cloned and given back once; one that is dropped instead stays taken.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a chunk that is dropped stays taken"]
pub struct Chunk {
    offset: u64,
    bytes: u64,
}

impl Arena {
    /// An arena of whole lines, all free.
    pub fn new(bytes: u64) -> Arena {
        let bytes = bytes - bytes % LINE;
        let whole = 0..bytes;
        Arena { bytes, free: (!whole.is_empty()).then_some(whole).into_iter().collect() }
    }

    /// Takes the lowest chunk that holds `bytes` bytes, rounded up to lines, at least one.
    pub fn take(&mut self, bytes: u64) -> Option<Chunk> {
        let bytes = bytes.max(1).checked_next_multiple_of(LINE)?;
        let index = self.free.iter().position(|range| range.end - range.start >= bytes)?;
        let range = &mut self.free[index];
        let offset = range.start;
        range.start += bytes;
        if range.is_empty() {
            self.free.remove(index);
        }
        Some(Chunk { offset, bytes })
    }

    /// Gives back the end of a chunk, of which `bytes` bytes (rounded up to lines, at least one)
    /// stay.
    pub fn shrink(&mut self, chunk: &mut Chunk, bytes: u64) {
        let Some(kept) = bytes.max(1).checked_next_multiple_of(LINE) else { return };
        if kept < chunk.bytes {
            self.insert(chunk.offset + kept..chunk.offset + chunk.bytes);
            chunk.bytes = kept;
        }
    }

    /// Gives a chunk back. Returns the whole pages inside a chunk that is large enough to be
    /// punched, for the owner of the mapping to punch before the chunk is taken again.
    pub fn give_back(&mut self, chunk: Chunk) -> Option<Range<u64>> {
        let end = chunk.offset + chunk.bytes;
        self.insert(chunk.offset..end);
        let pages = chunk.offset.next_multiple_of(PAGE)..end - end % PAGE;
        (chunk.bytes > PUNCH_CHUNK_BYTES).then_some(pages)
    }

    /// Whether nothing is out.
    pub fn is_whole(&self) -> bool {
        self.free_bytes() == self.bytes
    }

    /// Bytes that are free, in however many pieces.
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(|range| range.end - range.start).sum()
    }

    fn insert(&mut self, range: Range<u64>) {
        let index = self.free.partition_point(|free| free.start < range.start);
        let joins_next = self.free.get(index).is_some_and(|next| next.start == range.end);
        let joins_last = index > 0 && self.free[index - 1].end == range.start;
        match (joins_last, joins_next) {
            (true, true) => {
                self.free[index - 1].end = self.free[index].end;
                self.free.remove(index);
            }
            (true, false) => self.free[index - 1].end = range.end,
            (false, true) => self.free[index].start = range.start,
            (false, false) => self.free.insert(index, range),
        }
    }
}

impl Chunk {
    /// Byte offset in the arena, a multiple of 64.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes, a multiple of 64.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
