//! What is known of an endpoint by what became of its requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use ringmain_policy::balance::{Load, PeakEwma};
use ringmain_policy::breaker::{Breaker, BreakerState, Leave};
use ringmain_policy::budget::RetryBudget;
use ringmain_policy::silence::Silences;
use ringmain_shm::monotonic_ns;
use ringmain_upstream::Progress;

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
    /// Of callers that gave up.
    silences: Silences,
    budget: RetryBudget,
    load: PeakEwma,
    retries: u64,
}

/// The health of an endpoint at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    pub breaker: BreakerState,
    pub breaker_opened: u64,
    /// Uids that it rests for alone, for their callers waited in vain.
    pub resting_uids: u32,
    pub retries: u64,
    pub latency: Duration,
    pub pending: u32,
}

/// The leave for one request, and after it began the request itself. Dropped without a verdict, it
/// was given up by its caller: that speaks against the endpoint only if it had long had something
/// to answer, and for this uid first.
pub(crate) struct Running {
    health: Arc<Health>,
    uid: u32,
    is_probe: bool,
    /// Of its uid, for which the endpoint rested.
    is_own_probe: bool,
    began: Option<(u64, Progress)>,
    is_judged: bool,
}

impl Health {
    pub fn new(rules: EndpointRules) -> Health {
        let state = State {
            breaker: Breaker::new(rules.breaker),
            silences: Silences::new(rules.breaker),
            budget: RetryBudget::new(rules.budget, monotonic_ns()),
            load: PeakEwma::default(),
            retries: 0,
        };
        let known = Known { pending: AtomicU32::new(0), state: Mutex::new(state) };
        Health { rules, known: Arc::new(known) }
    }

    /// Goes on with what is known of an endpoint under other rules. The state is shared with
    /// requests that began under the old ones.
    pub fn under(&self, rules: EndpointRules) -> Health {
        let mut state = self.known.state.lock();
        let now_ns = monotonic_ns();
        if rules.breaker != self.rules.breaker {
            state.breaker.set_rule(rules.breaker, now_ns);
            state.silences.set_rule(rules.breaker, now_ns);
        }
        if rules.budget != self.rules.budget {
            state.budget.set_rule(rules.budget, now_ns);
        }
        Health { rules, known: self.known.clone() }
    }

    pub fn rules(&self) -> &EndpointRules {
        &self.rules
    }

    /// Leave for a request of this uid, which pays into the budget if it is the first attempt and
    /// is paid from it if it is not. Else the time when to ask again. Whoever has it sends at once:
    /// the leave of a probe shuts everybody else out.
    pub fn leave(
        self: &Arc<Self>,
        uid: u32,
        is_retry: bool,
        now_ns: u64,
    ) -> Result<Running, Duration> {
        let mut state = self.known.state.lock();
        state.would_leave(uid, is_retry, now_ns)?;
        let is_probe = state.breaker.leave(now_ns) == Leave::Probe;
        let is_own_probe = state.silences.leave(uid, now_ns);
        match is_retry {
            true => {
                state.budget.withdraw(now_ns);
                state.retries += 1;
            }
            false => state.budget.deposit(now_ns),
        }
        let (health, began, is_judged) = (self.clone(), None, false);
        Ok(Running { health, uid, is_probe, is_own_probe, began, is_judged })
    }

    /// Whether [`Health::leave`] would give it; takes nothing. Else the time when to ask again.
    pub fn would_leave(&self, uid: u32, is_retry: bool, now_ns: u64) -> Result<(), Duration> {
        self.known.state.lock().would_leave(uid, is_retry, now_ns)
    }

    /// A health check of the endpoint was answered well, or not.
    pub fn checked(&self, is_well: bool) {
        self.known.state.lock().breaker.checked(monotonic_ns(), is_well);
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
            resting_uids: state.silences.resting() as u32,
            retries: state.retries,
            latency: state.load.at(monotonic_ns()).unwrap_or_default(),
            pending: self.known.pending.load(Relaxed),
        }
    }
}

impl State {
    fn would_leave(&self, uid: u32, is_retry: bool, now_ns: u64) -> Result<(), Duration> {
        if is_retry && self.budget.next_in(now_ns) != Some(Duration::ZERO) {
            return Err(self.budget.next_in(now_ns).unwrap_or(Duration::MAX));
        }
        let for_all = self.breaker.would_leave_at_ns(now_ns);
        match for_all.max(self.silences.would_leave_at_ns(uid, now_ns)) {
            None => Ok(()),
            Some(until_ns) => Err(Duration::from_nanos(until_ns.saturating_sub(now_ns))),
        }
    }
}

impl Running {
    /// The request goes out, and this is how far it comes.
    pub fn begin(&mut self, progress: Progress) {
        self.began = Some((progress.now_ns(), progress));
        self.health.known.pending.fetch_add(1, Relaxed);
    }

    /// Its first content came: the endpoint works, and this is how fast.
    pub fn had_content(&mut self) {
        let Some((took, now_ns)) = self.judge() else { return };
        let mut state = self.health.known.state.lock();
        state.load.observe(took, now_ns);
        state.silences.heard(Some(took));
        state.breaker.succeeded(now_ns, self.is_probe);
    }

    /// It was refused for what it is, or the endpoint had nothing to say: it works, and how fast it
    /// refuses says nothing.
    pub fn answered(&mut self) {
        let Some((_, now_ns)) = self.judge() else { return };
        let mut state = self.health.known.state.lock();
        state.silences.heard(None);
        state.breaker.succeeded(now_ns, self.is_probe);
    }

    /// The endpoint has too much to do: not broken, but slow.
    pub fn was_busy(&mut self) {
        let Some((took, now_ns)) = self.judge() else { return };
        let mut state = self.health.known.state.lock();
        state.load.charge(took, now_ns);
        state.silences.heard(None);
        state.breaker.abandoned(self.is_probe);
    }

    /// It failed in a way that speaks against the endpoint, before or behind its first content.
    pub fn failed(&mut self) {
        match self.judge() {
            Some((took, now_ns)) => {
                let mut state = self.health.known.state.lock();
                state.load.charge(took, now_ns);
                state.silences.abandoned(self.uid, self.is_own_probe);
                state.breaker.failed(now_ns, self.is_probe);
            }
            None if self.began.is_some() => {
                self.health.known.state.lock().breaker.failed(monotonic_ns(), false);
            }
            None => {}
        }
    }

    /// Its exchange ran out of time after so long. Where the endpoint had less than half of that,
    /// the rest went by elsewhere, and it was given up like by any caller.
    pub fn ran_out(&mut self, exchange: Duration) {
        let began_ns = self.began.as_ref().map_or(u64::MAX, |(began_ns, _)| *began_ns);
        let had = Duration::from_nanos(monotonic_ns().saturating_sub(began_ns));
        if had.saturating_mul(2) >= exchange {
            self.failed();
        }
    }

    /// Once: how long it took, and now.
    fn judge(&mut self) -> Option<(Duration, u64)> {
        let (began_ns, progress) = self.began.as_ref()?;
        if std::mem::replace(&mut self.is_judged, true) {
            return None;
        }
        self.health.known.pending.fetch_sub(1, Relaxed);
        let now_ns = progress.now_ns();
        Some((Duration::from_nanos(now_ns.saturating_sub(*began_ns)), now_ns))
    }
}

impl Running {
    /// Its caller gave it up, after the endpoint had it for so long and said nothing.
    fn given_up(&mut self, silent: Option<Duration>) {
        let (waited, now_ns) = (self.judge(), monotonic_ns());
        let mut state = self.health.known.state.lock();
        let State { breaker, silences, load, .. } = &mut *state;
        // Another one may find out: who gives up early must not keep everybody waiting.
        breaker.abandoned(self.is_probe);
        match silent.is_some_and(|silent| silent >= silences.patience()) {
            true if silences.unheard(self.uid, self.is_own_probe, now_ns) => breaker.trip(now_ns),
            true => {}
            false => silences.abandoned(self.uid, self.is_own_probe),
        }
        // It would have taken at least as long as its caller waited.
        if let Some((took, now_ns)) = waited
            && load.at(now_ns).is_some_and(|expected| took > expected)
        {
            load.observe(took, now_ns);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_judged {
            let silent = self.began.as_ref().and_then(|(_, progress)| progress.silent_for());
            self.given_up(silent);
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
        let mut running = health.leave(7, false, monotonic_ns()).ok().unwrap();
        running.begin(Progress::default());
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
        let wait = health.leave(7, false, monotonic_ns()).err().unwrap();
        assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(5));
    }

    /// Lets callers of a uid give up, after as long as this.
    fn give_up(health: &Arc<Health>, uid: u32, times: u32, silent: Duration) {
        for _ in 0..times {
            let Ok(mut one) = health.leave(uid, false, monotonic_ns()) else { return };
            one.begin(Progress::default());
            one.given_up(Some(silent));
        }
    }

    #[test]
    fn silence_shuts_out_the_one_who_meets_it_and_two_are_all() {
        let health = health(5);
        let may = |uid| health.would_leave(uid, false, monotonic_ns()).is_ok();
        let long = Duration::from_secs(5);
        give_up(&health, 7, 100, long - Duration::from_millis(1));
        assert!(may(7), "who asks for a moment learns nothing");
        give_up(&health, 7, 100, long);
        assert!(!may(7) && may(8));
        let condition = health.condition();
        assert_eq!((condition.breaker, condition.resting_uids), (BreakerState::Closed, 1));
        give_up(&health, 8, 4, long);
        assert!(may(8) && may(9));
        give_up(&health, 8, 1, long);
        assert!(!may(9));
        assert_eq!(health.condition().breaker, BreakerState::Open);
    }

    #[test]
    fn whatever_it_says_to_anybody_ends_the_silence() {
        let verdicts: [fn(&mut Running); 3] =
            [Running::had_content, Running::answered, Running::was_busy];
        for verdict in verdicts {
            let health = health(5);
            give_up(&health, 8, 5, Duration::from_secs(9));
            assert!(health.would_leave(8, false, monotonic_ns()).is_err());
            verdict(&mut running(&health));
            assert!(health.would_leave(8, false, monotonic_ns()).is_ok());
            assert_eq!(health.condition().resting_uids, 0);
        }
    }

    #[test]
    fn who_was_asked_late_in_an_exchange_is_not_charged_with_its_end() {
        let health = health(1);
        running(&health).ran_out(Duration::from_secs(3600));
        assert_eq!(health.condition().breaker, BreakerState::Closed);
        running(&health).ran_out(Duration::ZERO);
        assert_eq!(health.condition().breaker, BreakerState::Open);
    }

    #[test]
    fn health_checks_are_heard() {
        let health = health(5);
        (0..5).for_each(|_| health.checked(false));
        assert_eq!(health.condition().breaker, BreakerState::Open);
        health.checked(true);
        assert_eq!(health.condition().breaker, BreakerState::HalfOpen);
    }

    #[test]
    fn other_rules_keep_the_state() {
        let first = health(2);
        running(&first).failed();
        let other = BreakerRule { failures: 3, ..BreakerRule::default() };
        let budget = BudgetRule { percent: 50, floor_per_s: 0 };
        let rules = EndpointRules { breaker: other, budget, ..EndpointRules::default() };
        let second = Arc::new(first.under(rules));
        running(&second).failed();
        assert_eq!(second.condition().breaker, BreakerState::Closed);
        // What began under the old rules counts, too.
        running(&first).failed();
        assert_eq!(second.condition().breaker, BreakerState::Open);
    }

    #[test]
    fn retries_are_paid_for() {
        let health = health(0);
        assert!(health.leave(7, true, monotonic_ns()).is_err());
        drop(running(&health));
        assert!(health.leave(7, true, monotonic_ns()).is_ok());
        assert!(health.leave(7, true, monotonic_ns()).is_err());
        assert_eq!(health.condition().retries, 1);
    }
}
