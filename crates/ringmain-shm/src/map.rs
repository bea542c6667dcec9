//! Mapped memory. The type says who writes it, and that decides what may be done with it.
//!
//! | type | who writes | what is offered |
//! |---|---|---|
//! | [`ReadMap`] | another process, perhaps hostile | relaxed word loads, copies |
//! | [`TrustedMap`] | another process that is trusted to leave lent bytes alone | also slices |
//! | [`WriteMap`] | this process alone | word loads and stores, copies |
//!
//! No Rust reference ever covers bytes that a hostile process may write: a reference promises the
//! compiler that the bytes behind it stand still. All access goes through atomic words of 8 bytes,
//! which promise nothing of the kind. On a page that is mapped read-only the standard library
//! guarantees relaxed loads of at most a word, no stronger ordering; an acquire is therefore a
//! relaxed load and a fence, and the fence belongs to the protocol above this crate.
//!
//! Maps are cheap to clone and share one mapping, which is gone with the last clone. They are left
//! out of a forked child: whatever a child does, the sessions of its parent stay untouched.
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};

/// Bytes of a word. Every offset of a word access is a multiple of it.
const WORD: usize = size_of::<u64>();

/// Why a descriptor was not mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The descriptor was not opened for what the map needs.
    #[error("segment descriptor is open for {found}, this side needs it for {needed}")]
    Access {
        /// What the map needs.
        needed: &'static str,
        /// What the descriptor allows.
        found: &'static str,
    },
    /// The kernel refused.
    #[error("segment can not be mapped")]
    Io(#[from] io::Error),
    /// The descriptor could change its size under the mapping.
    #[error("segment has seals {found:#x}, seals {needed:#x} must be set")]
    Seals {
        /// The bits of `F_GET_SEALS` that were found, 0 for a file that takes no seals.
        found: i32,
        /// The bits that must be set.
        needed: i32,
    },
    /// The descriptor has another size than was agreed.
    #[error("segment has {found} bytes, {expected} were agreed")]
    Size {
        /// `st_size` of the descriptor.
        found: i64,
        /// The agreed size.
        expected: usize,
    },
    /// The agreed size can not be mapped at all.
    #[error("a segment of {0} bytes is not a whole number of words, or empty")]
    Words(usize),
}

/// One shared mapping and the only place where its address is used.
struct Region {
    raw: MmapRaw,
    /// Kept to punch; present in maps that this process writes.
    fd: Option<Arc<OwnedFd>>,
}

impl Region {
    fn new(raw: MmapRaw, fd: Option<Arc<OwnedFd>>) -> io::Result<Arc<Region>> {
        raw.advise(Advice::DontFork)?;
        Ok(Arc::new(Region { raw, fd }))
    }

    /// Panics unless `offset..offset + len` lies inside. Offsets come from checked geometry, so a
    /// miss is a bug of this process and never a peer's doing.
    #[inline]
    fn check(&self, offset: usize, len: usize) {
        let bytes = self.raw.len();
        assert!(
            len <= bytes && offset <= bytes - len,
            "access of {len} bytes at {offset} in a segment of {bytes} bytes"
        );
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        self.check(offset, WORD);
        assert!(offset.is_multiple_of(WORD), "word access at {offset}, not a multiple of {WORD}");
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
    fn copy_out(&self, offset: usize, out: &mut [u8]) {
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
    fn copy_in(&self, offset: usize, bytes: &[u8]) {
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

    /// Replaces some bytes of one word. Two threads that do so to one word at once lose one of the
    /// two changes; chunks and lines begin on words, so no word has two owners.
    fn merge(&self, offset: usize, skew: usize, bytes: &[u8]) {
        let word = self.word(offset);
        let mut value = word.load(Ordering::Relaxed).to_ne_bytes();
        value[skew..skew + bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
    }

    fn address_range(&self) -> Range<usize> {
        let start = self.raw.as_ptr().addr();
        start..start + self.raw.len()
    }

    fn populate(&self, advice: Advice, offset: usize, len: usize) -> io::Result<()> {
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

/// Seals that keep a mapping from being cut short: without them an access could raise `SIGBUS`.
pub(crate) const SIZE_SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

pub(crate) fn check_bytes(bytes: usize) -> Result<(), AttachError> {
    if bytes == 0 || !bytes.is_multiple_of(WORD) || i64::try_from(bytes).is_err() {
        return Err(AttachError::Words(bytes));
    }
    Ok(())
}

/// Judges a descriptor that somebody passed, before anything is mapped.
fn check_fd(fd: &OwnedFd, bytes: usize) -> Result<(), AttachError> {
    check_bytes(bytes)?;
    // A file that takes no seals answers with an error; it is as good as one without seals.
    let found = fcntl(fd, FcntlArg::F_GET_SEALS).unwrap_or(0);
    let needed = SIZE_SEALS.bits();
    if found & needed != needed {
        return Err(AttachError::Seals { found, needed });
    }
    let size = nix::sys::stat::fstat(fd).map_err(io::Error::from)?.st_size;
    if usize::try_from(size).ok() != Some(bytes) {
        return Err(AttachError::Size { found: size, expected: bytes });
    }
    Ok(())
}

/// What a descriptor was opened for.
fn access(fd: &OwnedFd) -> io::Result<OFlag> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_PATH) {
        return Ok(OFlag::O_PATH);
    }
    Ok(flags & OFlag::O_ACCMODE)
}

fn access_name(access: OFlag) -> &'static str {
    match access {
        OFlag::O_RDONLY => "reading",
        OFlag::O_RDWR => "reading and writing",
        OFlag::O_WRONLY => "writing",
        _ => "nothing",
    }
}

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
        let raw = MmapOptions::new().len(bytes).map_raw_read_only(fd)?;
        Ok(ReadMap { region: Region::new(raw, None)? })
    }

    /// A private copy that nobody writes any more.
    pub(crate) fn from_private(raw: MmapRaw) -> io::Result<ReadMap> {
        Ok(ReadMap { region: Region::new(raw, None)? })
    }

    /// Bytes of the segment.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a map is never empty")]
    pub fn len(&self) -> usize {
        self.region.raw.len()
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

    /// Copies `out.len()` bytes from `offset`, word by word, each word loaded once.
    ///
    /// # Panics
    /// When the range is not inside the segment.
    #[inline]
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.region.copy_out(offset, out);
    }

    /// Declares the writer trusted, so that its bytes may be borrowed in place. For an application
    /// that reads what its broker writes; never for what a broker reads.
    #[must_use]
    pub fn trust(self) -> TrustedMap {
        TrustedMap { region: self.region }
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
        self.region.check(offset, len);
        self.region.raw.as_ptr().wrapping_add(offset)
    }
}

/// Memory that a trusted process writes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustedMap {
    region: Arc<Region>,
}

impl TrustedMap {
    /// Bytes of the segment.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a map is never empty")]
    pub fn len(&self) -> usize {
        self.region.raw.len()
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

    /// Copies `out.len()` bytes from `offset`, word by word.
    ///
    /// # Panics
    /// When the range is not inside the segment.
    #[inline]
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.region.copy_out(offset, out);
    }

    /// Borrows bytes in place. The range is the payload of one published frame that was not
    /// released yet: the trusted writer leaves it alone until the reader's cursor has passed it.
    ///
    /// # Panics
    /// When the range is not inside the segment.
    #[inline]
    #[must_use]
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        self.region.check(offset, len);
        // SAFETY: inside the mapping, which lives as long as `self`; any bytes are valid `u8`. That
        // they stand still while the slice lives is what `trust` declared: this process can not
        // write them, and the writer, trusted, reuses a line only after the reader released it.
        unsafe { std::slice::from_raw_parts(self.region.raw.as_ptr().add(offset), len) }
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
        let raw = MmapOptions::new().len(bytes).map_raw(&*fd)?;
        Ok(WriteMap { region: Region::new(raw, Some(fd))? })
    }

    /// Bytes of the segment.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a map is never empty")]
    pub fn len(&self) -> usize {
        self.region.raw.len()
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

    /// Gives the memory of a range back to the kernel; it reads as zero from then on. A segment
    /// that is sealed against future writers keeps its memory until its last user is gone (see
    /// [`Puncher`](crate::Puncher)); there nothing is done, and the bytes keep their value.
    ///
    /// # Panics
    /// When the range is not inside the segment.
    pub fn punch(&self, offset: usize, len: usize) -> io::Result<()> {
        self.region.check(offset, len);
        match &self.region.fd {
            Some(fd) => punch(fd, offset, len),
            None => Ok(()),
        }
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
