//! What it says of an endpoint when its callers give up before it has said anything.
//!
//! A caller that leaves, or whose own deadline passes, may have asked for much and waited for
//! little. So its silence counts only when it waited for longer than answers take there, and for
//! its uid alone: the endpoint rests for whoever has met it so often in a row. When it rests for
//! two, it is not about one of them, and it rests for all. Whatever the endpoint says to anybody
//! ends all of this.

use std::time::Duration;

use crate::breaker::{Breaker, BreakerRule, BreakerState, Leave};

/// Uids whose silence is remembered. Bound: beyond it the oldest that rests for nobody is
/// forgotten, and without such a one the oldest.
const UIDS_MAX: usize = 64;
/// The least time without an answer that says anything.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
/// And so many times as long as answers take.
const PATIENCE_FACTOR: u32 = 3;
/// The most, but for an endpoint whose answers take longer: one that once took a quarter of an hour
/// must not make everybody wait for three.
const PATIENCE_MAX: Duration = Duration::from_secs(300);
/// A faster answer moves what is usual by one part of so many; a slower one moves it at once.
const FORGET: u32 = 8;

/// The silence of one endpoint, by uid.
///
/// ```
/// use std::time::Duration;
/// use ringmain_policy::breaker::BreakerRule;
/// use ringmain_policy::silence::Silences;
///
/// let second = 1_000_000_000;
/// let mut silences = Silences::new(BreakerRule { failures: 2, ..BreakerRule::default() });
/// assert_eq!(silences.patience(), Duration::from_secs(5));
/// assert!(!silences.unheard(7, false, 0) && !silences.unheard(7, false, 0));
/// assert_eq!(silences.would_leave_at_ns(7, 0), Some(5 * second), "it rests for this one");
/// assert_eq!(silences.would_leave_at_ns(8, 0), None);
/// silences.heard(Some(Duration::from_secs(4)));
/// assert_eq!(silences.would_leave_at_ns(7, 0), None);
/// assert_eq!(silences.patience(), Duration::from_secs(12));
/// ```
#[derive(Clone, Debug)]
pub struct Silences {
    rule: BreakerRule,
    /// Those who met silence since the endpoint last said something, oldest first.
    rows: Vec<(u32, Breaker)>,
    /// How long answers take.
    usual: Duration,
}

impl Silences {
    /// None so far. Of the rule the failures in a row count, and how long it rests.
    pub fn new(rule: BreakerRule) -> Silences {
        Silences { rule: of_rows(rule), rows: Vec::new(), usual: Duration::ZERO }
    }

    /// Goes on under another rule.
    pub fn set_rule(&mut self, rule: BreakerRule, now_ns: u64) {
        self.rule = of_rows(rule);
        for (_, row) in &mut self.rows {
            row.set_rule(self.rule, now_ns);
        }
    }

    /// How long a request has to wait in vain before that says anything.
    pub fn patience(&self) -> Duration {
        let patience = self.usual.saturating_mul(PATIENCE_FACTOR);
        patience.clamp(PATIENCE_MIN, PATIENCE_MAX).max(self.usual)
    }

    /// When this uid may ask for leave again; `None`: now. Takes nothing.
    pub fn would_leave_at_ns(&self, uid: u32, now_ns: u64) -> Option<u64> {
        self.row(uid)?.would_leave_at_ns(now_ns)
    }

    /// This uid sends a request, for which it had leave; whether that finds out for it how things
    /// are. Then it must be told of with [`Silences::unheard`] or [`Silences::abandoned`], unless
    /// the endpoint says something.
    pub fn leave(&mut self, uid: u32, now_ns: u64) -> bool {
        let row = self.rows.iter_mut().find(|(known, _)| *known == uid);
        row.is_some_and(|(_, row)| row.leave(now_ns) == Leave::Probe)
    }

    /// A request of this uid was given up after longer than [`Silences::patience`], unanswered.
    /// True when the endpoint rests from now on for a second one: it should rest for all.
    pub fn unheard(&mut self, uid: u32, is_probe: bool, now_ns: u64) -> bool {
        let at = match self.rows.iter().position(|(known, _)| *known == uid) {
            Some(at) => at,
            None => self.remember(uid),
        };
        let (_, row) = &mut self.rows[at];
        let opened = row.opened_total();
        row.failed(now_ns, is_probe);
        row.opened_total() > opened && self.resting() > 1
    }

    /// A request of this uid was given up before its silence said anything.
    pub fn abandoned(&mut self, uid: u32, is_probe: bool) {
        if let Some((_, row)) = self.rows.iter_mut().find(|(known, _)| *known == uid) {
            row.abandoned(is_probe);
        }
    }

    /// The endpoint said something, of use or not; content after this time, if it was that.
    pub fn heard(&mut self, content: Option<Duration>) {
        self.rows.clear();
        if let Some(took) = content {
            let faster = self.usual.saturating_sub(took) / FORGET;
            self.usual = (self.usual - faster).max(took);
        }
    }

    /// For how many uids it rests.
    pub fn resting(&self) -> usize {
        self.rows.iter().filter(|(_, row)| row.state() != BreakerState::Closed).count()
    }

    fn row(&self, uid: u32) -> Option<&Breaker> {
        self.rows.iter().find_map(|(known, row)| (*known == uid).then_some(row))
    }

    fn remember(&mut self, uid: u32) -> usize {
        if self.rows.len() >= UIDS_MAX {
            let closed = self.rows.iter().position(|(_, row)| row.state() == BreakerState::Closed);
            self.rows.remove(closed.unwrap_or(0));
        }
        self.rows.push((uid, Breaker::new(self.rule)));
        self.rows.len() - 1
    }
}

/// A share says nothing where only failures are counted.
fn of_rows(rule: BreakerRule) -> BreakerRule {
    BreakerRule { percent: 0, ..rule }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::NS_PER_S;
    use proptest::prelude::*;

    fn silences() -> Silences {
        Silences::new(BreakerRule::default())
    }

    #[test]
    fn two_for_whom_it_rests_are_all() {
        let mut silences = silences();
        assert!((0..50).all(|_| !silences.unheard(1, false, 0)), "one alone never is");
        assert_eq!(silences.resting(), 1);
        assert!((0..4).all(|_| !silences.unheard(2, false, 0)));
        assert!(silences.unheard(2, false, 0), "the fifth in a row");
        assert!(silences.would_leave_at_ns(3, 0).is_none(), "told to the breaker of all alone");
    }

    #[test]
    fn the_one_for_whom_it_rests_asks_again_alone() {
        let mut silences = silences();
        (0..5).for_each(|_| _ = silences.unheard(1, false, 0));
        let due_ns = silences.would_leave_at_ns(1, 0).unwrap();
        assert_eq!(due_ns, 5 * NS_PER_S);
        assert!(silences.leave(1, due_ns) && !silences.leave(2, due_ns));
        assert!(silences.would_leave_at_ns(1, due_ns).is_some(), "the probe is under way");
        silences.abandoned(1, true);
        assert!(silences.leave(1, due_ns));
        silences.unheard(1, true, due_ns);
        assert_eq!(silences.would_leave_at_ns(1, due_ns), Some(15 * NS_PER_S), "doubled");
        silences.heard(None);
        assert_eq!((silences.would_leave_at_ns(1, due_ns), silences.resting()), (None, 0));
    }

    #[test]
    fn patience_follows_slow_answers_at_once_and_fast_ones_slowly() {
        let mut silences = silences();
        silences.heard(Some(Duration::from_millis(100)));
        assert_eq!(silences.patience(), Duration::from_secs(5));
        silences.heard(Some(Duration::from_secs(80)));
        assert_eq!(silences.patience(), Duration::from_secs(240));
        silences.heard(Some(Duration::ZERO));
        assert_eq!(silences.patience(), Duration::from_secs(210));
        (0..100).for_each(|_| silences.heard(Some(Duration::ZERO)));
        assert_eq!(silences.patience(), Duration::from_secs(5));
        silences.heard(Some(Duration::from_secs(120)));
        assert_eq!(silences.patience(), Duration::from_secs(300), "not three times as long");
        silences.heard(Some(Duration::from_secs(900)));
        assert_eq!(silences.patience(), Duration::from_secs(900), "no less than answers take");
    }

    proptest! {
        /// Whatever one uid does, nobody else ever notices; and no number of uids takes more than
        /// its share of memory.
        #[test]
        fn property_one_uid_shuts_nobody_out(
            steps in prop::collection::vec((any::<bool>(), 0u64..9 * NS_PER_S), 1..200),
            failures in 0u32..4,
        ) {
            let rule = BreakerRule { failures, ..BreakerRule::default() };
            let (mut silences, mut now_ns) = (Silences::new(rule), 0);
            for (gives_up, pause_ns) in steps {
                now_ns += pause_ns;
                if silences.would_leave_at_ns(7, now_ns).is_none() {
                    let is_probe = silences.leave(7, now_ns);
                    match gives_up {
                        true => prop_assert!(!silences.unheard(7, is_probe, now_ns)),
                        false => silences.abandoned(7, is_probe),
                    }
                }
                prop_assert_eq!(silences.would_leave_at_ns(8, now_ns), None);
            }
            for uid in 0..200 {
                silences.unheard(uid, false, now_ns);
                prop_assert!(silences.rows.len() <= UIDS_MAX);
            }
        }
    }
}
