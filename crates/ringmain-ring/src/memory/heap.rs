//! Heap words: a segment for tests that need no mapping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Lend, Memory, MemoryMut};

const WORD_BYTES: usize = 8;

/// A segment on the heap, all zero at first, made of atomic words.
///
/// One type stands for both sides. Give the reading side a clone; a test that plays a hostile
/// peer keeps one too and writes what it likes.
#[derive(Clone, Debug)]
pub struct HeapMemory {
    words: Arc<[AtomicU64]>,
}

impl HeapMemory {
    /// A segment of at least `bytes` bytes.
    pub fn new(bytes: usize) -> HeapMemory {
        let words = (0..bytes.div_ceil(WORD_BYTES)).map(|_| AtomicU64::new(0)).collect();
        HeapMemory { words }
    }

    /// Bytes of the segment.
    pub fn len(&self) -> usize {
        self.words.len() * WORD_BYTES
    }

    /// Whether the segment has no bytes.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(WORD_BYTES), "offset {offset} does not name a word");
        &self.words[offset / WORD_BYTES]
    }
}

impl Memory for HeapMemory {
    fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Relaxed)
    }

    fn copy_out(&self, offset: usize, out: &mut [u8]) {
        for (index, piece) in out.chunks_mut(WORD_BYTES).enumerate() {
            let word = self.load(offset + index * WORD_BYTES).to_ne_bytes();
            piece.copy_from_slice(&word[..piece.len()]);
        }
    }
}

impl MemoryMut for HeapMemory {
    fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Relaxed);
    }

    fn store_release(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        for (index, piece) in bytes.chunks(WORD_BYTES).enumerate() {
            let at = offset + index * WORD_BYTES;
            let mut word = self.load(at).to_ne_bytes();
            word[..piece.len()].copy_from_slice(piece);
            self.store(at, u64::from_ne_bytes(word));
        }
    }
}

impl Lend for HeapMemory {
    fn lend<'a>(&'a self, offset: usize, len: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        scratch.resize(len, 0);
        self.copy_out(offset, scratch);
        scratch
    }
}
