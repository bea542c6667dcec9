//! The monotonic clock, read once for what happens without a wait.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ringmain_shm::monotonic_ns;

/// Most readings that are made for the pair by which instants are told.
const READINGS_MAX: usize = 8;
/// Readings of a pair that lie no further apart are taken for one.
const APART_NS_MAX: u64 = 1_000;

/// The clock of one task. While the task is polled all that it does has one time.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// The time of the present poll; 0 while there is none.
    now_ns: AtomicU64,
}

impl Clock {
    /// The time, ns of the monotonic clock.
    pub fn now_ns(&self) -> u64 {
        match self.now_ns.load(Relaxed) {
            0 => monotonic_ns(),
            now_ns => now_ns,
        }
    }

    /// Reads the time of the present poll anew.
    pub fn renew(&self) {
        if self.now_ns.load(Relaxed) != 0 {
            self.now_ns.store(monotonic_ns(), Relaxed);
        }
    }

    /// Polls the task, at this time.
    pub fn poll<T>(&self, now_ns: u64, poll: impl FnOnce() -> T) -> T {
        self.now_ns.store(now_ns, Relaxed);
        let polled = poll();
        self.now_ns.store(0, Relaxed);
        polled
    }
}

/// The instant of a time of the monotonic clock, without a look at it.
// Bound: thirty years; a timer cannot be set to the end of time.
pub fn instant(at_ns: u64) -> Instant {
    const YEARS: Duration = Duration::from_secs(30 * 365 * 86_400);
    static PAIR: OnceLock<(Instant, u64)> = OnceLock::new();
    let (instant, ns) = *PAIR.get_or_init(pair);
    match at_ns.checked_sub(ns) {
        Some(ahead_ns) => instant + Duration::from_nanos(ahead_ns).min(YEARS),
        None => instant.checked_sub(Duration::from_nanos(ns - at_ns)).unwrap_or(instant),
    }
}

/// One time in both words. A thread that had to wait between its readings reads again.
fn pair() -> (Instant, u64) {
    let read = || {
        let (before_ns, instant, after_ns) = (monotonic_ns(), Instant::now(), monotonic_ns());
        (after_ns - before_ns, instant, before_ns)
    };
    let mut best = read();
    for _ in 1..READINGS_MAX {
        if best.0 <= APART_NS_MAX {
            break;
        }
        best = best.min(read());
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_has_one_time_and_each_its_own() {
        let clock = Clock::default();
        let twice = || {
            let first_ns = clock.now_ns();
            std::thread::sleep(Duration::from_millis(2));
            (first_ns, clock.now_ns())
        };
        let (first_ns, second_ns) = twice();
        assert!(second_ns > first_ns, "outside of a poll");
        assert_eq!(clock.poll(7, twice), (7, 7));
        assert_eq!(clock.poll(8, twice), (8, 8));
        assert!(clock.now_ns() > second_ns, "again outside of one");
    }

    #[test]
    fn instants_are_those_of_the_clock() {
        let before = Instant::now();
        let now = instant(monotonic_ns());
        let (after, slack) = (Instant::now(), Duration::from_millis(5));
        assert!(now + slack >= before && now <= after + slack);
        assert_eq!(instant(2_000) - instant(1_000), Duration::from_nanos(1_000));
        assert!(instant(u64::MAX) > after + Duration::from_secs(86_400));
        let _ = instant(0);
    }
}
