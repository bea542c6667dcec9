//! Signs of life in a silent stream.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::bell::Part;

/// A comment that a reader of events skips. Without a blank line behind it: some readers take one
/// for the end of an event.
pub(crate) const HEARTBEAT: &[u8] = b": x\n";

/// Rings after a silence of one to two intervals. What is written only clears a flag: a steady
/// stream costs no timer operation per piece.
pub(crate) struct Heartbeat {
    timer: Pin<Box<Sleep>>,
    part: Part,
    interval: Duration,
    is_silent: bool,
}

impl Heartbeat {
    /// Its first interval begins.
    pub fn new(interval: Duration) -> Heartbeat {
        let timer = Box::pin(sleep(interval));
        Heartbeat { timer, part: Part::new(), interval, is_silent: false }
    }

    /// Something was written.
    pub fn hears(&mut self) {
        self.is_silent = false;
    }

    /// Whether it is time for a sign of life.
    pub fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let Heartbeat { timer, part, interval, is_silent } = self;
        let polled = part.poll(cx, |cx| {
            let mut is_due = false;
            // Bound: a timer that was set again has not rung.
            while timer.as_mut().poll(cx).is_ready() {
                is_due = std::mem::replace(is_silent, true);
                timer.as_mut().reset(Instant::now() + *interval);
            }
            match is_due {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        polled.is_ready()
    }
}
