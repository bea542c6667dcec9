//! Ringing an eventfd through kernel AIO: the one way to signal a shared eventfd that never waits.
//!
//! `write(2)` on an eventfd waits when the counter is full, and whether it waits or fails is a flag
//! of the description, which every holder of the descriptor may change. The signal that the
//! kernel itself sends when an asynchronous operation completes knows neither flag nor limit. So
//! the operation is the cheapest that exists, a read of one byte of `/dev/zero`: it completes
//! inside `io_submit`, and the eventfd named in the control block is signalled on the way.
//!
//! A completion leaves an event in the context's ring. Events are taken out in batches by
//! `io_getevents` that asks for none and waits for none.
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Completions that a context can hold.
/// Bound: taken out before [`REAP_AT`] of them are there, so a slot is free at every submit.
const DEPTH: u32 = 128;
/// Completions after which a context is emptied.
const REAP_AT: u32 = 48;

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_FLAG_RESFD: u32 = 1;

/// The kernel's `struct iocb`, little-endian order of its two 32-bit halves included.
#[repr(C)]
#[derive(Default)]
struct ControlBlock {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// The kernel's `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Completion {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

const _: () = assert!(size_of::<ControlBlock>() == 64 && size_of::<Completion>() == 32);

/// Where the byte of every read goes. Nobody looks at it; it outlives every context.
static SINK: AtomicU8 = AtomicU8::new(0);

/// `/dev/zero`, opened once; an error if what stands there is something else that could wait.
static ZERO: LazyLock<io::Result<OwnedFd>> = LazyLock::new(|| {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open("/dev/zero")?;
    let meta = file.metadata()?;
    if !meta.file_type().is_char_device() || meta.rdev() != libc::makedev(1, 5) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "/dev/zero is not the zero device"));
    }
    Ok(file.into())
});

/// The context of threads that got none of their own, and the proof that AIO works here.
static RESERVE: LazyLock<io::Result<Context>> = LazyLock::new(Context::new);

thread_local! {
    /// One context per thread: a submit then shares no lock with another thread.
    static OWN: Option<Context> = Context::new().ok();
}

/// Whether this kernel and this process may use AIO at all.
pub(crate) fn probe() -> io::Result<()> {
    let failed = ZERO.as_ref().err().or(RESERVE.as_ref().err());
    failed.map_or(Ok(()), |e| Err(io::Error::new(e.kind(), e.to_string())))
}

/// Adds 1 to the eventfd and wakes who waits for it. Never waits.
pub(crate) fn signal(eventfd: BorrowedFd<'_>) -> io::Result<()> {
    let own = OWN.try_with(|context| context.as_ref().map(|context| context.signal(eventfd)));
    match own {
        Ok(Some(done)) => done,
        // A thread without a context of its own, or one that is being torn down.
        Ok(None) | Err(_) => match RESERVE.as_ref() {
            Ok(context) => context.signal(eventfd),
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
        },
    }
}

/// One AIO context of the kernel.
struct Context {
    id: libc::c_ulong,
    /// Completions that were not taken out yet.
    waiting: AtomicU32,
}

impl Context {
    fn new() -> io::Result<Context> {
        let mut id: libc::c_ulong = 0;
        // SAFETY: the kernel writes one `aio_context_t`, an unsigned long, to a valid place, which
        // must hold zero before.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, DEPTH, &raw mut id) };
        check(done)?;
        Ok(Context { id, waiting: AtomicU32::new(0) })
    }

    fn signal(&self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= REAP_AT {
            self.reap()?;
        }
        match self.submit(eventfd) {
            // Threads that share the reserve filled it between two looks at the count.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.reap()?;
                self.submit(eventfd)
            }
            done => done,
        }
    }

    fn submit(&self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        let zero = match ZERO.as_ref() {
            Ok(zero) => zero.as_fd(),
            Err(e) => return Err(io::Error::new(e.kind(), e.to_string())),
        };
        let mut block = ControlBlock {
            opcode: IOCB_CMD_PREAD,
            fd: zero.as_raw_fd().cast_unsigned(),
            buffer: SINK.as_ptr().expose_provenance() as u64,
            bytes: 1,
            flags: IOCB_FLAG_RESFD,
            eventfd: eventfd.as_raw_fd().cast_unsigned(),
            ..ControlBlock::default()
        };
        let mut list = [&raw mut block];
        // SAFETY: the list holds one pointer to a control block, and the kernel is done with both
        // when the call returns (it copies the block and writes its key). The read lands in a
        // static byte that only the kernel writes and nobody reads, so it may land at any time.
        let done = unsafe {
            libc::syscall(libc::SYS_io_submit, self.id, 1 as libc::c_long, &raw mut list)
        };
        check(done)
    }

    /// Takes out what is there, at most a ringful, and waits for nothing.
    fn reap(&self) -> io::Result<()> {
        let mut events = [Completion::default(); DEPTH as usize];
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes at most `DEPTH` events into an array of that many, and reads
        // a valid timespec.
        let taken = unsafe {
            let (least, most) = (0 as libc::c_long, DEPTH as libc::c_long);
            let out = events.as_mut_ptr();
            libc::syscall(libc::SYS_io_getevents, self.id, least, most, out, &raw mut now)
        };
        check(taken)?;
        self.waiting.store(0, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context was made by `io_setup` and is used by nobody else any more; no
        // operation is under way, because each completed inside its submit.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.id) };
    }
}

fn check(done: libc::c_long) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::{EfdFlags, EventFd};

    fn eventfd() -> EventFd {
        EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap()
    }

    #[test]
    fn ringer_context_is_emptied_before_it_is_full() {
        let (context, bell) = (Context::new().unwrap(), eventfd());
        for _ in 0..3 * DEPTH {
            context.signal(bell.as_fd()).unwrap();
            assert!(context.waiting.load(Ordering::Relaxed) <= REAP_AT);
        }
        assert_eq!(bell.read().unwrap(), u64::from(3 * DEPTH));
    }

    /// As when many threads share the reserve: nothing is lost, and nothing waits for room.
    #[test]
    fn ringer_context_that_lost_count_is_emptied_when_the_kernel_says_full() {
        let (context, bell) = (Context::new().unwrap(), eventfd());
        let mut filled = 0u64;
        // Bound: the kernel rounds the depth up by the number of processors, not without end.
        while filled < 1_000_000 && context.submit(bell.as_fd()).is_ok() {
            filled += 1;
        }
        let full = context.submit(bell.as_fd()).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        context.signal(bell.as_fd()).unwrap();
        assert_eq!(bell.read().unwrap(), filled + 1);
    }

    #[test]
    fn ringer_reserve_serves_a_thread_without_a_context() {
        let bell = eventfd();
        RESERVE.as_ref().unwrap().signal(bell.as_fd()).unwrap();
        assert_eq!(bell.read().unwrap(), 1);
    }

    #[test]
    fn ringer_of_what_is_no_eventfd_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(signal(file.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
