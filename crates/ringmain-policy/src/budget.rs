//! How much of the traffic of an endpoint may be repetitions.

use std::time::Duration;

use crate::clock::NS_PER_S;

/// Billionths of a permit in one permit, so that nothing is lost to rounding.
const PERMIT: u64 = NS_PER_S;
/// Seconds of the floor that can be saved up.
const SAVED_S: u64 = 10;
/// Permits earned by requests that can be saved up.
const SAVED: u64 = 100;

/// How large the budget is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetRule {
    /// Retries per hundred requests.
    pub percent: u32,
    /// Retries per second that are there without any request.
    pub floor_per_s: u32,
}

/// The retries that an endpoint may be sent: a share of its requests, and a few per second beside,
/// so that an endpoint with little traffic gets some too. When everything fails, it keeps the
/// attempts from multiplying the load.
///
/// ```
/// use ringmain_policy::budget::{BudgetRule, RetryBudget};
/// let mut budget = RetryBudget::new(BudgetRule { percent: 20, floor_per_s: 0 }, 0);
/// assert!(!budget.withdraw(0));
/// (0..5).for_each(|_| budget.deposit(0));
/// assert!(budget.withdraw(0) && !budget.withdraw(0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    rule: BudgetRule,
    // Bound: `cap`.
    level: u64,
    filled_ns: u64,
}

impl Default for BudgetRule {
    fn default() -> Self {
        BudgetRule { percent: 20, floor_per_s: 3 }
    }
}

impl BudgetRule {
    /// The most retries that can come at once.
    fn cap(&self) -> u64 {
        let saved = u64::from(self.floor_per_s) * SAVED_S + SAVED * u64::from(self.percent.min(1));
        saved.saturating_mul(PERMIT)
    }
}

impl RetryBudget {
    /// A budget with one second of its floor in it.
    pub fn new(rule: BudgetRule, now_ns: u64) -> RetryBudget {
        let level = u64::from(rule.floor_per_s) * PERMIT;
        RetryBudget { rule, level, filled_ns: now_ns }
    }

    /// Goes on under another rule with what was saved up, as far as that may be.
    pub fn set_rule(&mut self, rule: BudgetRule, now_ns: u64) {
        self.fill(now_ns);
        self.rule = rule;
        self.level = self.level.min(rule.cap());
    }

    /// A request is sent that is not a retry.
    pub fn deposit(&mut self, now_ns: u64) {
        self.fill(now_ns);
        self.add(u64::from(self.rule.percent) * (PERMIT / 100));
    }

    /// Takes the permit for one retry if there is one.
    pub fn withdraw(&mut self, now_ns: u64) -> bool {
        self.fill(now_ns);
        let left = self.level.checked_sub(PERMIT);
        self.level = left.unwrap_or(self.level);
        left.is_some()
    }

    /// Time until the next retry would be allowed without further requests; `None`: never.
    pub fn next_in(&self, now_ns: u64) -> Option<Duration> {
        let mut copy = *self;
        copy.fill(now_ns);
        let missing = PERMIT.saturating_sub(copy.level);
        match (missing, u64::from(self.rule.floor_per_s)) {
            (0, _) => Some(Duration::ZERO),
            (_, 0) => None,
            (missing, floor) => Some(Duration::from_nanos(missing.div_ceil(floor))),
        }
    }

    fn fill(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.filled_ns);
        self.add(passed_ns.saturating_mul(u64::from(self.rule.floor_per_s)));
        self.filled_ns = self.filled_ns.max(now_ns);
    }

    fn add(&mut self, gained: u64) {
        self.level = self.level.saturating_add(gained).min(self.rule.cap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the order of requests and retries: never more retries than the share of the
        /// requests, the floor of the time passed, and the second that was there at the start.
        #[test]
        fn property_retries_stay_a_share(
            percent in 0u32..100,
            floor_per_s in 0u32..10,
            steps in prop::collection::vec((any::<bool>(), 0u64..200_000_000), 1..400),
        ) {
            let rule = BudgetRule { percent, floor_per_s };
            let mut budget = RetryBudget::new(rule, 0);
            let (mut now_ns, mut requests, mut retries) = (0u64, 0u64, 0u64);
            for (is_request, pause) in steps {
                now_ns += pause;
                if is_request {
                    budget.deposit(now_ns);
                    requests += 1;
                } else {
                    let expected = budget.next_in(now_ns) == Some(Duration::ZERO);
                    let passed = budget.withdraw(now_ns);
                    prop_assert_eq!(passed, expected);
                    retries += u64::from(passed);
                }
                let earned = u128::from(requests) * u128::from(percent) * u128::from(PERMIT / 100);
                let given = u128::from(floor_per_s) * u128::from(now_ns + NS_PER_S);
                prop_assert!(u128::from(retries) * u128::from(PERMIT) <= earned + given);
            }
        }
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let rule = BudgetRule::default();
        let mut budget = RetryBudget::new(rule, 0);
        (0..1_000_000).for_each(|_| budget.deposit(0));
        let at_once = (0..1000).filter(|_| budget.withdraw(u64::MAX)).count();
        assert_eq!(at_once as u64, rule.cap() / PERMIT);
        assert_eq!(at_once, 130);
    }

    #[test]
    fn another_rule_keeps_what_is_there_and_what_is_spent() {
        let usual = BudgetRule::default();
        let mut budget = RetryBudget::new(usual, 0);
        while budget.withdraw(0) {}
        budget.set_rule(BudgetRule { percent: 50, ..usual }, 0);
        assert!(!budget.withdraw(0), "a reload pays for nothing");
        (0..1000).for_each(|_| budget.deposit(0));
        budget.set_rule(BudgetRule { percent: 0, floor_per_s: 1 }, 0);
        let left = (0..1000).filter(|_| budget.withdraw(0)).count();
        assert_eq!(left, 10, "no more than the new rule saves up");
    }

    #[test]
    fn an_empty_budget_says_when() {
        let mut budget = RetryBudget::new(BudgetRule { percent: 20, floor_per_s: 2 }, 0);
        while budget.withdraw(0) {}
        assert_eq!(budget.next_in(0), Some(Duration::from_millis(500)));
        assert!(!budget.withdraw(499_999_999) && budget.withdraw(500_000_000));
        let none = RetryBudget::new(BudgetRule { percent: 20, floor_per_s: 0 }, 0);
        assert_eq!(none.next_in(0), None);
    }
}
