//! How many streams of one HTTP/2 connection may be reset before it takes no new ones.
//!
//! Servers defend themselves against floods of resets and end the whole connection, with every
//! stream on it: some after 200 within 30 s, some after 20 of streams that they had not looked at
//! yet. So a connection whose requests are given up again and again is left early: the streams
//! that are still on it may be reset too without reaching such a limit.

use std::time::{Duration, Instant};

/// Resets that a connection may have at once.
const BURST: u32 = 48;
/// Of streams that gave no sign of life yet.
const YOUNG_BURST: u32 = 8;
/// One of either is forgiven each second.
const FORGIVEN_EVERY: Duration = Duration::from_secs(1);

/// Resets of one connection that are not forgiven yet.
#[derive(Debug, Default)]
pub(super) struct Resets {
    all: u32,
    young: u32,
    since: Option<Instant>,
}

impl Resets {
    /// A stream is reset; `young` if nothing had come back on it. False when the connection
    /// should take no new streams.
    pub fn take(&mut self, young: bool, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let forgiven = now.saturating_duration_since(since).as_secs();
        let count = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.all = self.all.saturating_sub(count);
        self.young = self.young.saturating_sub(count);
        self.since = Some(since + FORGIVEN_EVERY * count);
        self.all += 1;
        self.young += u32::from(young);
        self.all < BURST && self.young < YOUNG_BURST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_cut_and_a_trickle_is_not() {
        let start = Instant::now();
        let mut resets = Resets::default();
        let taken = (0..200).take_while(|_| resets.take(false, start)).count();
        assert_eq!(taken, BURST as usize - 1);
        let mut resets = Resets::default();
        let taken = (0..200).take_while(|_| resets.take(true, start)).count();
        assert_eq!(taken, YOUNG_BURST as usize - 1);
        let mut resets = Resets::default();
        for second in 0..500 {
            assert!(resets.take(true, start + Duration::from_secs(second)));
        }
        // Within any 30 s a connection and the 100 streams that it may still have stay below 200.
        let most = BURST + 30 + 100;
        assert!(most < 200);
    }
}
