//! How many requests one HTTP/2 connection of a server may carry, learned from what it refuses.
//!
//! A server that is busy for a moment refuses streams too, at whatever number. So a low number is
//! believed only when it is seen again, and every number is doubted as soon as a
//! connection that is full works well: at first after seconds, and after longer each time that the
//! doubt was wrong.

use std::time::{Duration, Instant};

/// A refusal with at least so many others on the connection is believed at once.
const FLOOR: u32 = 16;
/// Below, so many refusals at the same number are.
const REPEATS: u8 = 2;
/// If they come within this time.
const REPEATS_WITHIN: Duration = Duration::from_secs(10);
/// How long a number is not doubted after it changed.
const PATIENCE_MIN: Duration = Duration::from_secs(2);
const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// What is known of one server.
#[derive(Debug)]
pub(super) struct StreamLimit {
    most: u32,
    limit: u32,
    changed_at: Option<Instant>,
    patience: Duration,
    /// Whether the last change was one upwards.
    has_grown: bool,
    /// Refusals by the number of others, below the floor, and since when they are counted.
    refusals: [u8; FLOOR as usize],
    counted_since: Option<Instant>,
}

impl StreamLimit {
    /// `most`: as many as there may be in any case.
    pub fn new(most: u32) -> StreamLimit {
        StreamLimit {
            most,
            limit: most,
            changed_at: None,
            patience: PATIENCE_MIN,
            has_grown: false,
            refusals: [0; FLOOR as usize],
            counted_since: None,
        }
    }

    /// Most requests of one connection.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    pub fn is_most(&self) -> bool {
        self.limit == self.most
    }

    /// The server would not take one more than `streams`. True when that is believed and new.
    pub fn refused(&mut self, streams: u32, now: Instant) -> bool {
        if streams >= self.limit || streams < FLOOR && !self.is_repeated(streams, now) {
            return false;
        }
        if self.has_grown {
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
        }
        self.limit = streams.max(1);
        self.changed(now, false);
        true
    }

    /// A connection is held to fewer than the others may have.
    pub fn held_back(&mut self, now: Instant) {
        self.changed_at = Some(now);
    }

    /// A connection with as many as it may have works well. True when all may have more now.
    pub fn works_full(&mut self, now: Instant) -> bool {
        let since = self.changed_at.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since < self.patience) {
            return false;
        }
        if self.has_grown {
            self.patience = PATIENCE_MIN;
        }
        self.limit = self.limit.saturating_mul(2).min(self.most);
        self.changed(now, true);
        true
    }

    fn changed(&mut self, now: Instant, has_grown: bool) {
        (self.changed_at, self.has_grown) = (Some(now), has_grown);
    }

    fn is_repeated(&mut self, streams: u32, now: Instant) -> bool {
        let is_old = |since| now.saturating_duration_since(since) > REPEATS_WITHIN;
        if self.counted_since.is_none_or(is_old) {
            (self.refusals, self.counted_since) = ([0; FLOOR as usize], Some(now));
        }
        let Some(count) = self.refusals.get_mut(streams as usize) else { return true };
        *count = count.saturating_add(1);
        *count >= REPEATS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_low_number_is_believed_when_it_repeats() {
        let start = Instant::now();
        let mut limit = StreamLimit::new(100);
        assert!(limit.refused(40, start));
        assert!(!limit.refused(1, start));
        assert!(!limit.refused(1, start + S(11)), "those before are forgotten");
        assert_eq!(limit.limit(), 40);
        assert!(!limit.refused(5, start + S(11)));
        assert!(limit.refused(5, start + S(13)));
        assert_eq!(limit.limit(), 5);
        assert!(!limit.refused(7, start + S(13)), "what is higher is no news");
    }

    #[test]
    fn a_number_is_doubted_within_seconds_and_later_when_it_was_right() {
        let start = Instant::now();
        let mut limit = StreamLimit::new(100);
        limit.refused(20, start);
        assert!(!limit.works_full(start + S(1)));
        assert!(limit.works_full(start + S(2)));
        assert_eq!(limit.limit(), 40);
        limit.refused(20, start + S(3));
        assert!(!limit.works_full(start + S(6)));
        assert!(limit.works_full(start + S(7)));
        // A growth that holds is followed by the next without delay.
        assert!(limit.works_full(start + S(11)) && limit.works_full(start + S(13)));
        assert!(limit.is_most());
    }
}
