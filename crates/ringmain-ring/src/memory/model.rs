//! Memory whose every interleaving loom walks through.
//!
//! The first word of each line is a loom atomic: control words stand there, publish words, and
//! whatever payload comes to stand where a publish word is awaited. The other words of a line are
//! plain data that the protocol must never let two parties touch at once; loom checks that every
//! access to them happens after the last conflicting one, and fails the model otherwise.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU64;
use ringmain_wire::limits::LINE_BYTES;

use super::{Lend, Memory, MemoryMut};

const WORD_BYTES: usize = 8;
const DATA_WORDS: usize = LINE_BYTES / WORD_BYTES - 1;

/// A segment of a few lines. Both sides hold clones.
#[derive(Clone, Debug)]
pub(crate) struct LoomMemory {
    lines: Arc<[Line]>,
}

#[derive(Debug)]
struct Line {
    first: AtomicU64,
    /// The lock is only for the compiler: loom runs one thread at a time and never switches here.
    data: Mutex<Data>,
}

#[derive(Debug)]
struct Data {
    /// Carries no value, only loom's knowledge of who touched the words when.
    accesses: UnsafeCell<()>,
    words: [u64; DATA_WORDS],
}

impl LoomMemory {
    pub(crate) fn new(lines: usize) -> LoomMemory {
        LoomMemory { lines: (0..lines).map(|_| Line::new()).collect() }
    }

    fn line(&self, offset: usize) -> (&Line, usize) {
        assert!(offset.is_multiple_of(WORD_BYTES));
        (&self.lines[offset / LINE_BYTES], offset % LINE_BYTES / WORD_BYTES)
    }
}

impl Line {
    fn new() -> Line {
        let data = Data { accesses: UnsafeCell::new(()), words: [0; DATA_WORDS] };
        Line { first: AtomicU64::new(0), data: Mutex::new(data) }
    }

    fn read(&self, word: usize) -> u64 {
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        data.accesses.with(|_| data.words[word - 1])
    }

    fn write(&self, word: usize, value: u64) {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        data.accesses.with_mut(|_| ());
        data.words[word - 1] = value;
    }
}

impl Memory for LoomMemory {
    fn load(&self, offset: usize) -> u64 {
        match self.line(offset) {
            (line, 0) => line.first.load(Ordering::Relaxed),
            (line, word) => line.read(word),
        }
    }

    fn copy_out(&self, offset: usize, out: &mut [u8]) {
        for (index, piece) in out.chunks_mut(WORD_BYTES).enumerate() {
            let word = self.load(offset + index * WORD_BYTES).to_ne_bytes();
            piece.copy_from_slice(&word[..piece.len()]);
        }
    }

    fn fence(order: Ordering) {
        loom::sync::atomic::fence(order);
    }
}

impl MemoryMut for LoomMemory {
    fn store(&self, offset: usize, value: u64) {
        match self.line(offset) {
            (line, 0) => line.first.store(value, Ordering::Relaxed),
            (line, word) => line.write(word, value),
        }
    }

    fn store_release(&self, offset: usize, value: u64) {
        match self.line(offset) {
            (line, 0) => line.first.store(value, Ordering::Release),
            _ => panic!("offset {offset} is not the first word of a line"),
        }
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        for (index, piece) in bytes.chunks(WORD_BYTES).enumerate() {
            let mut word = [0; WORD_BYTES];
            word[..piece.len()].copy_from_slice(piece);
            self.store(offset + index * WORD_BYTES, u64::from_ne_bytes(word));
        }
    }
}

impl Lend for LoomMemory {
    fn lend<'a>(&'a self, offset: usize, len: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        scratch.resize(len, 0);
        self.copy_out(offset, scratch);
        scratch
    }
}
