//! What only tests need and cannot have without unsafe code. Not behind a feature: one that tests
//! alone switch on would have the whole tree built twice, and nothing of this reaches a program
//! that does not call it.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

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
