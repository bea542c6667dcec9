//! How an exchange is told to end before its time.

use std::sync::atomic::{AtomicU8, Ordering};

use ringmain_wire::Code;
use tokio::sync::Notify;

/// Why an exchange has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StopCause {
    /// The caller cancelled it.
    Cancelled = 1,
    /// The drain limit of the broker passed.
    Drained = 2,
    /// The session of the caller ended.
    SessionClosed = 3,
}

/// One exchange's stop: the first cause counts, further ones change nothing.
#[derive(Debug, Default)]
pub struct Stop {
    cause: AtomicU8,
    told: Notify,
}

impl Stop {
    /// Asks the exchange to end. Never waits.
    pub fn request(&self, cause: StopCause) {
        let first =
            self.cause.compare_exchange(0, cause as u8, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() {
            self.told.notify_one();
        }
    }

    /// Whether it was asked.
    #[inline]
    pub(crate) fn is_requested(&self) -> bool {
        self.cause.load(Ordering::Relaxed) != 0
    }

    /// Waits for the request; for the exchange's own task alone.
    pub(crate) async fn requested(&self) -> StopCause {
        // Bound: a notification is kept until it is taken, so the second round has a cause.
        loop {
            match self.cause.load(Ordering::Relaxed) {
                0 => self.told.notified().await,
                1 => return StopCause::Cancelled,
                2 => return StopCause::Drained,
                _ => return StopCause::SessionClosed,
            }
        }
    }
}

impl StopCause {
    /// The code that the exchange ends with.
    pub(crate) fn code(self) -> Code {
        match self {
            StopCause::Cancelled => Code::Cancelled,
            StopCause::Drained => Code::Drained,
            StopCause::SessionClosed => Code::SessionClosed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_cause_counts_whenever_it_comes() {
        let stop = Stop::default();
        stop.request(StopCause::Drained);
        stop.request(StopCause::Cancelled);
        assert_eq!(stop.requested().await, StopCause::Drained);
        assert_eq!(stop.requested().await.code(), Code::Drained);
    }
}
