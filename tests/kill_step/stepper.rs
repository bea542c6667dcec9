//! One traced process: advanced by instructions, killed between two of them.

use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::client::{BEGIN, END, NOT_TRACED};
use super::tape::Reel;

/// A client that stands somewhere in its operation. The thread that started it is its tracer.
pub struct Stepper {
    child: Child,
    /// The thread of the client that does the work.
    thread: Pid,
    /// What the client notes.
    pub reel: Reel,
    /// Whether its end was seen: its process id may be somebody else's then.
    is_over: bool,
}

/// How far a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// It stands behind so many instructions.
    Inside(u64),
    /// The operation ended after so many.
    Ended(u64),
}

/// Why a client is not where it should be.
#[derive(Debug)]
pub enum Stray {
    /// The machine does not let a process be traced.
    NotTraced,
    /// The client ended, or was stopped by something else.
    Unexpected(WaitStatus),
}

impl Stepper {
    /// Starts a client and lets it run up to its first mark.
    pub fn start(mut command: Command) -> Result<Stepper, Stray> {
        let (reel, tape) = Reel::blank();
        let child = command.stdin(Stdio::from(tape)).stdout(Stdio::null()).spawn().unwrap();
        let thread = Pid::from_raw(0);
        let mut stepper = Stepper { child, thread, reel, is_over: false };
        // No other child of this thread is alive, so the thread in question is the one that stops.
        match stepper.wait(Pid::from_raw(-1)) {
            WaitStatus::Stopped(thread, BEGIN) => {
                stepper.thread = thread;
                ptrace::setoptions(thread, Options::PTRACE_O_EXITKILL).unwrap();
                Ok(stepper)
            }
            WaitStatus::Exited(_, NOT_TRACED) => Err(Stray::NotTraced),
            other => Err(Stray::Unexpected(other)),
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The thread that is stepped.
    pub fn thread(&self) -> Pid {
        self.thread
    }

    /// Lets it run on to its next mark.
    pub fn go_on(&mut self) -> Result<(), Stray> {
        let _ = ptrace::cont(self.thread, None);
        match self.wait(self.thread) {
            WaitStatus::Stopped(_, BEGIN) => Ok(()),
            other => Err(Stray::Unexpected(other)),
        }
    }

    /// Lets the client execute so many instructions, fewer when its operation ends before. A
    /// system call counts as one.
    pub fn advance(&mut self, instructions: u64) -> Result<Advance, Stray> {
        for done in 0..instructions {
            // A thread that cannot be stepped is ending, which is what waiting for it tells.
            let _ = ptrace::step(self.thread, None);
            match self.wait(self.thread) {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
                WaitStatus::Stopped(_, END) => return Ok(Advance::Ended(done)),
                other => return Err(Stray::Unexpected(other)),
            }
        }
        Ok(Advance::Inside(instructions))
    }

    /// Kills the client where it stands, and returns when nothing of it is left.
    pub fn kill(&mut self) {
        if !self.is_over {
            self.child.kill().unwrap();
        }
        // Bound: the threads of this client.
        while self.wait(Pid::from_raw(-1)) != WaitStatus::StillAlive {}
    }

    /// Waits for a thread that this thread traces, or for any; `StillAlive`: there is none.
    fn wait(&mut self, thread: Pid) -> WaitStatus {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let status = loop {
            match waitpid(thread, Some(flags)) {
                Ok(status) => break status,
                Err(Errno::EINTR) => {}
                Err(_) => break WaitStatus::StillAlive,
            }
        };
        if let WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) = status {
            self.is_over |= pid.as_raw().cast_unsigned() == self.child.id();
        }
        status
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        self.kill();
    }
}
