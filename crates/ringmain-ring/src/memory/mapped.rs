//! The maps of `ringmain-shm` as memory of the rings. Every method is one plain load, store or
//! copy after a range check.

use ringmain_shm::{ReadMap, TrustedMap, WriteMap};

use super::{Lend, Memory, MemoryMut};

/// Reads `$map` by what `$words` offers, which it is or leads to.
macro_rules! read_by_words {
    ($map:ty, $words:ty $(, $prefetch:ident)?) => {
        impl Memory for $map {
            #[inline(always)]
            fn load(&self, offset: usize) -> u64 {
                <$words>::load(self, offset)
            }

            #[inline(always)]
            fn words<const N: usize>(&self, offset: usize) -> [u64; N] {
                <$words>::words(self, offset)
            }

            #[inline(always)]
            fn copy_out(&self, offset: usize, out: &mut [u8]) {
                <$words>::copy_out(self, offset, out);
            }

            $(#[inline(always)]
            fn $prefetch(&self, offset: usize) {
                <$words>::$prefetch(self, offset);
            })?
        }
    };
}

read_by_words!(ReadMap, ReadMap, prefetch);
read_by_words!(TrustedMap, ReadMap, prefetch);
read_by_words!(WriteMap, WriteMap);

impl MemoryMut for WriteMap {
    #[inline(always)]
    fn store(&self, offset: usize, value: u64) {
        WriteMap::store(self, offset, value);
    }

    #[inline(always)]
    fn store_release(&self, offset: usize, value: u64) {
        WriteMap::store_release(self, offset, value);
    }

    #[inline(always)]
    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        WriteMap::copy_in(self, offset, bytes);
    }

    #[inline(always)]
    fn prefetch_write(&self, offset: usize) {
        WriteMap::prefetch_write(self, offset);
    }

    #[inline(always)]
    fn put_record<const N: usize>(&self, offset: usize, words: [u64; N], bytes: &[u8]) {
        WriteMap::put_record(self, offset, words, bytes);
    }
}

impl Lend for TrustedMap {
    #[inline(always)]
    fn lend<'a>(&'a self, offset: usize, len: usize, _scratch: &'a mut Vec<u8>) -> &'a [u8] {
        self.bytes(offset, len)
    }

    #[inline(always)]
    fn lend_text<'a>(
        &'a self,
        offset: usize,
        len: usize,
        _scratch: &'a mut Vec<u8>,
    ) -> Option<&'a str> {
        self.text(offset, len)
    }
}
