//! Whether an endpoint is asked at all.

use std::time::Duration;

/// Slices that the window of a breaker is counted in.
const SLICES: u64 = 10;

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

/// Requests and failures of the last while.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// Number of the slice that `slices[newest % SLICES]` counts.
    newest: u64,
    /// Requests and failures.
    slices: [(u32, u32); SLICES as usize],
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

impl Window {
    /// With these counts in one slice.
    fn of(slice: u64, requests: u64, failures: u64) -> Window {
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let mut window = Window { newest: slice, ..Window::default() };
        window.slices[(slice % SLICES) as usize] = (count(requests), count(failures));
        window
    }

    fn count(&mut self, slice: u64, failed: bool) {
        // A clock that goes backwards counts into the newest slice.
        let behind = slice.saturating_sub(self.newest).min(SLICES);
        for step in 1..=behind {
            self.slices[(self.newest.wrapping_add(step) % SLICES) as usize] = (0, 0);
        }
        if behind == SLICES {
            self.slices = Default::default();
        }
        self.newest = self.newest.max(slice);
        let (requests, failures) = &mut self.slices[(self.newest % SLICES) as usize];
        *requests = requests.saturating_add(1);
        *failures = failures.saturating_add(u32::from(failed));
    }

    fn sums(&self) -> (u64, u64) {
        let add = |(a, b), (c, d): &(u32, u32)| (a + u64::from(*c), b + u64::from(*d));
        self.slices.iter().fold((0, 0), add)
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::NS_PER_S;
    use proptest::prelude::*;

    fn tripped() -> Breaker {
        let mut breaker = Breaker::new(BreakerRule::default());
        (0..5).for_each(|_| breaker.failed(0, false));
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn one_probe_at_a_time_decides() {
        let mut breaker = tripped();
        assert_eq!(breaker.leave(5 * NS_PER_S - 1), Leave::No { until_ns: 5 * NS_PER_S });
        assert_eq!(breaker.leave(5 * NS_PER_S), Leave::Probe);
        assert!(matches!(breaker.leave(6 * NS_PER_S), Leave::No { .. }));
        breaker.abandoned(true);
        assert_eq!(breaker.leave(6 * NS_PER_S), Leave::Probe);
        breaker.failed(7 * NS_PER_S, true);
        assert_eq!(breaker.leave(8 * NS_PER_S), Leave::No { until_ns: 17 * NS_PER_S }, "doubled");
        assert_eq!(breaker.leave(17 * NS_PER_S), Leave::Probe);
        breaker.succeeded(17 * NS_PER_S, true);
        assert_eq!((breaker.leave(17 * NS_PER_S), breaker.opened_total()), (Leave::Yes, 2));
    }

    #[test]
    fn those_that_were_sent_before_it_opened_decide_nothing() {
        let mut breaker = tripped();
        breaker.succeeded(0, false);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert_eq!(breaker.leave(5 * NS_PER_S), Leave::Probe);
        breaker.failed(5 * NS_PER_S, false);
        breaker.abandoned(false);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(!breaker.would_leave(5 * NS_PER_S), "the probe is under way");
    }

    #[test]
    fn every_second_request_failing_opens_it() {
        let mut breaker = Breaker::new(BreakerRule::default());
        for _ in 0..10 {
            breaker.succeeded(0, false);
            breaker.failed(0, false);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        // The same so slowly that no window holds twenty requests.
        let mut breaker = Breaker::new(BreakerRule::default());
        for second in 0..100 {
            match second % 2 {
                0 => breaker.succeeded(second * NS_PER_S, false),
                _ => breaker.failed(second * NS_PER_S, false),
            }
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn health_checks_count_in_a_row_and_undo_only_themselves() {
        let mut breaker = Breaker::new(BreakerRule::default());
        // An idle endpoint whose checks fail now and then is well.
        for second in 0..50 {
            breaker.checked(second * NS_PER_S, second % 5 == 4);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        (0..4).for_each(|_| breaker.failed(100 * NS_PER_S, false));
        breaker.checked(100 * NS_PER_S, true);
        breaker.checked(100 * NS_PER_S, false);
        assert_eq!(breaker.state(), BreakerState::Open, "requests that failed are not undone");
        breaker.checked(104 * NS_PER_S, false);
        assert_eq!(breaker.leave(108 * NS_PER_S), Leave::No { until_ns: 109 * NS_PER_S });
        breaker.checked(108 * NS_PER_S, true);
        assert_eq!(breaker.leave(108 * NS_PER_S), Leave::Probe, "and a request finds out");
        breaker.checked(108 * NS_PER_S, false);
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "the request decides");
        breaker.succeeded(109 * NS_PER_S, true);
        assert_eq!(breaker.state(), BreakerState::Closed);
        (0..4).for_each(|_| breaker.checked(110 * NS_PER_S, false));
        assert_eq!(breaker.state(), BreakerState::Closed, "and from then on they count anew");
    }

    #[test]
    fn another_rule_goes_on_with_what_is_known() {
        let usual = BreakerRule::default();
        let mut breaker = Breaker::new(usual);
        (0..4).for_each(|_| breaker.failed(0, false));
        breaker.set_rule(BreakerRule { failures: 3, open: Duration::from_secs(1), ..usual }, 0);
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.failed(0, false);
        assert_eq!(breaker.leave(0), Leave::No { until_ns: NS_PER_S });
        breaker.set_rule(usual, 0);
        assert_eq!(breaker.leave(0), Leave::No { until_ns: NS_PER_S }, "still open");
        let short = BreakerRule { open_max: Duration::from_millis(500), ..usual };
        breaker.set_rule(short, 0);
        assert_eq!(breaker.leave(0), Leave::No { until_ns: NS_PER_S / 2 });
        assert_eq!(breaker.opened_total(), 1);
        breaker.set_rule(BreakerRule { failures: 0, percent: 0, ..usual }, 0);
        assert_eq!((breaker.leave(0), breaker.opened_total()), (Leave::Yes, 1));
    }

    #[test]
    fn a_window_of_another_length_holds_what_was_counted() {
        let usual = BreakerRule { failures: 0, ..BreakerRule::default() };
        for window in [Duration::from_secs(1), Duration::from_secs(100)] {
            let mut breaker = Breaker::new(usual);
            (0..10).for_each(|_| breaker.failed(50 * NS_PER_S, false));
            (0..9).for_each(|_| breaker.succeeded(50 * NS_PER_S, false));
            breaker.set_rule(BreakerRule { window, ..usual }, 50 * NS_PER_S);
            assert_eq!(breaker.state(), BreakerState::Closed);
            breaker.failed(50 * NS_PER_S, false);
            assert_eq!(breaker.state(), BreakerState::Open, "the twentieth: {window:?}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask,
        End(usize, u8),
        Pass(u64),
        Check(bool),
        Rule(u32, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let end = (any::<usize>(), 0u8..3).prop_map(|(at, how)| Step::End(at, how));
        let pass = (0u64..8 * NS_PER_S).prop_map(Step::Pass);
        let check = any::<bool>().prop_map(Step::Check);
        let rule = (0u32..6, 1u64..20).prop_map(|(failures, window)| Step::Rule(failures, window));
        let each = prop_oneof![3 => Just(Step::Ask), 3 => end, 1 => pass, 1 => check, 1 => rule];
        prop::collection::vec(each, 0..300)
    }

    proptest! {
        /// Never two probes at once, no leave while it is open, and it is never shut for ever: when
        /// all requests are over and the longest time has passed, there is leave again.
        #[test]
        fn property_a_breaker_probes_alone_and_comes_back(steps in steps()) {
            let rule = BreakerRule::default();
            let mut breaker = Breaker::new(rule);
            let (mut now_ns, mut running) = (0u64, Vec::new());
            for step in steps {
                match step {
                    Step::Pass(pause) => now_ns += pause,
                    Step::Check(is_well) => breaker.checked(now_ns, is_well),
                    Step::Rule(failures, window) => {
                        let window = Duration::from_secs(window);
                        let rule = BreakerRule { failures, window, ..BreakerRule::default() };
                        breaker.set_rule(rule, now_ns);
                    }
                    Step::Ask => {
                        let would = breaker.would_leave(now_ns);
                        match breaker.leave(now_ns) {
                            Leave::Yes => running.push(false),
                            Leave::Probe => running.push(true),
                            Leave::No { until_ns } => {
                                prop_assert!(!would && until_ns >= now_ns);
                                continue;
                            }
                        }
                        prop_assert!(would);
                        prop_assert!(running.iter().filter(|probe| **probe).count() <= 1);
                    }
                    Step::End(at, how) if !running.is_empty() => {
                        let is_probe = running.swap_remove(at % running.len());
                        match how {
                            0 => breaker.succeeded(now_ns, is_probe),
                            1 => breaker.failed(now_ns, is_probe),
                            _ => breaker.abandoned(is_probe),
                        }
                    }
                    Step::End(..) => {}
                }
            }
            running.into_iter().for_each(|is_probe| breaker.abandoned(is_probe));
            now_ns += rule.open_max.as_nanos() as u64;
            prop_assert!(breaker.would_leave(now_ns));
        }

        /// The window is the plain count of what lies in its slices.
        #[test]
        fn property_the_window_forgets(steps in prop::collection::vec((0u64..4, any::<bool>()), 1..80)) {
            let (mut window, mut now, mut all) = (Window::default(), 0u64, Vec::new());
            for (pause, failed) in steps {
                now += pause;
                window.count(now, failed);
                all.push((now, failed));
                let recent = || all.iter().filter(|(at, _)| at + SLICES > now);
                let failures = recent().filter(|(_, failed)| *failed).count() as u64;
                prop_assert_eq!(window.sums(), (recent().count() as u64, failures));
            }
        }
    }
}
