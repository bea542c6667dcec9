//! Mapped memory. The type says who writes it, and that decides what may be done with it.
//!
//! | type | who writes | what is offered |
//! |---|---|---|
//! | [`ReadMap`] | another process, perhaps hostile | relaxed word loads, copies |
//! | [`TrustedMap`] | another process that is trusted to leave lent bytes alone | also slices |
//! | [`WriteMap`] | this process alone | word loads and stores, copies |
//!
//! A reference promises the compiler that the bytes behind it stand still, so none covers bytes
//! that a hostile process may write (but for the fenced type in `lend`). All access goes through
//! atomic words of 8 bytes, which promise nothing of the kind. On a page that is mapped read-only
//! the standard library guarantees relaxed loads of at most a word, no stronger ordering; an
//! acquire is therefore a relaxed load and a fence, and the fence belongs to the protocol above
//! this crate.
//!
//! Maps are cheap to clone and share one mapping, which is gone with the last clone. They are left
//! out of a forked child: whatever a child does, the sessions of its parent stay untouched.
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memmap2::{Advice, MmapRaw};
use nix::fcntl::OFlag;

use crate::attach::{AttachError, access, access_name, check_fd};
use crate::region::Region;

/// Memory that another process writes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReadMap {
    region: Arc<Region>,
}

impl ReadMap {
    /// Maps a passed segment read-only, after its seals and its size were found as agreed. The
    /// descriptor is closed: the mapping does not need it.
    pub fn attach(fd: OwnedFd, bytes: usize) -> Result<ReadMap, AttachError> {
        let found = access(&fd)?;
        if found != OFlag::O_RDONLY && found != OFlag::O_RDWR {
            return Err(AttachError::Access { needed: "reading", found: access_name(found) });
        }
        check_fd(&fd, bytes)?;
        Ok(ReadMap::map(&fd, bytes)?)
    }

    /// Maps without judging: the segment is our own.
    pub(crate) fn map(fd: &OwnedFd, bytes: usize) -> io::Result<ReadMap> {
        Ok(ReadMap { region: Region::map_read_only(fd, bytes)? })
    }

    /// A private copy that nobody writes any more.
    pub(crate) fn from_private(raw: MmapRaw) -> io::Result<ReadMap> {
        Ok(ReadMap { region: Region::from_private(raw)? })
    }

    /// Bytes of the segment.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a map is never empty")]
    pub fn len(&self) -> usize {
        self.region.len()
    }

    /// Loads the word at `offset`, relaxed.
    ///
    /// # Panics
    /// When the word is not inside the segment, or `offset` is no multiple of 8.
    #[inline]
    #[must_use]
    pub fn load(&self, offset: usize) -> u64 {
        self.region.word(offset).load(Ordering::Relaxed)
    }

    /// Loads neighbouring words from `offset` on, relaxed, each once.
    ///
    /// # Panics
    /// When the words are not inside the segment, or `offset` is no multiple of 8.
    #[inline]
    #[must_use]
    pub fn words<const N: usize>(&self, offset: usize) -> [u64; N] {
        self.region.words(offset)
    }

    /// Fetches the cache line at `offset` ahead of its use.
    ///
    /// # Panics
    /// When the word at `offset` is not inside the segment.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        self.region.prefetch(offset);
    }

    /// Copies `out.len()` bytes from `offset`, word by word, each word loaded once.
    ///
    /// # Panics
    /// When the range is not inside the segment.
    #[inline]
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.region.copy_out(offset, out);
    }

    /// The addresses that the mapping takes, for tests that ask where a slice stands.
    #[must_use]
    pub fn address_range(&self) -> Range<usize> {
        self.region.address_range()
    }

    /// Maps the pages of a range now, rather than one fault at a time later.
    pub fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        self.region.populate(Advice::PopulateRead, offset, len)
    }

    /// The start of a range that was checked, for the fenced type that lends it.
    #[cfg(feature = "lend")]
    pub(crate) fn checked_ptr(&self, offset: usize, len: usize) -> *const u8 {
        self.region.checked_ptr(offset, len)
    }
}

/// Memory that a trusted process writes. Cheap to clone. All that a [`ReadMap`] offers, and slices.
///
/// # Why a slice stands still
/// A slice is sound while nobody writes behind it. Three could:
///
/// 1. This process. Its mapping is read-only, and the segment came from the peer it connected to.
/// 2. A third process. A segment is handed to the two sides of its session and to nobody else, and
///    the kernel keeps it at one writer ([`segment`](crate::segment)).
/// 3. The writer, by the rules of the rings: it reuses the lines of a published frame once the
///    reader's cursor has passed them, and the reader moves its cursor in a call that ends all
///    borrows. The models of `ringmain-ring` check both sides of that.
///
/// The third is the writer's word, and no type can stand for another process. That is what
/// [`Trust`] is about: only a process that chose its peer can make a map that lends, so that
/// whoever is come to by strangers, the broker above all, has no way to. A broker that breaks the
/// rule breaks the answers of those that chose it, which it writes anyhow.
#[derive(Clone, Debug)]
pub struct TrustedMap(ReadMap);

/// Proof that this process went to its peer and was not come to: it connected to a path of its own
/// choice, and so takes the word of whoever listens there. Made by
/// [`Control::connect_trusting`](crate::Control::connect_trusting) and by nothing else.
///
/// ```compile_fail,E0423
/// let trust = ringmain_shm::Trust(());
/// ```
#[derive(Debug)]
pub struct Trust(());

impl Trust {
    pub(crate) fn of_a_listener() -> Trust {
        Trust(())
    }
}

impl TrustedMap {
    /// Maps a segment that the trusted peer passed, after its seals and its size were found as
    /// agreed. The descriptor is closed: the mapping does not need it.
    pub fn attach(fd: OwnedFd, bytes: usize, _peer: &Trust) -> Result<TrustedMap, AttachError> {
        ReadMap::attach(fd, bytes).map(TrustedMap)
    }

    /// Borrows bytes in place. The range is the payload of one published frame that was not
    /// released yet: the trusted writer leaves it alone until the reader's cursor has passed it.
    ///
    /// # Panics
    /// When the range is not inside the segment.
    #[inline]
    #[must_use]
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let start = self.0.region.checked_ptr(offset, len);
        // SAFETY: inside the mapping, which lives as long as `self`; any bytes are valid `u8`. Why
        // they stand still while the slice lives is said at the type.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// The same bytes as text; `None` when they are not UTF-8. `offset` is a multiple of 8.
    ///
    /// Most pieces of a text are a few ASCII bytes. Those are told by their whole words, without a
    /// branch per byte, which costs such a piece more than everything else about it.
    ///
    /// # Panics
    /// When the range, or the four words from `offset` on of a short one, are not inside the
    /// segment.
    #[inline]
    #[must_use]
    pub fn text(&self, offset: usize, len: usize) -> Option<&str> {
        if len > SHORT_BYTES {
            return str::from_utf8(self.bytes(offset, len)).ok();
        }
        let is_ascii = is_ascii(self.words(offset), len);
        let start = self.0.region.as_ptr().wrapping_add(offset);
        // SAFETY: inside the words that were just read, as they are at least as long; for the rest
        // see `bytes`.
        let bytes = unsafe { std::slice::from_raw_parts(start, len) };
        if is_ascii {
            // SAFETY: all of them are ASCII, as just found, and stand still as `bytes` says.
            return Some(unsafe { std::str::from_utf8_unchecked(bytes) });
        }
        str::from_utf8(bytes).ok()
    }
}

/// Longest text that is told by its words.
const SHORT_BYTES: usize = 32;

/// Whether the words that hold the first `len` bytes, 32 at most, are ASCII. What stands behind
/// them in the last word counts too: a writer leaves zeros there, and whoever does not is told by
/// the longer way.
#[inline]
fn is_ascii(words: [u64; SHORT_BYTES / 8], len: usize) -> bool {
    let [first, rest @ ..] = words;
    let mut high = first;
    if len > 8 {
        for (index, word) in rest.into_iter().enumerate() {
            high |= if len > 8 * (index + 1) { word } else { 0 };
        }
    }
    high & 0x8080_8080_8080_8080 == 0
}

impl Deref for TrustedMap {
    type Target = ReadMap;

    #[inline]
    fn deref(&self) -> &ReadMap {
        &self.0
    }
}

/// Memory that only this process writes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WriteMap {
    region: Arc<Region>,
}

impl WriteMap {
    /// Maps a passed segment writable, after its seals and its size were found as agreed. The
    /// descriptor is kept, because punching needs it.
    pub fn attach(fd: OwnedFd, bytes: usize) -> Result<WriteMap, AttachError> {
        let found = access(&fd)?;
        if found != OFlag::O_RDWR {
            let needed = "reading and writing";
            return Err(AttachError::Access { needed, found: access_name(found) });
        }
        check_fd(&fd, bytes)?;
        Ok(WriteMap::map(Arc::new(fd), bytes)?)
    }

    /// Maps without judging: the segment is our own.
    pub(crate) fn map(fd: Arc<OwnedFd>, bytes: usize) -> io::Result<WriteMap> {
        Ok(WriteMap { region: Region::map_writable(fd, bytes)? })
    }

    /// Bytes of the segment.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a map is never empty")]
    pub fn len(&self) -> usize {
        self.region.len()
    }

    /// Loads the word at `offset`, relaxed.
    ///
    /// # Panics
    /// When the word is not inside the segment, or `offset` is no multiple of 8.
    #[inline]
    #[must_use]
    pub fn load(&self, offset: usize) -> u64 {
        self.region.word(offset).load(Ordering::Relaxed)
    }

    /// Loads neighbouring words from `offset` on, relaxed, each once.
    ///
    /// # Panics
    /// When the words are not inside the segment, or `offset` is no multiple of 8.
    #[inline]
    #[must_use]
    pub fn words<const N: usize>(&self, offset: usize) -> [u64; N] {
        self.region.words(offset)
    }

    /// Stores the word at `offset`, relaxed.
    ///
    /// # Panics
    /// When the word is not inside the segment, or `offset` is no multiple of 8.
    #[inline]
    pub fn store(&self, offset: usize, value: u64) {
        self.region.word(offset).store(value, Ordering::Relaxed);
    }

    /// Stores the word at `offset`, release: publishes every store before it.
    ///
    /// # Panics
    /// When the word is not inside the segment, or `offset` is no multiple of 8.
    #[inline]
    pub fn store_release(&self, offset: usize, value: u64) {
        // Pairs with: the reader's relaxed load of the same word and its acquire fence.
        self.region.word(offset).store(value, Ordering::Release);
    }

    /// Copies `out.len()` bytes from `offset`, word by word.
    ///
    /// # Panics
    /// When the range is not inside the segment.
    #[inline]
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.region.copy_out(offset, out);
    }

    /// Copies `bytes` to `offset`, word by word. Bytes of a half word beside the copy keep their
    /// value, so two threads must not write into one word at the same time.
    ///
    /// # Panics
    /// When the range is not inside the segment.
    #[inline]
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.region.copy_in(offset, bytes);
    }

    /// Stores words at `offset` and bytes right behind them, relaxed; what is left of the last word
    /// becomes zero. One range check for a whole record.
    ///
    /// # Panics
    /// When the record is not inside the segment, or `offset` is no multiple of 8.
    #[inline]
    pub fn put_record<const N: usize>(&self, offset: usize, words: [u64; N], bytes: &[u8]) {
        self.region.put_record(offset, words, bytes);
    }

    /// Asks for the cache line at `offset` ahead of its being written.
    #[inline]
    pub fn prefetch_write(&self, offset: usize) {
        self.region.prefetch_write(offset);
    }

    /// Gives the memory of a range back to the kernel; it reads as zero from then on. A segment
    /// that is sealed against future writers keeps its memory until its last user is gone (see
    /// [`Puncher`](crate::Puncher)); there nothing is done, and the bytes keep their value.
    ///
    /// # Panics
    /// When the range is not inside the segment.
    pub fn punch(&self, offset: usize, len: usize) -> io::Result<()> {
        self.region.punch(offset, len)
    }

    /// The addresses that the mapping takes, for tests that ask where a slice stands.
    #[must_use]
    pub fn address_range(&self) -> Range<usize> {
        self.region.address_range()
    }

    /// Maps the pages of a range now, ready to be written, rather than one fault at a time later.
    pub fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        self.region.populate(Advice::PopulateWrite, offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length, with a byte that is not ASCII at every place, in its words and behind them.
    #[test]
    fn ascii_is_told_by_words() {
        for len in 0..=SHORT_BYTES {
            for at in 0..SHORT_BYTES {
                let mut bytes = [b'a'; SHORT_BYTES];
                bytes[at] = 0x80;
                let words = std::array::from_fn(|index| {
                    u64::from_ne_bytes(bytes[index * 8..][..8].try_into().unwrap())
                });
                let held = len.next_multiple_of(8).max(8);
                assert_eq!(is_ascii(words, len), at >= held, "{len} {at}");
            }
        }
    }
}
