//! What only tests need and cannot have without unsafe code. Not behind a feature: one that tests
//! alone switch on would have the whole tree built twice, and nothing of this reaches a program
//! that does not call it.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// Asks for memory that can be written and then executed, in each way that the kernel offers, and
/// gives it back. What is refused tells why.
pub fn ask_for_new_code() -> [(&'static str, io::Result<()>); 4] {
    const BYTES: usize = 4096;
    let (write, exec) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    let map = |protection| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        unsafe { libc::mmap(std::ptr::null_mut(), BYTES, protection, flags, -1, 0) }
    };
    let told = |failed: bool| if failed { Err(io::Error::last_os_error()) } else { Ok(()) };
    let at_once = map(write | exec);
    let mapped = told(at_once == libc::MAP_FAILED);
    let page = map(write);
    // SAFETY: the page was just mapped, if it was, and nobody else knows of it.
    let changed = told(unsafe { libc::mprotect(page, BYTES, exec) } != 0);
    // SAFETY: as before; without a key this call is the former.
    let keyed = unsafe { libc::syscall(libc::SYS_pkey_mprotect, page, BYTES, exec, -1) };
    let keyed = told(keyed != 0);
    // SAFETY: a new segment, which goes with its last user.
    let (attached, segment) = unsafe {
        let segment = libc::shmget(libc::IPC_PRIVATE, BYTES, libc::IPC_CREAT | 0o700);
        (libc::shmat(segment, std::ptr::null(), libc::SHM_EXEC), segment)
    };
    let shared = told(attached.addr() == usize::MAX);
    // SAFETY: what was mapped or attached above and is not used any more; the rest is refused.
    unsafe {
        libc::shmctl(segment, libc::IPC_RMID, std::ptr::null_mut());
        if shared.is_ok() {
            libc::shmdt(attached);
        }
        for mapping in [at_once, page].into_iter().filter(|at| *at != libc::MAP_FAILED) {
            libc::munmap(mapping, BYTES);
        }
    }
    [("mmap", mapped), ("mprotect", changed), ("pkey_mprotect", keyed), ("shmat", shared)]
}

/// Exit status of a child whose work panicked.
const PANICKED: i32 = 101;

/// Runs `work` in a forked child and waits for it. True: it came to its end without a panic.
///
/// What the child inherited is not dropped in it, unless `work` does so.
///
/// # Errors
/// This process has more than one thread: a child would inherit locks that nobody ever opens. Or
/// there can be no child.
pub fn fork_child(work: impl FnOnce()) -> io::Result<bool> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads cannot be forked safely"));
    }
    // SAFETY: the calling thread is the only one, and without another none can come up before the
    // fork; so the child finds no lock held and no structure half changed.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            Ok(matches!(waitpid(child, None)?, WaitStatus::Exited(_, 0)))
        }
        ForkResult::Child => {
            let ended = catch_unwind(AssertUnwindSafe(work));
            let status = if ended.is_ok() { 0 } else { PANICKED };
            // SAFETY: ends the process without running what the parent registered for its own end.
            unsafe { libc::_exit(status) }
        }
    }
}
