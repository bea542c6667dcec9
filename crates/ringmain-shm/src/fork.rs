//! Telling a forked child from its parent.
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapMut, MmapRaw};

const PARENT: u64 = 0x7061_7265_6e74_2121;

/// A page that the kernel wipes in every forked child.
///
/// A child inherits bells, sockets and locks that belong to its parent's sessions; it must leave
/// them alone. Asking for the pid would cost a system call on every call of the client and fails
/// when pids are reused; a wiped page costs one load.
#[derive(Debug)]
pub struct ForkMark {
    page: MmapRaw,
}

impl ForkMark {
    /// Marks this process.
    pub fn new() -> io::Result<ForkMark> {
        let page = MmapRaw::from(MmapMut::map_anon(size_of::<u64>())?);
        // SAFETY: the range is exactly the anonymous private page mapped above, which nothing else
        // refers to; the advice changes nothing but what a child will find there.
        let done =
            unsafe { libc::madvise(page.as_mut_ptr().cast(), page.len(), libc::MADV_WIPEONFORK) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let mark = ForkMark { page };
        mark.word().store(PARENT, Ordering::Relaxed);
        Ok(mark)
    }

    /// Whether this process is a child of the one that made the mark.
    #[inline]
    #[must_use]
    pub fn is_child(&self) -> bool {
        self.word().load(Ordering::Relaxed) != PARENT
    }

    /// Makes this process look like a forked child from now on. For tests of those who keep marks.
    #[doc(hidden)]
    pub fn wipe(&self) {
        self.word().store(0, Ordering::Relaxed);
    }

    #[inline]
    fn word(&self) -> &AtomicU64 {
        // SAFETY: the first word of a page that lives as long as `self`, aligned because a page is,
        // and touched only through this function.
        unsafe { AtomicU64::from_ptr(self.page.as_mut_ptr().cast()) }
    }
}
