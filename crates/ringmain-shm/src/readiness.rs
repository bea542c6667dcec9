//! Waiting for a descriptor inside a tokio runtime.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor registered with the runtime, edge-triggered: it becomes ready once per ring,
/// datagram, connection or exit, and whoever was told takes everything that is there. The
/// descriptor itself is never read.
///
/// A descriptor that has hung up stays ready for good.
#[derive(Debug)]
pub struct Readiness {
    inner: AsyncFd<OwnedFd>,
}

impl Readiness {
    /// Registers the descriptor with the runtime of the calling task. One that is ready by now
    /// tells so at the first wait.
    ///
    /// # Panics
    /// Outside a runtime, or in one without its I/O driver.
    pub fn new(fd: OwnedFd) -> io::Result<Readiness> {
        // SAFETY: an `OwnedFd` names one open descriptor, the same at every call, until it is
        // dropped; it is private to the `AsyncFd`, which lends it by shared reference only and
        // deregisters before it drops it.
        let inner = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(Readiness { inner })
    }

    /// Waits for an edge and clears it. What the edge told about is looked at afterwards, so that
    /// the next edge is not missed. Dropping the future loses nothing.
    pub async fn readable(&self) -> io::Result<()> {
        self.inner.readable().await?.clear_ready();
        Ok(())
    }

    /// As [`Readiness::readable`], for the one task that polled last.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.inner.poll_read_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }

    /// Ends the registration and gives the descriptor back. While it is not registered its rings
    /// cost this process nothing; a later [`Readiness::new`] is ready at once if there were any.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.inner.into_inner()
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().as_fd()
    }
}
