//! One limit: requests and tokens per minute, and how many may be in flight, all or nothing.

use std::collections::HashMap;

use crate::bucket::{Bucket, Rate, Taken};

/// What a limit is about and how much it lets through. What it does not name it does not look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitRule {
    /// Requests to this endpoint; each attempt is one.
    pub endpoint: Option<String>,
    /// Requests through the route of this model name or pattern.
    pub route: Option<String>,
    /// Requests of one uid, or of every uid by itself.
    pub uid: Option<LimitUid>,
    /// Requests per minute.
    pub requests: Option<Rate>,
    /// Tokens per minute, in and out.
    pub tokens: Option<Rate>,
    /// Requests in flight.
    pub in_flight: Option<u64>,
    /// How many requests of one uid may wait for it; `None`: as many as may wait for anything.
    pub queue: Option<u64>,
    /// Whether a 429 of the endpoint is the business of its caller alone, and slows nobody else.
    pub ignores_refusals: bool,
}

impl LimitRule {
    /// Whether both are about the same requests, whatever they let through.
    pub fn is_about_as(&self, other: &LimitRule) -> bool {
        (&self.endpoint, &self.route, self.uid) == (&other.endpoint, &other.route, other.uid)
    }
}

/// Whose requests a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitUid {
    /// Those of every uid, each by itself.
    Each,
    /// Those of this uid.
    One(u32),
}

/// A single request reserves at most this part of what a minute brings of a shared limit.
const SHARED_PART: u64 = 4;

/// The state of one limit.
#[derive(Debug)]
pub struct Limit {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    in_flight_max: Option<u64>,
    queue: Option<u64>,
    in_flight: u64,
    /// How long a request holds its place, as a moving average.
    hold_ns: u64,
    /// Most tokens that one request may reserve.
    reserve_max: u64,
    /// Those who wait for it.
    pub crowd: Crowd,
}

/// What a request holds of a limit.
#[derive(Debug)]
pub struct Held {
    requests: Option<Taken>,
    tokens: Option<Taken>,
}

/// What a limit has too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A place among those in flight: nobody knows when one ends.
    Place,
    /// Something that will have come back by then.
    Until(u64),
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It never left: it counts as nothing.
    Unsent,
    /// It was sent, and whoever answers refused it or broke down before any content: a request
    /// without tokens.
    Failed,
    /// It was answered, and nobody knows how many tokens that took: the estimate stands.
    Unknown,
    /// It was answered with this many tokens, in and out.
    Used(u64),
}

/// Who waits for a limit.
#[derive(Debug, Default)]
pub struct Crowd {
    by_uid: HashMap<u32, u64>,
    len: u64,
    tokens: u64,
}

impl Limit {
    /// A limit that nothing was taken from.
    pub fn new(rule: &LimitRule, now_ns: u64) -> Limit {
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now_ns));
        Limit {
            requests: bucket(rule.requests),
            tokens: bucket(rule.tokens),
            in_flight_max: rule.in_flight,
            queue: rule.queue,
            in_flight: 0,
            hold_ns: 0,
            reserve_max: reserve_max(rule),
            crowd: Crowd::default(),
        }
    }

    /// Goes on with other numbers. What is new starts full.
    pub fn change(&mut self, rule: &LimitRule, now_ns: u64) {
        change(&mut self.requests, rule.requests, now_ns);
        change(&mut self.tokens, rule.tokens, now_ns);
        (self.in_flight_max, self.queue) = (rule.in_flight, rule.queue);
        self.reserve_max = reserve_max(rule);
    }

    /// What it lacks for a request of this many tokens; the last to come if several.
    pub fn lacks(&mut self, tokens: u64, now_ns: u64) -> Option<Lack> {
        let tokens = tokens.min(self.reserve_max);
        if self.in_flight_max.is_some_and(|most| self.in_flight >= most) {
            return Some(Lack::Place);
        }
        let due_ns = self.due_ns(0, 0, tokens, now_ns);
        (due_ns > now_ns).then_some(Lack::Until(due_ns))
    }

    /// Takes for one request of this many tokens; the one who asked [`Limit::lacks`] takes.
    pub fn take(&mut self, tokens: u64, now_ns: u64) -> Held {
        let tokens = tokens.min(self.reserve_max);
        self.in_flight += 1;
        Held {
            requests: self.requests.as_mut().and_then(|bucket| bucket.take(1, now_ns)),
            tokens: self.tokens.as_mut().and_then(|bucket| bucket.take(tokens, now_ns)),
        }
    }

    /// Ends what a take began, after it was held for this long.
    pub fn settle(&mut self, held: Held, outcome: Outcome, hold_ns: u64, now_ns: u64) {
        debug_assert!(self.in_flight > 0, "settled twice");
        self.in_flight = self.in_flight.saturating_sub(1);
        if outcome != Outcome::Unsent {
            self.hold_ns = self.hold_ns - self.hold_ns / 8 + hold_ns / 8;
        }
        if let (Some(bucket), Some(taken)) = (&mut self.requests, held.requests) {
            bucket.settle(taken, u64::from(outcome != Outcome::Unsent), now_ns);
        }
        if let (Some(bucket), Some(taken)) = (&mut self.tokens, held.tokens) {
            let used = match outcome {
                Outcome::Unsent | Outcome::Failed => 0,
                Outcome::Unknown => taken.amount(),
                Outcome::Used(used) => used,
            };
            bucket.settle(taken, used, now_ns);
        }
    }

    /// When the rates let a request through behind others of the crowd; places in flight aside.
    pub fn due_ns(&mut self, ahead: u64, ahead_tokens: u64, tokens: u64, now_ns: u64) -> u64 {
        let requests = self.requests.as_mut().map(|bucket| bucket.due_ns(ahead, 1, now_ns));
        let tokens = self.tokens.as_mut().map(|b| b.due_ns(ahead_tokens, tokens, now_ns));
        requests.into_iter().chain(tokens).fold(now_ns, u64::max)
    }

    /// The same for a newcomer of this uid, who is served after its turn of the crowd.
    pub fn due_behind_crowd_ns(&mut self, uid: u32, tokens: u64, now_ns: u64) -> u64 {
        let ahead = self.crowd.ahead_of(uid);
        let ahead_tokens = self.crowd.tokens_of(ahead);
        self.due_ns(ahead, ahead_tokens, tokens.min(self.reserve_max), now_ns)
    }

    /// One more waits for it.
    pub fn enter(&mut self, uid: u32, tokens: u64) {
        self.crowd.enter(uid, tokens.min(self.reserve_max));
    }

    /// One who waited for it does not any more.
    pub fn leave(&mut self, uid: u32, tokens: u64) {
        self.crowd.leave(uid, tokens.min(self.reserve_max));
    }

    /// When a newcomer might find a place in flight, by how long places were held lately.
    pub fn place_due_ns(&self, uid: u32, now_ns: u64) -> u64 {
        let most = self.in_flight_max.unwrap_or(u64::MAX).max(1);
        let rounds = self.crowd.ahead_of(uid) / most + 1;
        match self.in_flight >= most {
            true => now_ns.saturating_add(self.hold_ns.saturating_mul(rounds)),
            false => now_ns,
        }
    }

    /// Whether one more of this uid may wait for it.
    pub fn may_wait(&self, uid: u32) -> bool {
        self.queue.is_none_or(|most| self.crowd.of(uid) < most)
    }

    /// Whether a new limit would be the same.
    pub fn is_at_rest(&mut self, now_ns: u64) -> bool {
        let mut buckets = self.requests.iter_mut().chain(&mut self.tokens);
        let is_full = buckets.all(|bucket| bucket.is_full(now_ns));
        is_full && self.in_flight == 0 && self.crowd.len == 0
    }

    /// Requests that may be sent at once; `None` without such a rate.
    pub fn requests_level(&mut self, now_ns: u64) -> Option<i64> {
        self.requests.as_mut().map(|bucket| bucket.level(now_ns))
    }

    /// Tokens that may be used at once; `None` without such a rate.
    pub fn tokens_level(&mut self, now_ns: u64) -> Option<i64> {
        self.tokens.as_mut().map(|bucket| bucket.level(now_ns))
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }
}

fn change(bucket: &mut Option<Bucket>, rate: Option<Rate>, now_ns: u64) {
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => bucket.set_rate(rate, now_ns),
        _ => *bucket = rate.map(|rate| Bucket::new(rate, now_ns)),
    }
}

/// A uid that has a limit for itself may reserve what a minute brings. Of one that it shares with
/// others a wild estimate reserves a part, so that they wait for seconds; what is used beyond it
/// is charged when it is known.
fn reserve_max(rule: &LimitRule) -> u64 {
    let rate = rule.tokens.unwrap_or(Rate { per_minute: u64::MAX, burst: 1 });
    let part = if rule.uid.is_some() { 1 } else { SHARED_PART };
    rate.burst.max(rate.per_minute / part).max(1)
}

impl Crowd {
    /// One more waits.
    pub fn enter(&mut self, uid: u32, tokens: u64) {
        *self.by_uid.entry(uid).or_default() += 1;
        self.len += 1;
        self.tokens = self.tokens.saturating_add(tokens);
    }

    /// One who waited does not any more.
    pub fn leave(&mut self, uid: u32, tokens: u64) {
        if let Some(count) = self.by_uid.get_mut(&uid) {
            *count -= 1;
            if *count == 0 {
                self.by_uid.remove(&uid);
            }
            self.len -= 1;
            self.tokens = self.tokens.saturating_sub(tokens);
        }
    }

    /// How many wait.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many of a uid wait.
    pub fn of(&self, uid: u32) -> u64 {
        self.by_uid.get(&uid).copied().unwrap_or(0)
    }

    /// How many are served before a newcomer of this uid when uids take turns.
    pub fn ahead_of(&self, uid: u32) -> u64 {
        let own = self.of(uid);
        let others = self.by_uid.iter().filter(|(other, _)| **other != uid);
        own + others.map(|(_, count)| (*count).min(own + 1)).sum::<u64>()
    }

    /// Tokens of so many of them, by the average of all.
    fn tokens_of(&self, count: u64) -> u64 {
        let tokens = u128::from(self.tokens) * u128::from(count) / u128::from(self.len.max(1));
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }
}
