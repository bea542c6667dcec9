//! Children of a test: forked, perhaps under another uid, judged by their exit code.
#![allow(dead_code, clippy::unwrap_used)] // each test binary uses a part

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, pipe, setgid, setgroups, setuid};

/// A uid that is nobody's.
pub const STRANGER: u32 = 54_321;

/// Lets the tests of one binary run one by one: a child forked by one test would hold the sockets
/// of another open, and what was closed would not show as closed.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether children can take another uid; prints why a test is skipped when not.
pub fn can_change_uid() -> bool {
    let root = Uid::effective().is_root();
    if !root {
        eprintln!("skipped: only root can run a child under another uid");
    }
    root
}

/// A forked child.
pub struct Child(Pid);

impl Child {
    /// The exit code of the child: what its body returned, 99 for a panic.
    pub fn wait(self) -> i32 {
        match waitpid(self.0, None).unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("child ended by {other:?}"),
        }
    }

    pub fn pid(&self) -> i32 {
        self.0.as_raw()
    }
}

/// Forks. The body must not print: another thread may have held the lock of the output.
pub fn spawn(uid: Option<u32>, body: impl FnOnce() -> i32) -> Child {
    // SAFETY: glibc makes its own locks usable in the child; the body takes no other lock that
    // another thread could have held, and the child leaves by `_exit`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => Child(child),
        ForkResult::Child => {
            let run = AssertUnwindSafe(|| {
                if let Some(uid) = uid {
                    setgroups(&[]).unwrap();
                    setgid(Gid::from_raw(uid)).unwrap();
                    setuid(Uid::from_raw(uid)).unwrap();
                }
                body()
            });
            let code = catch_unwind(run).unwrap_or(99);
            // SAFETY: ends the process, nothing runs afterwards.
            unsafe { libc::_exit(code) }
        }
    }
}

/// A gate between two processes: closed until the other side opens it.
pub struct Gate {
    read: OwnedFd,
    write: OwnedFd,
}

impl Gate {
    pub fn new() -> Gate {
        let (read, write) = pipe().unwrap();
        Gate { read, write }
    }

    pub fn open(&self) {
        std::fs::File::from(self.write.try_clone().unwrap()).write_all(&[1]).unwrap();
    }

    pub fn pass(&self) {
        std::fs::File::from(self.read.try_clone().unwrap()).read_exact(&mut [0]).unwrap();
    }
}
