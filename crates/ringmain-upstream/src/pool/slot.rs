//! One connection of a pool, while nobody uses it and while somebody does.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use ringmain_shm::SocketHandle;

use super::line::Line;
use super::link::Link;

/// A connection, and what is spoken on it.
pub(super) struct Slot {
    pub line: Arc<Line>,
    idle: Mutex<Idle>,
}

/// A connection on which requests can be sent.
pub(super) struct Opened {
    pub link: Link,
    /// Whether a proxy passes requests on that say where they go.
    pub is_forwarded: bool,
}

struct Idle {
    /// An HTTP/1.1 connection while nobody has it; a share of another.
    opened: Option<Opened>,
    /// The task that watches over it.
    watcher: Waker,
}

impl Opened {
    /// The same connection once more, if it takes several requests at once.
    pub fn shared(&self) -> Option<Opened> {
        let Link::Http2(sender) = &self.link else { return None };
        Some(Opened { link: Link::Http2(sender.clone()), is_forwarded: self.is_forwarded })
    }
}

impl Slot {
    /// A slot for a connection that is to be made.
    pub fn new(line: Arc<Line>) -> Slot {
        let idle = Idle { opened: None, watcher: Waker::noop().clone() };
        Slot { line, idle: Mutex::new(idle) }
    }

    /// Takes what a request needs: all of an HTTP/1.1 connection, a share of another.
    pub fn take(&self) -> Option<Opened> {
        let mut idle = self.idle.lock();
        idle.opened.as_ref().and_then(Opened::shared).or_else(|| idle.opened.take())
    }

    /// Puts back what was taken; false when it is over.
    pub fn put(&self, mut opened: Opened) -> bool {
        let mut idle = self.idle.lock();
        // It is polled once, so that what comes now wakes the watcher.
        let mut cx = Context::from_waker(&idle.watcher);
        let is_well = opened.link.poll_ready(&mut cx) != Poll::Ready(false);
        if is_well {
            idle.opened = Some(opened);
        }
        is_well
    }

    /// Has a task see to it that the end of the connection is noticed.
    pub fn watch(self: &Arc<Slot>) {
        let watching = tokio::spawn(watch(Arc::downgrade(self), self.line.socket()));
        self.line.watched_by(watching.abort_handle());
    }

    /// Ready when nobody has the connection and it is over.
    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut idle = self.idle.lock();
        if !idle.watcher.will_wake(cx.waker()) {
            idle.watcher.clone_from(cx.waker());
        }
        let opened = idle.opened.as_mut();
        match opened.map(|opened| opened.link.poll_ready(cx)) {
            Some(Poll::Ready(false)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

async fn watch(slot: Weak<Slot>, socket: Option<Arc<SocketHandle>>) {
    {
        let mut hung_up = pin!(async {
            match &socket {
                Some(socket) => socket.hung_up().await,
                // Its end is read from it, by whoever has it or by this task.
                None => pending().await,
            }
        });
        poll_fn(|cx| match (hung_up.as_mut().poll(cx), slot.upgrade()) {
            (Poll::Pending, Some(slot)) => slot.poll_end(cx),
            _ => Poll::Ready(()),
        })
        .await;
    }
    drop(socket);
    if let Some(slot) = slot.upgrade() {
        slot.line.ended();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(opened) = self.idle.get_mut().opened.take() {
            opened.link.close();
        }
    }
}
