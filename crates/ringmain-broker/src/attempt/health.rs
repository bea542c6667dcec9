//! What is known of an endpoint by what became of its requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use ringmain_policy::balance::{Load, PeakEwma};
use ringmain_policy::breaker::{Breaker, BreakerState, Leave};
use ringmain_policy::budget::RetryBudget;
use ringmain_shm::monotonic_ns;

use crate::rules::EndpointRules;

/// One endpoint's breaker, retry budget and load. Shared by all routes that lead to it, and kept
/// when a reload keeps the endpoint.
pub(crate) struct Health {
    rules: EndpointRules,
    known: Arc<Known>,
}

/// What is known of it, whatever its time limits are.
struct Known {
    /// Requests under way that have no content yet.
    pending: AtomicU32,
    state: Mutex<State>,
}

struct State {
    breaker: Breaker,
    budget: RetryBudget,
    load: PeakEwma,
    retries: u64,
}

/// The health of an endpoint at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    pub breaker: BreakerState,
    pub breaker_opened: u64,
    pub retries: u64,
    pub latency: Duration,
    pub pending: u32,
}

/// The leave for one request, and after it began the request itself. Dropped without a verdict, it
/// was given up by its caller: nothing speaks for or against the endpoint.
pub(crate) struct Running {
    health: Arc<Health>,
    is_probe: bool,
    began_ns: Option<u64>,
    is_judged: bool,
}

impl Health {
    pub fn new(rules: EndpointRules) -> Health {
        let state = State {
            breaker: Breaker::new(rules.breaker),
            budget: RetryBudget::new(rules.budget, monotonic_ns()),
            load: PeakEwma::default(),
            retries: 0,
        };
        let known = Known { pending: AtomicU32::new(0), state: Mutex::new(state) };
        Health { rules, known: Arc::new(known) }
    }

    /// Goes on with what is known of an endpoint under other time limits; `None` where its breaker
    /// or its budget is another one.
    pub fn under(&self, rules: EndpointRules) -> Option<Health> {
        let is_same = (rules.breaker, rules.budget) == (self.rules.breaker, self.rules.budget);
        is_same.then(|| Health { rules, known: self.known.clone() })
    }

    pub fn rules(&self) -> &EndpointRules {
        &self.rules
    }

    /// Leave for a request, which pays into the budget if it is the first attempt and is paid from
    /// it if it is not. Else the time when to ask again. Whoever has it sends at once: the leave of
    /// a probe shuts everybody else out.
    pub fn leave(self: &Arc<Self>, is_retry: bool, now_ns: u64) -> Result<Running, Duration> {
        let mut state = self.known.state.lock();
        if is_retry && state.budget.next_in(now_ns) != Some(Duration::ZERO) {
            return Err(state.budget.next_in(now_ns).unwrap_or(Duration::MAX));
        }
        let is_probe = match state.breaker.leave(now_ns) {
            Leave::Yes => false,
            Leave::Probe => true,
            Leave::No { until_ns } => {
                return Err(Duration::from_nanos(until_ns.saturating_sub(now_ns)));
            }
        };
        match is_retry {
            true => {
                state.budget.withdraw(now_ns);
                state.retries += 1;
            }
            false => state.budget.deposit(now_ns),
        }
        Ok(Running { health: self.clone(), is_probe, began_ns: None, is_judged: false })
    }

    /// Whether [`Health::leave`] would give it; takes nothing. Else the time when to ask again.
    pub fn would_leave(&self, is_retry: bool, now_ns: u64) -> Result<(), Duration> {
        let state = self.known.state.lock();
        if is_retry && state.budget.next_in(now_ns) != Some(Duration::ZERO) {
            return Err(state.budget.next_in(now_ns).unwrap_or(Duration::MAX));
        }
        match state.breaker.would_leave_at_ns(now_ns) {
            None => Ok(()),
            Some(until_ns) => Err(Duration::from_nanos(until_ns.saturating_sub(now_ns))),
        }
    }

    pub fn load(&self, weight: u32, now_ns: u64) -> Load {
        let latency = self.known.state.lock().load.at(now_ns);
        Load { latency, pending: self.known.pending.load(Relaxed), weight }
    }

    pub fn condition(&self) -> Condition {
        let state = self.known.state.lock();
        Condition {
            breaker: state.breaker.state(),
            breaker_opened: state.breaker.opened_total(),
            retries: state.retries,
            latency: state.load.at(monotonic_ns()).unwrap_or_default(),
            pending: self.known.pending.load(Relaxed),
        }
    }
}

impl Running {
    /// The request goes out.
    pub fn begin(&mut self) {
        self.began_ns = Some(monotonic_ns());
        self.health.known.pending.fetch_add(1, Relaxed);
    }

    /// Its first content came: the endpoint works, and this is how fast.
    pub fn had_content(&mut self) {
        let Some((took, now_ns)) = self.judge() else { return };
        let mut state = self.health.known.state.lock();
        state.load.observe(took, now_ns);
        state.breaker.succeeded(now_ns, self.is_probe);
    }

    /// It was refused for what it is, or the endpoint had nothing to say: it works, and how fast it
    /// refuses says nothing.
    pub fn answered(&mut self) {
        let Some((_, now_ns)) = self.judge() else { return };
        self.health.known.state.lock().breaker.succeeded(now_ns, self.is_probe);
    }

    /// The endpoint has too much to do: not broken, but slow.
    pub fn was_busy(&mut self) {
        let Some((took, now_ns)) = self.judge() else { return };
        let mut state = self.health.known.state.lock();
        state.load.charge(took, now_ns);
        state.breaker.abandoned(self.is_probe);
    }

    /// It failed in a way that speaks against the endpoint, before or behind its first content.
    pub fn failed(&mut self) {
        match self.judge() {
            Some((took, now_ns)) => {
                let mut state = self.health.known.state.lock();
                state.load.charge(took, now_ns);
                state.breaker.failed(now_ns, self.is_probe);
            }
            None if self.began_ns.is_some() => {
                self.health.known.state.lock().breaker.failed(monotonic_ns(), false);
            }
            None => {}
        }
    }

    /// Once: how long it took, and now.
    fn judge(&mut self) -> Option<(Duration, u64)> {
        let began_ns = self.began_ns?;
        if std::mem::replace(&mut self.is_judged, true) {
            return None;
        }
        self.health.known.pending.fetch_sub(1, Relaxed);
        let now_ns = monotonic_ns();
        Some((Duration::from_nanos(now_ns.saturating_sub(began_ns)), now_ns))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_judged {
            return;
        }
        let waited = self.judge();
        let mut state = self.health.known.state.lock();
        state.breaker.abandoned(self.is_probe);
        // It would have taken at least as long as its caller waited.
        if let Some((took, now_ns)) = waited
            && state.load.at(now_ns).is_some_and(|expected| took > expected)
        {
            state.load.observe(took, now_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmain_policy::breaker::BreakerRule;
    use ringmain_policy::budget::BudgetRule;

    fn health(failures: u32) -> Arc<Health> {
        let breaker = BreakerRule { failures, ..BreakerRule::default() };
        let budget = BudgetRule { percent: 100, floor_per_s: 0 };
        Arc::new(Health::new(EndpointRules { breaker, budget, ..EndpointRules::default() }))
    }

    fn running(health: &Arc<Health>) -> Running {
        let mut running = health.leave(false, monotonic_ns()).ok().unwrap();
        running.begin();
        running
    }

    #[test]
    fn every_verdict_counts_once_and_nothing_stays_pending() {
        let health = health(3);
        let verdicts: [fn(&mut Running); 5] =
            [Running::had_content, Running::answered, Running::was_busy, Running::failed, |_| {}];
        for verdict in verdicts {
            let mut one = running(&health);
            assert_eq!(health.condition().pending, 1);
            verdict(&mut one);
            one.answered();
            drop(one);
            assert_eq!(health.condition().pending, 0);
        }
        assert!(health.condition().latency > Duration::from_secs(4), "busy and failed are slow");
    }

    #[test]
    fn failures_open_it_also_behind_the_first_content() {
        let health = health(2);
        for _ in 0..2 {
            let mut one = running(&health);
            one.had_content();
            one.failed();
        }
        // Each first content in between is a success.
        assert_eq!(health.condition().breaker, BreakerState::Closed);
        running(&health).failed();
        let condition = health.condition();
        assert_eq!((condition.breaker, condition.breaker_opened), (BreakerState::Open, 1));
        let wait = health.leave(false, monotonic_ns()).err().unwrap();
        assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(5));
    }

    #[test]
    fn retries_are_paid_for() {
        let health = health(0);
        assert!(health.leave(true, monotonic_ns()).is_err());
        drop(running(&health));
        assert!(health.leave(true, monotonic_ns()).is_ok());
        assert!(health.leave(true, monotonic_ns()).is_err());
        assert_eq!(health.condition().retries, 1);
    }
}
