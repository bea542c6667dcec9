//! The task that sleeps for all streams of a hub.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use ringmain_shm::Readiness;
use ringmain_wire::Code;

use super::Hub;
use crate::attach::Attachment;
use crate::news::{Fault, read_news};

/// What the hub's task waits for.
#[derive(Debug)]
pub(super) struct Ends {
    bell: Readiness,
    control: Readiness,
    exit: Readiness,
}

impl Ends {
    pub(super) fn new(attachment: &Attachment) -> io::Result<Ends> {
        let watch = |fd: BorrowedFd<'_>| Readiness::new(fd.try_clone_to_owned()?);
        Ok(Ends {
            bell: watch(attachment.bell.as_fd())?,
            control: watch(attachment.control.as_fd())?,
            exit: watch(attachment.pidfd.as_fd())?,
        })
    }

    /// Ready when anything happened. An error: the broker is gone, or cannot be watched any more.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<(bool, bool)>> {
        let bell = self.bell.poll_readable(cx)?.is_ready();
        let control = self.control.poll_readable(cx)?.is_ready();
        let exited = self.exit.poll_readable(cx)?.is_ready();
        match bell || control || exited {
            true => Poll::Ready(Ok((control, exited))),
            false => Poll::Pending,
        }
    }
}

/// Ends the hub however its task ends: with the broker, or with its runtime.
pub(super) struct EndGuard(pub(super) Arc<Hub>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let text = "the runtime that served it was shut down; call again";
        self.0.end(Fault::Closed(Code::SessionClosed, text.to_owned()));
    }
}

/// The guard comes from outside: a task that is never polled runs none of its own code.
pub(super) async fn react(guard: EndGuard, ends: Ends) {
    let hub = &guard.0;
    let mut woken = Vec::new();
    loop {
        let Ok((control, exited)) = poll_fn(|cx| ends.poll(cx)).await else {
            return hub.end(Fault::Gone);
        };
        if control {
            let news = read_news(&hub.attachment.control);
            hub.lock().closing |= news.draining;
            if let Some(fault) = news.fault {
                return hub.end(fault);
            }
        }
        if exited {
            return hub.end(Fault::Gone);
        }
        hub.turn(&mut woken);
    }
}
