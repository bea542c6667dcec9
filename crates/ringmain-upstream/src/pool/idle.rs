//! How long an unused connection may be trusted.
//!
//! A server closes what was unused for its own limit. A request that is just then on its way may
//! or may not have been read: nobody can tell. So connections are given up earlier than the
//! server would, and its limit is learned: from `Keep-Alive: timeout`, and from connections that
//! it closed while they were unused.

use std::time::{Duration, Instant};

/// A limit that one close has taught is doubted after this time; each further close that agrees
/// doubles it, up to [`TRUST_MAX`].
const TRUST: Duration = Duration::from_secs(30);
const TRUST_MAX: Duration = Duration::from_secs(3600);
/// Closes within this time are one event, such as a restart: they teach one limit.
const EVENT: Duration = Duration::from_millis(500);
/// Least margin below a server's limit that is longer than twice of it.
const MARGIN: Duration = Duration::from_millis(20);

/// What is known of one server's patience.
#[derive(Debug)]
pub(super) struct IdleLimit {
    configured: Duration,
    told: Option<Duration>,
    seen: Option<Seen>,
}

/// What closes have taught.
#[derive(Clone, Copy, Debug)]
struct Seen {
    limit: Duration,
    at: Instant,
    trust: Duration,
}

impl IdleLimit {
    pub fn new(configured: Duration) -> IdleLimit {
        IdleLimit { configured, told: None, seen: None }
    }

    /// How long a connection may be unused and still be given a request.
    pub fn now(&self, now: Instant) -> Duration {
        let known = self.told.map_or(self.configured, |told| told.min(self.configured));
        match self.seen {
            None => known,
            // What was seen is trusted for a while, and then a little less with each while: a
            // server that was restarted must not shorten everything for ever.
            Some(seen) => {
                let age = now.saturating_duration_since(seen.at).as_millis();
                let doublings = age / seen.trust.as_millis().max(1);
                let factor = 1_u32 << doublings.min(24) as u32;
                known.min(seen.limit.saturating_mul(factor))
            }
        }
    }

    /// The server has told its limit.
    pub fn told(&mut self, limit: Duration) {
        self.told = Some(below(limit));
    }

    /// The server closed a connection that was unused for so long.
    pub fn closed(&mut self, idle: Duration, now: Instant) {
        let limit = below(idle);
        let Some(seen) = &mut self.seen else {
            self.seen = Some(Seen { limit, at: now, trust: TRUST });
            return;
        };
        let agrees = limit < seen.limit * 5 / 4 && seen.limit < limit * 5 / 4;
        let is_same_event = now.saturating_duration_since(seen.at) < EVENT;
        let trust = match (agrees, is_same_event) {
            (_, true) => seen.trust,
            (true, false) => (seen.trust * 2).min(TRUST_MAX),
            (false, false) => TRUST,
        };
        *seen = Seen { limit: limit.min(seen.limit), at: now, trust };
    }
}

/// A limit of ours that keeps clear of a server's.
fn below(limit: Duration) -> Duration {
    limit - (limit / 5).max(MARGIN.min(limit / 2))
}

/// The seconds of `Keep-Alive: timeout=5, max=100`. Bound: the length of the header.
pub(super) fn told_by(keep_alive: &str) -> Option<Duration> {
    let timeout = keep_alive.split(',').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        is_timeout.then(|| value.trim().trim_matches('"').parse::<u32>().ok())?
    });
    timeout.map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;
    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_header_is_read_as_servers_write_it() {
        assert_eq!(told_by("timeout=5"), Some(S(5)));
        assert_eq!(told_by("max=100, Timeout = 65"), Some(S(65)));
        for other in ["", "timeout", "timeout=x", "max=5", "timeout=-1"] {
            assert_eq!(told_by(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_a_server_tells_bounds_and_never_extends() {
        let now = Instant::now();
        let mut idle = IdleLimit::new(S(20));
        assert_eq!(idle.now(now), S(20));
        idle.told(S(5));
        assert_eq!(idle.now(now), S(4));
        idle.told(S(75));
        assert_eq!(idle.now(now), S(20));
        idle.told(S(0));
        assert_eq!(idle.now(now), S(0));
    }

    #[test]
    fn a_close_teaches_and_is_slowly_forgotten() {
        let now = Instant::now();
        let mut idle = IdleLimit::new(S(20));
        idle.closed(MS(100), now);
        assert_eq!(idle.now(now), MS(80));
        assert_eq!(idle.now(now + S(29)), MS(80));
        assert_eq!(idle.now(now + S(31)), MS(160));
        assert_eq!(idle.now(now + S(3600)), S(20));
        // A second one that agrees is remembered longer.
        idle.closed(MS(102), now + S(10));
        assert_eq!(idle.now(now + S(10) + S(59)), MS(80));
        // One event of many closes is one lesson.
        let mut idle = IdleLimit::new(S(20));
        for age in [900, 300, 2_000, 310] {
            idle.closed(MS(age), now);
        }
        assert_eq!(idle.now(now), MS(240));
        assert_eq!(idle.now(now + S(31)), MS(480));
    }

    #[test]
    fn margins_keep_clear() {
        for ms in [1, 5, 30, 50, 100, 1_000, 5_000, 75_000] {
            let (server, ours) = (MS(ms), below(MS(ms)));
            assert!(ours < server && ours * 2 >= server, "{ms}");
            assert!(ms < 100 || server - ours >= MARGIN, "{ms}");
        }
    }
}
