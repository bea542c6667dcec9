//! Which target is asked next, and when.

use std::sync::Arc;
use std::time::Duration;

use ringmain_policy::balance::{draw, is_cheaper};
use ringmain_policy::retry::{Fault, Hints, Next, RetryPolicy, Standing};
use ringmain_wire::{Code, Stage};

use super::health::Running;
use crate::failure::Failure;
use crate::log_id::mix;
use crate::routes::Served;

/// The attempts of one request, made and to be made.
pub(crate) struct Plan {
    route: Arc<Served>,
    policy: RetryPolicy,
    /// Whose request it is: an endpoint may rest for one alone.
    uid: u32,
    is_idempotent: bool,
    /// One bit per target that was asked in this round.
    tried: u64,
    made: u32,
    waited: Duration,
    /// Seed of the choices, different for each request.
    seed: u64,
}

/// What follows a failed attempt.
pub(crate) enum Then {
    /// Ask one that was not asked yet, at once.
    Ask,
    /// Wait, and then [`Plan::again`].
    Wait(Duration),
    /// Pass the failure on.
    PassOn,
}

impl Plan {
    pub fn new(route: Arc<Served>, uid: u32, is_idempotent: bool, seed: u64) -> Plan {
        let policy = route.retry_policy();
        let (tried, made, waited) = (0, 0, Duration::ZERO);
        Plan { route, policy, uid, is_idempotent, tried, made, waited, seed }
    }

    /// Nobody is left to be asked; one of those may be after this time.
    pub fn resting(&self, wait: Option<Duration>) -> Failure {
        let text = format!("every endpoint of route {:?} is resting", self.route.model);
        let mut failure = Failure::new(Code::EndpointUnavailable, Stage::Admit, text);
        failure.retry_after_ms = wait.map(|wait| wait.as_millis() as u64);
        failure
    }

    /// What follows a failed attempt; `left` is the time until the deadline.
    pub fn next(&mut self, fault: Fault, hints: Hints, left: Duration, now_ns: u64) -> Then {
        let mut standing = Standing {
            is_idempotent: self.is_idempotent,
            made: self.made,
            waited: self.waited,
            left,
            has_elsewhere: true,
        };
        let random = self.random();
        if self.policy.next(fault, hints, standing, random) == Next::Elsewhere
            && self.has_other(None, 0, now_ns)
        {
            return Then::Ask;
        }
        standing.has_elsewhere = false;
        match self.policy.next(fault, hints, standing, random) {
            Next::Wait(wait) => {
                self.waited += wait;
                Then::Wait(wait)
            }
            Next::Elsewhere | Next::Never => Then::PassOn,
        }
    }

    /// After a wait, whoever is best then is asked, asked before or not.
    pub fn again(&mut self) {
        self.tried = 0;
    }

    /// An attempt is made.
    pub fn makes(&mut self, index: usize) {
        self.made += 1;
        self.tried |= 1 << index;
    }

    /// The best target that was not tried and is not among those `passed` over, of the first tier
    /// that has one; else the shortest time until one of those may be asked. Nothing is taken of
    /// its endpoint: what it gives is asked for when everything else is there.
    pub fn best(&mut self, passed: u64, now_ns: u64) -> Result<usize, Option<Duration>> {
        let mut refused = self.tried | passed;
        let mut wait = None;
        // Bound: each round takes one target out.
        while let Some(index) = self.choose(refused, now_ns) {
            let Some(health) = self.route.target(index).health() else { return Ok(index) };
            match health.would_leave(self.uid, self.made > 0, now_ns) {
                Ok(()) => return Ok(index),
                Err(later) => {
                    wait = Some(wait.map_or(later, |wait: Duration| wait.min(later)));
                    refused |= 1 << index;
                }
            }
        }
        Err(wait)
    }

    /// Whether a target other than this one may be asked that was not tried and is not `passed`
    /// over.
    pub fn has_other(&self, than: Option<usize>, passed: u64, now_ns: u64) -> bool {
        let shut = self.tried | passed;
        let open = |index: &usize| Some(*index) != than && shut & (1 << index) == 0;
        self.route.indices().filter(open).any(|index| {
            let health = self.route.target(index).health();
            health.is_none_or(|health| health.would_leave(self.uid, self.made > 0, now_ns).is_ok())
        })
    }

    /// The leave of the endpoint of a target, for the next attempt; producers need none.
    pub fn leave(&self, index: usize, now_ns: u64) -> Result<Option<Running>, Duration> {
        let health = self.route.target(index).health();
        health.map(|health| health.leave(self.uid, self.made > 0, now_ns)).transpose()
    }

    pub fn route(&self) -> &Arc<Served> {
        &self.route
    }

    /// Of the lowest tier with candidates: the one whose turn it is, or a second, drawn one if that
    /// is clearly cheaper.
    fn choose(&mut self, refused: u64, now_ns: u64) -> Option<usize> {
        let (draws, is_fresh) = ((self.random(), self.random()), self.tried | refused == 0);
        let route = &self.route;
        let open = |index: &usize| refused & (1 << index) == 0;
        let tier = route.indices().filter(open).map(|index| route.target(index).tier).min()?;
        let weight = |index: usize| {
            let target = route.target(index);
            if open(&index) && target.tier == tier { target.weight } else { 0 }
        };
        let first = match is_fresh {
            true => route.take_turn(tier)?,
            false => draw(route.indices().map(weight), draws.0)?,
        };
        let others = route.indices().map(|index| if index == first { 0 } else { weight(index) });
        let Some(second) = draw(others, draws.1) else { return Some(first) };
        let load = |index: usize| {
            let target = route.target(index);
            target.health().map(|health| health.load(target.weight, now_ns))
        };
        match (load(second), load(first)) {
            (Some(other), Some(turn)) if is_cheaper(other, turn) => Some(second),
            _ => Some(first),
        }
    }

    fn random(&mut self) -> u64 {
        self.seed = mix(self.seed);
        self.seed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmain_policy::breaker::BreakerRule;
    use ringmain_shm::monotonic_ns;
    use ringmain_upstream::{Endpoint, EndpointConfig, Progress};

    use crate::allow::Identity;
    use crate::routes::{Route, RouteTable, Target};
    use crate::rules::{EndpointRules, Rules};

    const MINUTE: Duration = Duration::from_secs(60);

    /// A route of these endpoints, by name, weight and tier, whose breakers open at once.
    fn route(targets: &[(&str, u32, u16)]) -> Arc<Served> {
        let endpoint = |(name, ..): &(&str, u32, u16)| {
            Arc::new(Endpoint::new(EndpointConfig::new(*name, "http://127.0.0.1:9/v1")).unwrap())
        };
        let endpoints: Vec<_> = targets.iter().map(endpoint).collect();
        let target = |(name, weight, tier): &(&str, u32, u16)| {
            let (weight, tier) = (*weight, *tier);
            Target { weight, tier, ..Target::new(*name) }
        };
        let targets: Vec<_> = targets.iter().map(target).collect();
        let breaker = BreakerRule { failures: 1, ..BreakerRule::default() };
        let rule = EndpointRules { breaker, ..EndpointRules::default() };
        let ruled = endpoints.iter().map(|endpoint| (endpoint.name().to_owned(), rule)).collect();
        let rules = Rules { endpoints: ruled, ..Rules::default() };
        let route = Route { model: "m".into(), targets, allow: None };
        let table = RouteTable::new(vec![route], endpoints).unwrap().with_rules(&rules);
        table.find("m", &Identity::default()).ok().unwrap()
    }

    fn plan(route: &Arc<Served>, seed: u64) -> Plan {
        Plan::new(route.clone(), 7, true, seed)
    }

    /// Lets one request at a target end after a while.
    fn ends(route: &Arc<Served>, index: usize, verdict: fn(&mut Running)) {
        let health = route.target(index).health().unwrap();
        let mut running = health.leave(7, false, monotonic_ns()).ok().unwrap();
        running.begin(Progress::default());
        verdict(&mut running);
    }

    #[test]
    fn equals_take_turns_by_weight() {
        let route = route(&[("a", 3, 0), ("b", 1, 0)]);
        let picked: Vec<_> =
            (0..40).map(|seed| plan(&route, seed).best(0, monotonic_ns()).unwrap()).collect();
        assert_eq!(picked.iter().filter(|index| **index == 0).count(), 30);
    }

    #[test]
    fn the_busier_one_of_two_is_passed_over() {
        let route = route(&[("a", 1, 0), ("b", 1, 0)]);
        let health = route.target(0).health().unwrap();
        let mut held: Vec<_> =
            (0..8).map(|_| health.leave(7, false, monotonic_ns()).ok().unwrap()).collect();
        held.iter_mut().for_each(|running| running.begin(Progress::default()));
        for seed in 0..20 {
            assert_eq!(plan(&route, seed).best(0, monotonic_ns()), Ok(1));
        }
    }

    #[test]
    fn who_refuses_fast_is_not_taken_for_fast() {
        let route = route(&[("a", 1, 0), ("b", 1, 0)]);
        ends(&route, 0, Running::was_busy);
        ends(&route, 1, Running::had_content);
        for seed in 0..20 {
            assert_eq!(plan(&route, seed).best(0, monotonic_ns()), Ok(1));
        }
    }

    #[test]
    fn tiers_come_one_after_the_other_and_resting_ones_are_passed_over() {
        let route = route(&[("a", 1, 0), ("b", 1, 1), ("c", 1, 2)]);
        let mut asked = plan(&route, 7);
        assert_eq!(asked.best(0, monotonic_ns()), Ok(0));
        asked.makes(0);
        ends(&route, 1, Running::failed);
        let fault = Fault::Refused { status: 503 };
        let then = asked.next(fault, Hints::default(), MINUTE, monotonic_ns());
        assert!(matches!(then, Then::Ask));
        assert_eq!(asked.best(0, monotonic_ns()), Ok(2), "b is resting");
        asked.makes(2);
        let then = asked.next(fault, Hints::default(), MINUTE, monotonic_ns());
        assert!(matches!(then, Then::Wait(_)), "all were asked");
        // None has leave any more.
        ends(&route, 0, Running::failed);
        ends(&route, 2, Running::failed);
        asked.again();
        assert!(asked.best(0, monotonic_ns()).is_err());
        let resting = plan(&route, 8).best(0, monotonic_ns()).unwrap_err();
        let failure = asked.resting(resting);
        assert_eq!((failure.code, failure.stage), (Code::EndpointUnavailable, Stage::Admit));
        assert!(failure.retry_after_ms.is_some_and(|ms| ms > 3000 && ms <= 5000));
    }

    #[test]
    fn no_leave_is_taken_that_is_not_used() {
        let route = route(&[("a", 1, 0), ("b", 1, 1)]);
        let mut asked = plan(&route, 1);
        let first = asked.best(0, monotonic_ns()).unwrap();
        asked.makes(first);
        let then = asked.next(Fault::Final, Hints::default(), MINUTE, monotonic_ns());
        assert!(matches!(then, Then::PassOn));
        assert_eq!(route.target(1).health().unwrap().condition().retries, 0);
    }
}
