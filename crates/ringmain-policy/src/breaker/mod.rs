//! Whether an endpoint is asked at all.

use std::time::Duration;

use window::{SLICES, Window};

#[cfg(test)]
mod tests;
mod window;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRule {
    /// Failures in a row that open it; 0: they do not.
    pub failures: u32,
    /// Failures per hundred requests of the window that open it; 0: they do not.
    pub percent: u32,
    /// Requests of the window below which the share says nothing.
    pub requests_min: u32,
    /// How far back the share looks.
    pub window: Duration,
    /// How long it stays open the first time; each probe that fails doubles it.
    pub open: Duration,
    /// The longest that it stays open.
    pub open_max: Duration,
}

/// A breaker: closed while an endpoint works, open after too many failures, half open when it is
/// time to look again. Half open it lets one request through at a time, and what becomes of that
/// one decides.
///
/// ```
/// use ringmain_policy::breaker::{Breaker, BreakerRule, Leave};
/// let mut breaker = Breaker::new(BreakerRule { failures: 2, ..BreakerRule::default() });
/// breaker.failed(0, false);
/// breaker.failed(0, false);
/// assert_eq!(breaker.leave(0), Leave::No { until_ns: 5_000_000_000 });
/// assert_eq!(breaker.leave(5_000_000_000), Leave::Probe);
/// ```
#[derive(Clone, Debug)]
pub struct Breaker {
    rule: BreakerRule,
    state: State,
    /// Failures since the last success.
    in_a_row: u32,
    /// Health checks that failed since the last good one.
    checks_in_a_row: u32,
    /// Times it opened since it was last closed.
    opened: u32,
    /// Times it opened.
    opened_total: u64,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until_ns: u64,
    },
    /// `is_probing`: the one request is under way.
    HalfOpen {
        is_probing: bool,
    },
}

/// Whether a request may go to the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Yes.
    Yes,
    /// Yes, as the one that finds out; say `is_probe` when it is over.
    Probe,
    /// Not before this time.
    No {
        /// When it is looked at again.
        until_ns: u64,
    },
}

/// What a breaker is, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// The endpoint works.
    #[default]
    Closed,
    /// It is not asked.
    Open,
    /// One request finds out.
    HalfOpen,
}

impl Default for BreakerRule {
    fn default() -> Self {
        BreakerRule {
            failures: 5,
            percent: 50,
            requests_min: 20,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            open_max: Duration::from_secs(60),
        }
    }
}

impl Breaker {
    /// A closed breaker.
    pub fn new(rule: BreakerRule) -> Breaker {
        Breaker {
            rule,
            state: State::Closed,
            in_a_row: 0,
            checks_in_a_row: 0,
            opened: 0,
            opened_total: 0,
            window: Window::default(),
        }
    }

    /// Asks for leave to send a request. A probe that was given must be told of with
    /// [`Breaker::succeeded`], [`Breaker::failed`] or [`Breaker::abandoned`].
    pub fn leave(&mut self, now_ns: u64) -> Leave {
        match (self.would_leave_at_ns(now_ns), self.state) {
            (Some(until_ns), _) => Leave::No { until_ns },
            (None, State::Closed) => Leave::Yes,
            (None, State::Open { .. } | State::HalfOpen { .. }) => {
                self.state = State::HalfOpen { is_probing: true };
                Leave::Probe
            }
        }
    }

    /// Whether [`Breaker::leave`] would give leave; takes nothing.
    pub fn would_leave(&self, now_ns: u64) -> bool {
        self.would_leave_at_ns(now_ns).is_none()
    }

    /// When to ask for leave again; `None`: it would be given now. Takes nothing.
    pub fn would_leave_at_ns(&self, now_ns: u64) -> Option<u64> {
        match self.state {
            State::Open { until_ns } => (now_ns < until_ns).then_some(until_ns),
            // The probe may end at any moment; there is no better time to name than now.
            State::HalfOpen { is_probing: true } => Some(now_ns),
            State::Closed | State::HalfOpen { is_probing: false } => None,
        }
    }

    /// A request ended well. While open, those that were sent before say nothing.
    pub fn succeeded(&mut self, now_ns: u64, is_probe: bool) {
        self.in_a_row = 0;
        match self.state {
            State::HalfOpen { .. } if is_probe => {
                (self.state, self.opened, self.window) = (State::Closed, 0, Window::default());
                self.checks_in_a_row = 0;
            }
            State::Closed => self.window.count(self.slice(now_ns), false),
            _ => {}
        }
    }

    /// A request failed in a way that speaks against the endpoint.
    pub fn failed(&mut self, now_ns: u64, is_probe: bool) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        match self.state {
            State::HalfOpen { .. } if is_probe => self.open(now_ns),
            State::Closed => {
                self.window.count(self.slice(now_ns), true);
                if self.is_too_much() {
                    self.open(now_ns);
                }
            }
            _ => {}
        }
    }

    /// A request was given up by its caller: nothing is known, and another may probe.
    pub fn abandoned(&mut self, is_probe: bool) {
        if let (State::HalfOpen { is_probing }, true) = (&mut self.state, is_probe) {
            *is_probing = false;
        }
    }

    /// A health check has shown that the endpoint is well or not. It is another request than those
    /// that matter, so a good one undoes what checks have said and no more: while the breaker is
    /// open, a request may find out at once. A bad one counts like a failure in a row, and while
    /// the breaker is open keeps it so for as long as the first time.
    pub fn checked(&mut self, now_ns: u64, is_well: bool) {
        self.checks_in_a_row = if is_well { 0 } else { self.checks_in_a_row.saturating_add(1) };
        match (self.state, is_well) {
            (State::Open { .. }, true) => self.state = State::HalfOpen { is_probing: false },
            (State::Open { until_ns }, false) => {
                let again_ns = now_ns.saturating_add(ns(self.rule.open));
                self.state = State::Open { until_ns: until_ns.max(again_ns) };
            }
            (State::Closed, false) if self.is_too_much() => self.open(now_ns),
            _ => {}
        }
    }

    /// Opens a closed one, for what was counted elsewhere.
    pub fn trip(&mut self, now_ns: u64) {
        if self.state == State::Closed {
            self.open(now_ns);
        }
    }

    /// Goes on under another rule: what is known of the endpoint is the same. One that is open
    /// stays so no longer than the new rule ever would, and not at all where nothing opens it any
    /// more; what would have opened it earlier does so with the next failure.
    pub fn set_rule(&mut self, rule: BreakerRule, now_ns: u64) {
        // Slices of another length have other numbers: what was counted is of now.
        let window = (rule.window != self.rule.window).then(|| self.window.sums());
        self.rule = rule;
        if let Some((requests, failures)) = window {
            self.window = Window::of(self.slice(now_ns), requests, failures);
        }
        match &mut self.state {
            state if rule.failures == 0 && rule.percent == 0 => *state = State::Closed,
            State::Open { until_ns } => {
                *until_ns = (*until_ns).min(now_ns.saturating_add(ns(rule.open_max)));
            }
            State::Closed | State::HalfOpen { .. } => {}
        }
    }

    /// What it is.
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How often it opened.
    pub fn opened_total(&self) -> u64 {
        self.opened_total
    }

    fn open(&mut self, now_ns: u64) {
        let factor = 1u32.checked_shl(self.opened).unwrap_or(u32::MAX);
        let open = self.rule.open.saturating_mul(factor).min(self.rule.open_max);
        self.state = State::Open { until_ns: now_ns.saturating_add(ns(open)) };
        self.opened = self.opened.saturating_add(1);
        self.opened_total += 1;
    }

    fn is_too_much(&self) -> bool {
        let BreakerRule { failures, percent, requests_min, .. } = self.rule;
        let (requests, failed) = self.window.sums();
        let is_share = percent > 0
            && requests >= u64::from(requests_min)
            && failed * 100 >= requests * u64::from(percent);
        let in_a_row = self.in_a_row.saturating_add(self.checks_in_a_row);
        is_share || failures > 0 && in_a_row >= failures
    }

    fn slice(&self, now_ns: u64) -> u64 {
        now_ns / (ns(self.rule.window) / SLICES).max(1)
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
