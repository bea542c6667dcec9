//! What the rings ask of memory, and who gives it.
//!
//! The rings never see a pointer. They name words and byte ranges by offset in a segment; the
//! memory behind them checks the range and decides how the access is made. Four backends exist:
//!
//! | backend | where | accesses |
//! |---|---|---|
//! | mapped | `ReadMap`, `TrustedMap`, `WriteMap` of `ringmain-shm` | relaxed atomic words |
//! | [`HeapMemory`] | ordinary tests | relaxed atomic words, no `unsafe` below |
//! | `LoomMemory` | model checks (`cfg(loom)`) | loom atomics and race-checked cells |
//!
//! Every load is Relaxed: a word that a peer writes may stand on a read-only page, where no
//! stronger load is guaranteed. A reader that found what it waited for therefore calls
//! [`Memory::fence`] with Acquire, which pairs with the writer's [`MemoryMut::store_release`].

mod heap;
mod mapped;
#[cfg(test)]
#[cfg(loom)]
pub(crate) mod model;

use std::sync::atomic::Ordering;

pub use heap::HeapMemory;

/// A segment that can be read. Cheap to clone; clones name the same bytes.
///
/// Offsets are bytes from the start of the segment; those of words are multiples of 8. An offset
/// outside the segment is a bug of this crate, never of a peer, and panics.
pub trait Memory: Clone + Send + Sync + 'static {
    /// The word at `offset`, Relaxed.
    fn load(&self, offset: usize) -> u64;

    /// Neighbouring words from `offset` on, Relaxed, each once.
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> [u64; N] {
        std::array::from_fn(|index| self.load(offset + index * 8))
    }

    /// Copies bytes out, word by word where a peer may be writing them. `offset` is a multiple
    /// of 8.
    fn copy_out(&self, offset: usize, out: &mut [u8]);

    /// Fetches the cache line at `offset` ahead of its use; nothing where that means nothing.
    #[inline(always)]
    fn prefetch(&self, _offset: usize) {}

    /// A fence as the backend orders its accesses.
    #[inline(always)]
    fn fence(order: Ordering) {
        std::sync::atomic::fence(order);
    }
}

/// A segment that only this process writes.
pub trait MemoryMut: Memory {
    /// Stores a word, Relaxed.
    fn store(&self, offset: usize, value: u64);

    /// Stores a word, Release: whoever reads it and then fences with Acquire sees everything
    /// stored before.
    fn store_release(&self, offset: usize, value: u64);

    /// Copies bytes in. `offset` is a multiple of 8.
    fn copy_in(&self, offset: usize, bytes: &[u8]);

    /// Fetches the cache line at `offset` ahead of its being written; nothing where that means
    /// nothing.
    #[inline(always)]
    fn prefetch_write(&self, _offset: usize) {}

    /// Stores words and bytes right behind them, Relaxed and in no order. What is left of the last
    /// word may keep its value or become zero.
    #[inline(always)]
    fn put_record<const N: usize>(&self, offset: usize, words: [u64; N], bytes: &[u8]) {
        for (index, word) in words.into_iter().enumerate() {
            self.store(offset + index * 8, word);
        }
        self.copy_in(offset + N * 8, bytes);
    }
}

/// A segment whose writer is trusted not to touch published bytes before they are released, so
/// that they can be borrowed where they stand.
pub trait Lend: Memory {
    /// The bytes in place.
    ///
    /// A mapping leaves `scratch` alone. Backends made of atomic cells cannot lend bytes and copy
    /// them to `scratch`; it belongs to the borrow, so that the rules of a borrow stay the same.
    fn lend<'a>(&'a self, offset: usize, len: usize, scratch: &'a mut Vec<u8>) -> &'a [u8];

    /// The payload of a frame as text in place; `None` when it is not UTF-8. The rest of its last
    /// line may be looked at too.
    fn lend_text<'a>(
        &'a self,
        offset: usize,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Option<&'a str> {
        str::from_utf8(self.lend(offset, len, scratch)).ok()
    }
}
