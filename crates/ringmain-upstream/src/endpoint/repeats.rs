//! How many requests an endpoint may be sent twice in vain.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Repeats of late that may have been in vain; one of them is forgotten each second.
const FRUITLESS_MAX: u32 = 32;
const FORGOTTEN_EVERY: Duration = Duration::from_secs(1);

/// Counts repeats that changed nothing: whoever sends what is refused in any case must not double
/// the load of an endpoint with it. Those that help are soon not needed any more, and free.
#[derive(Debug, Default)]
pub(super) struct Repeats(Mutex<Fruitless>);

#[derive(Debug, Default)]
struct Fruitless {
    count: u32,
    since: Option<Instant>,
}

impl Repeats {
    /// Whether one more request may be repeated.
    pub fn may(&self, now: Instant) -> bool {
        self.0.lock().at(now) < FRUITLESS_MAX
    }

    /// A repeat was refused like the request before it.
    pub fn was_fruitless(&self, now: Instant) {
        let mut fruitless = self.0.lock();
        fruitless.count = fruitless.at(now).saturating_add(1);
    }
}

impl Fruitless {
    fn at(&mut self, now: Instant) -> u32 {
        let since = *self.since.get_or_insert(now);
        let seconds = now.saturating_duration_since(since).as_secs();
        let forgotten = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.count = self.count.saturating_sub(forgotten);
        self.since = Some(since + FORGOTTEN_EVERY * forgotten);
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_vain_is_soon_not_done() {
        let start = Instant::now();
        let repeats = Repeats::default();
        for _ in 0..FRUITLESS_MAX {
            assert!(repeats.may(start));
            repeats.was_fruitless(start);
        }
        assert!(!repeats.may(start + Duration::from_millis(900)));
        assert!(repeats.may(start + FORGOTTEN_EVERY));
        repeats.was_fruitless(start + FORGOTTEN_EVERY);
        assert!(!repeats.may(start + FORGOTTEN_EVERY));
        assert!(repeats.may(start + 100 * FORGOTTEN_EVERY));
    }
}
