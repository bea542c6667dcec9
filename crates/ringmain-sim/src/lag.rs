//! How late a busy host lets its processes run.
//!
//! Whoever judges times that were observed in several processes judges the host, too: a request
//! stands in its server's socket until that is let run. So a run measures how much later than asked
//! it wakes up itself, and grants the same to those whom it observes. On a host that is not busy
//! that is next to nothing.

use std::thread;
use std::time::{Duration, Instant};

/// The time of one look.
const STEP: Duration = Duration::from_millis(10);
/// Wake-ups that may stand between what happens and its record: of a sender's task, of its
/// connection's, of the receiver, and of whoever writes it down.
const WAKE_UPS: u32 = 4;

/// Sleeps, and remembers how much too long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lag {
    worst: Duration,
}

impl Lag {
    /// Sleeps for this time, in short steps.
    pub fn sleep(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let begun = Instant::now();
            let step = end.saturating_duration_since(begun).min(STEP);
            if step.is_zero() {
                return;
            }
            thread::sleep(step);
            self.worst = self.worst.max(begun.elapsed().saturating_sub(step));
        }
    }

    /// How late an observation may be that passed through the processes of this host.
    pub fn slack(&self) -> Duration {
        self.worst * WAKE_UPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sleeps_for_no_less_than_asked() {
        let (mut lag, begun) = (Lag::default(), Instant::now());
        assert_eq!(lag.slack(), Duration::ZERO);
        lag.sleep(Duration::from_millis(25));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(25));
        assert!(lag.slack() <= (took - Duration::from_millis(5)) * WAKE_UPS, "{lag:?} {took:?}");
    }
}
