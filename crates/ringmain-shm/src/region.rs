//! One shared mapping: the only place where its address is used, and where every access is checked.
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};

/// Bytes of a word. Every offset of a word access is a multiple of it.
pub(crate) const WORD: usize = size_of::<u64>();

/// One shared mapping.
pub(crate) struct Region {
    raw: MmapRaw,
    /// Kept to punch; present in maps that this process writes.
    fd: Option<Arc<OwnedFd>>,
}

impl Region {
    /// Maps a segment that this process only reads.
    pub(crate) fn map_read_only(fd: &OwnedFd, bytes: usize) -> io::Result<Arc<Region>> {
        Region::new(MmapOptions::new().len(bytes).map_raw_read_only(fd)?, None)
    }

    /// Maps a segment that this process writes, and keeps the descriptor to punch it.
    pub(crate) fn map_writable(fd: Arc<OwnedFd>, bytes: usize) -> io::Result<Arc<Region>> {
        let raw = MmapOptions::new().len(bytes).map_raw(&*fd)?;
        Region::new(raw, Some(fd))
    }

    /// Takes pages that nobody else maps.
    pub(crate) fn from_private(raw: MmapRaw) -> io::Result<Arc<Region>> {
        Region::new(raw, None)
    }

    fn new(raw: MmapRaw, fd: Option<Arc<OwnedFd>>) -> io::Result<Arc<Region>> {
        raw.advise(Advice::DontFork)?;
        Ok(Arc::new(Region { raw, fd }))
    }

    /// Panics unless `offset..offset + len` lies inside. Offsets come from checked geometry, so a
    /// miss is a bug of this process and never a peer's doing.
    #[inline]
    pub(crate) fn check(&self, offset: usize, len: usize) {
        let bytes = self.raw.len();
        if len > bytes || offset > bytes - len {
            missed(offset, len, bytes);
        }
    }

    #[inline]
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        self.check(offset, WORD);
        check_aligned(offset);
        // SAFETY: a whole word inside the mapping and aligned, as just checked.
        unsafe { self.word_unchecked(offset) }
    }

    /// The word at `offset`.
    ///
    /// # Safety
    /// `offset` is a multiple of 8, and `offset + 8` is at most the length of the mapping.
    #[inline]
    unsafe fn word_unchecked(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the caller keeps the access inside the mapping, which lives as long as `self` and
        // begins on a page, so the word is aligned. Other processes touch it by whatever means
        // they like, which the abstract machine knows as accesses of unknown code; in this process
        // every access is atomic and of this size, but for the slices of `TrustedMap` and `lend`,
        // which stand over a mapping that this process can not write. On a read-only mapping only
        // relaxed loads are made, which the standard library allows there for up to 8 bytes.
        unsafe { AtomicU64::from_ptr(self.raw.as_mut_ptr().add(offset).cast()) }
    }

    /// Copies by words, each loaded once: what arrives is a mix of old and new at worst, and it
    /// stands still from then on.
    pub(crate) fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.check(offset, out.len());
        let skew = offset % WORD;
        let (edge, rest) = out.split_at_mut(out.len().min((WORD - skew) % WORD));
        let mut at = offset;
        if !edge.is_empty() {
            let word = self.word(at - skew).load(Ordering::Relaxed).to_ne_bytes();
            edge.copy_from_slice(&word[skew..skew + edge.len()]);
            at += edge.len();
        }
        let mut words = rest.chunks_exact_mut(WORD);
        for chunk in &mut words {
            // SAFETY: inside by the check above; a multiple of 8 because the edge brought it there
            // (a shorter edge leaves no rest).
            let word = unsafe { self.word_unchecked(at) };
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            at += WORD;
        }
        let tail = words.into_remainder();
        if !tail.is_empty() {
            let word = self.word(at).load(Ordering::Relaxed).to_ne_bytes();
            tail.copy_from_slice(&word[..tail.len()]);
        }
    }

    /// Copies by words. The bytes of a half word beside the copy keep their value.
    ///
    /// Not a `memcpy`: clones of this map may be used on several threads, and a plain write beside
    /// an atomic load in the same process is a data race. Readers in other processes would not
    /// mind. An atomic store of 8 bytes is the same instruction as a plain one.
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        let skew = offset % WORD;
        let (edge, rest) = bytes.split_at(bytes.len().min((WORD - skew) % WORD));
        let mut at = offset;
        if !edge.is_empty() {
            self.merge(at - skew, skew, edge);
            at += edge.len();
        }
        let (words, tail) = rest.as_chunks::<WORD>();
        for chunk in words {
            // SAFETY: as in `copy_out`; and a map that is stored to is mapped writable.
            let word = unsafe { self.word_unchecked(at) };
            word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
            at += WORD;
        }
        if !tail.is_empty() {
            self.merge(at, 0, tail);
        }
    }

    /// Stores words and, right behind them, bytes: one check for a whole record. What is left of
    /// the last word becomes zero.
    #[inline]
    pub(crate) fn put_record<const N: usize>(&self, offset: usize, words: [u64; N], bytes: &[u8]) {
        let len = N * WORD + bytes.len().next_multiple_of(WORD);
        self.check(offset, len);
        check_aligned(offset);
        let start = self.raw.as_mut_ptr().wrapping_add(offset);
        // SAFETY: `at` counts bytes of the range that was just checked, in whole words; the rest is
        // as for `word_unchecked`, and a map that is stored to is mapped writable.
        let word = |at: usize| unsafe { AtomicU64::from_ptr(start.add(at).cast()) };
        for (index, value) in words.into_iter().enumerate() {
            word(index * WORD).store(value, Ordering::Relaxed);
        }
        let (whole, tail) = bytes.as_chunks::<WORD>();
        let behind = N * WORD;
        if bytes.len() >= BLOCK_BYTES_MIN {
            // SAFETY: `whole` bytes behind the words lie inside the checked range.
            unsafe { store_block(start.add(behind), whole.as_flattened()) };
        } else {
            for (index, chunk) in whole.iter().enumerate() {
                let value = u64::from_ne_bytes(*chunk);
                word(behind + index * WORD).store(value, Ordering::Relaxed);
            }
        }
        if !tail.is_empty() {
            let mut last = [0; WORD];
            last[..tail.len()].copy_from_slice(tail);
            let at = behind + whole.len() * WORD;
            word(at).store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
    }

    /// Loads neighbouring words, each once: one check for a whole header.
    #[inline]
    pub(crate) fn words<const N: usize>(&self, offset: usize) -> [u64; N] {
        self.check(offset, N * WORD);
        check_aligned(offset);
        // SAFETY: inside the range that was just checked, in whole words.
        std::array::from_fn(|index| unsafe {
            self.word_unchecked(offset + index * WORD).load(Ordering::Relaxed)
        })
    }

    /// Asks for the cache line at `offset`, which will be read soon. Changes nothing else.
    #[inline]
    pub(crate) fn prefetch(&self, offset: usize) {
        // Not checked: nothing is read there, and an address beside the mapping asks for nothing.
        let start = self.raw.as_ptr().wrapping_add(offset);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch has no effect but on caches, whatever stands at the address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(start.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = start; // no stable intrinsic: the hardware looks ahead by itself
    }

    /// Asks for the cache line at `offset` as its only owner: it will be written soon. Changes nothing
    /// else.
    #[inline]
    pub(crate) fn prefetch_write(&self, offset: usize) {
        // Not checked, as in `prefetch`.
        let start = self.raw.as_ptr().wrapping_add(offset);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch has no effect but on caches, whatever stands at the address; processors
        // that do not know this one pass over it.
        unsafe {
            std::arch::asm!(
                "prefetchw [{}]",
                in(reg) start,
                options(nostack, preserves_flags, readonly),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = start;
    }

    /// Replaces some bytes of one word. Two threads that do so to one word at once lose one of the
    /// two changes; chunks and lines begin on words, so no word has two owners.
    fn merge(&self, offset: usize, skew: usize, bytes: &[u8]) {
        let word = self.word(offset);
        let mut value = word.load(Ordering::Relaxed).to_ne_bytes();
        value[skew..skew + bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
    }

    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// The start of a range that was checked. What may be done with it depends on who writes there.
    #[inline]
    pub(crate) fn checked_ptr(&self, offset: usize, len: usize) -> *const u8 {
        self.check(offset, len);
        self.raw.as_ptr().wrapping_add(offset)
    }

    /// Where it begins. Whoever goes on from here has checked how far.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.raw.as_ptr()
    }

    pub(crate) fn address_range(&self) -> Range<usize> {
        let start = self.raw.as_ptr().addr();
        start..start + self.raw.len()
    }

    /// Punches a range; nothing is done without a descriptor or where a seal forbids it.
    pub(crate) fn punch(&self, offset: usize, len: usize) -> io::Result<()> {
        self.check(offset, len);
        self.fd.as_ref().map_or(Ok(()), |fd| punch(fd, offset, len))
    }

    pub(crate) fn populate(&self, advice: Advice, offset: usize, len: usize) -> io::Result<()> {
        self.check(offset, len);
        if len == 0 {
            return Ok(());
        }
        self.raw.advise_range(advice, offset, len)
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("bytes", &self.raw.len()).finish_non_exhaustive()
    }
}

#[inline]
fn check_aligned(offset: usize) {
    if !offset.is_multiple_of(WORD) {
        misaligned(offset);
    }
}

// Functions of their own, so that what they tell is not made ready by every access.

#[cold]
#[inline(never)]
fn missed(offset: usize, len: usize, bytes: usize) -> ! {
    panic!("access of {len} bytes at {offset} in a segment of {bytes} bytes")
}

#[cold]
#[inline(never)]
fn misaligned(offset: usize) -> ! {
    panic!("word access at {offset}, not a multiple of {WORD}")
}

/// From this many bytes on the string instruction beats a loop of word stores.
const BLOCK_BYTES_MIN: usize = 256;

/// Stores bytes as a run of relaxed atomic stores would, by the processor's string instruction.
///
/// To the compiler it is opaque code whose effect is that of relaxed byte stores in any order, so
/// other threads may load the same words atomically, which a `memcpy` would not allow.
///
/// # Safety
/// `to..to + bytes.len()` lies in one writable mapping.
#[cfg(target_arch = "x86_64")]
unsafe fn store_block(to: *mut u8, bytes: &[u8]) {
    // SAFETY: the caller vouches for the destination, the slice for the source; the direction flag
    // is clear on entry, as the calling convention has it, and no flag is changed.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") bytes.len() => _,
            inout("rdi") to => _,
            inout("rsi") bytes.as_ptr() => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Stores bytes as relaxed words; `to` is a multiple of 8 and `bytes` are whole words.
///
/// # Safety
/// As for the other form.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn store_block(to: *mut u8, bytes: &[u8]) {
    for (index, chunk) in bytes.as_chunks::<WORD>().0.iter().enumerate() {
        // SAFETY: the caller vouches for the destination.
        let word = unsafe { AtomicU64::from_ptr(to.add(index * WORD).cast()) };
        word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
    }
}

/// Punches a range, or does nothing where a seal forbids it.
pub(crate) fn punch(fd: &impl AsFd, offset: usize, len: usize) -> io::Result<()> {
    if len == 0 || is_sealed_against_punching(fd)? {
        return Ok(());
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok(fallocate(fd, flags, offset, len)?)
}

/// Whether the kernel refuses to punch: it does so for every seal against writing.
pub(crate) fn is_sealed_against_punching(fd: &impl AsFd) -> io::Result<bool> {
    let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
    Ok(seals.intersects(SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_WRITE))
}
