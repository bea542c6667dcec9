//! The blocking wait of a client: its bell, its control socket, and the life of its peer.
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::doorbell::Bell;

const BELL: u64 = 0;
const CONTROL: u64 = 1;
const EXITED: u64 = 2;

/// What ended a sleep. All false: the time was up, or a signal was handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// The bell was rung since the last sleep.
    pub bell: bool,
    /// The control socket has something to read: a message, a ring by datagram, or the hang-up. It
    /// stays so until it is read.
    pub control: bool,
    /// The peer process has exited. It stays so.
    pub exited: bool,
}

/// An epoll instance of the client's own. The bell is watched by edge and never read; the control
/// socket and the pidfd are watched by level. A wait that ends tells all three at once.
#[derive(Debug)]
pub struct Sleeper {
    epoll: Epoll,
}

impl Sleeper {
    /// Watches all three. They stay the caller's; one that is closed is no longer watched.
    pub fn new(bell: &Bell, control: BorrowedFd<'_>, pidfd: BorrowedFd<'_>) -> io::Result<Sleeper> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        let level = EpollFlags::EPOLLIN;
        let hang_up = level | EpollFlags::EPOLLRDHUP;
        epoll.add(bell.as_fd(), EpollEvent::new(edge, BELL))?;
        epoll.add(control, EpollEvent::new(hang_up, CONTROL))?;
        epoll.add(pidfd, EpollEvent::new(level, EXITED))?;
        Ok(Sleeper { epoll })
    }

    /// Sleeps until one of the three has something to tell, a signal was handled, or the time is
    /// up (to the next millisecond). Without a time it sleeps until then.
    pub fn sleep(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        let mut events = [EpollEvent::empty(); 3];
        let count = match self.epoll.wait(&mut events, epoll_timeout(timeout)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        let mut woken = Woken::default();
        for event in &events[..count] {
            match event.data() {
                BELL => woken.bell = true,
                CONTROL => woken.control = true,
                _ => woken.exited = true,
            }
        }
        Ok(woken)
    }
}

/// Rounded up: a sleep that ends early would be repeated for nothing.
fn epoll_timeout(timeout: Option<Duration>) -> EpollTimeout {
    let Some(timeout) = timeout else { return EpollTimeout::NONE };
    let ms = timeout.as_nanos().div_ceil(1_000_000);
    // Bound: 24 days; whoever sleeps longer is woken once for nothing.
    i32::try_from(ms)
        .ok()
        .and_then(|ms| EpollTimeout::try_from(ms).ok())
        .unwrap_or(EpollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeper_rounds_a_timeout_up() {
        let ms = |nanos| epoll_timeout(Some(Duration::from_nanos(nanos)));
        assert_eq!(ms(0), EpollTimeout::ZERO);
        assert_eq!(ms(1), EpollTimeout::from(1u8));
        assert_eq!(ms(1_000_001), EpollTimeout::from(2u8));
        assert_eq!(epoll_timeout(Some(Duration::MAX)), EpollTimeout::MAX);
        assert_eq!(epoll_timeout(None), EpollTimeout::NONE);
    }
}
