//! How long an unused connection may be trusted.
//!
//! A server closes what was unused for its own limit. A request that is just then on its way may
//! or may not have been read: nobody can tell. So connections are given up earlier than the
//! server would, and its limit is learned: from `Keep-Alive: timeout`, and from connections that
//! it closed while they were unused.

use std::time::{Duration, Instant};

/// A close after less than this teaches nothing: no server keeps connections for so short a time
/// on purpose, but one that is restarted, or overloaded, closes whatever it has.
const FLOOR: Duration = Duration::from_millis(250);
/// A limit that one event has taught is doubted after this time; each further event that agrees
/// doubles it, up to [`TRUST_MAX`].
const TRUST: Duration = Duration::from_secs(30);
const TRUST_MAX: Duration = Duration::from_secs(3600);
/// Closes within this time are one event, such as a restart: the middle one of them teaches.
const EVENT: Duration = Duration::from_millis(500);
/// Most closes of one event that are looked at.
const EVENT_CLOSES_MAX: usize = 32;
/// Least margin below a server's limit that is longer than twice of it.
const MARGIN: Duration = Duration::from_millis(20);

/// What is known of one server's patience.
#[derive(Debug)]
pub(super) struct IdleLimit {
    configured: Duration,
    told: Option<Duration>,
    seen: Option<Seen>,
    event: Option<Event>,
}

/// What closes have taught.
#[derive(Clone, Copy, Debug)]
struct Seen {
    limit: Duration,
    at: Instant,
    trust: Duration,
}

/// Closes at about the same time, the shortest first. Bound: [`EVENT_CLOSES_MAX`].
#[derive(Debug)]
struct Event {
    since: Instant,
    /// What was known when it began.
    before: Option<Seen>,
    closes: Vec<Duration>,
}

impl IdleLimit {
    pub fn new(configured: Duration) -> IdleLimit {
        IdleLimit { configured, told: None, seen: None, event: None }
    }

    /// How long a connection may be unused and still be given a request.
    pub fn now(&self, now: Instant) -> Duration {
        let known = self.told.map_or(self.configured, |told| told.min(self.configured));
        self.seen.map_or(known, |seen| known.min(seen.at(now)))
    }

    /// The server has told its limit.
    pub fn told(&mut self, limit: Duration) {
        self.told = Some(below(limit));
    }

    /// The server closed a connection that was unused for so long.
    pub fn closed(&mut self, idle: Duration, now: Instant) {
        if idle < FLOOR {
            return;
        }
        let is_new = self.event.as_ref().is_none_or(|event| event.is_over(now));
        if is_new {
            self.event = Some(Event { since: now, before: self.seen, closes: Vec::new() });
        }
        if let Some(event) = &mut self.event
            && event.closes.len() < EVENT_CLOSES_MAX
        {
            self.seen = Some(event.learn(idle));
        }
    }
}

impl Seen {
    /// What was seen is trusted for a while, and then a little less with each while: a server
    /// that was restarted must not shorten everything for ever.
    fn at(&self, now: Instant) -> Duration {
        let age = now.saturating_duration_since(self.at).as_millis();
        let doublings = age / self.trust.as_millis().max(1);
        self.limit.saturating_mul(1_u32 << doublings.min(24) as u32)
    }
}

impl Event {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= EVENT
    }

    /// Takes one more close, and gives what is known with all of them.
    fn learn(&mut self, idle: Duration) -> Seen {
        let place = self.closes.partition_point(|close| *close <= idle);
        self.closes.insert(place, idle);
        let middle = self.closes[(self.closes.len() - 1) / 2];
        let (limit, at) = (below(middle), self.since);
        let Some(before) = self.before else { return Seen { limit, at, trust: TRUST } };
        let agrees = limit < before.limit * 5 / 4 && before.limit < limit * 5 / 4;
        // What is as short as it can be may be chance each time.
        let trust = match agrees && limit >= FLOOR * 2 {
            true => (before.trust * 2).min(TRUST_MAX),
            false => TRUST,
        };
        // What was half forgotten does not come back: only what is believed now counts.
        Seen { limit: limit.min(before.at(at)), at, trust }
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
        idle.closed(MS(1_000), now);
        assert_eq!(idle.now(now), MS(800));
        assert_eq!(idle.now(now + S(29)), MS(800));
        assert_eq!(idle.now(now + S(31)), MS(1_600));
        assert_eq!(idle.now(now + S(3600)), S(20));
        // A second one that agrees is remembered longer.
        idle.closed(MS(1_002), now + S(10));
        assert_eq!(idle.now(now + S(10) + S(59)), MS(800));
    }

    #[test]
    fn one_event_of_many_closes_is_one_lesson() {
        let now = Instant::now();
        let mut idle = IdleLimit::new(S(20));
        for age in [900, 300, 2_000, 310, 1_500] {
            idle.closed(MS(age), now);
        }
        assert_eq!(idle.now(now), MS(720));
        assert_eq!(idle.now(now + S(31)), MS(1_440));
        for _ in 0..1_000 {
            idle.closed(MS(300), now);
        }
        assert_eq!(idle.now(now), MS(240));
        assert!(idle.event.is_some_and(|event| event.closes.len() == EVENT_CLOSES_MAX));
    }

    #[test]
    fn chance_neither_collapses_the_limit_nor_brings_an_old_one_back() {
        let start = Instant::now();
        let mut idle = IdleLimit::new(S(20));
        for at in 0..100 {
            idle.closed(MS(at * 2), start + S(at));
        }
        assert_eq!(idle.now(start + S(100)), S(20), "too short to be a server's limit");
        // As short as can be, again and again: soon forgotten nevertheless.
        for at in 0..10 {
            idle.closed(MS(260), start + S(100 + at));
        }
        assert_eq!(idle.now(start + S(110)), MS(208));
        assert!(idle.now(start + S(110 + 150)) >= S(6));
        // A later close at 10 s does not revive the limit that was forgotten.
        idle.closed(S(10), start + S(110 + 300));
        assert_eq!(idle.now(start + S(110 + 300)), S(8));
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
