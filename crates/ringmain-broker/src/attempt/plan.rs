//! Which target is asked next, and when.

use std::sync::Arc;
use std::time::Duration;

use ringmain_policy::balance::{draw, is_cheaper};
use ringmain_policy::retry::{Fault, Hints, Next, RetryPolicy, Standing};
use ringmain_shm::monotonic_ns;
use ringmain_wire::{Code, Stage};

use super::health::Running;
use crate::failure::Failure;
use crate::log_id::mix;
use crate::routes::Served;

/// The attempts of one request, made and to be made.
pub(crate) struct Plan {
    route: Arc<Served>,
    policy: RetryPolicy,
    is_idempotent: bool,
    /// One bit per target that was asked in this round.
    tried: u64,
    made: u32,
    waited: Duration,
    /// Seed of the choices, different for each request.
    seed: u64,
}

/// A target that may be asked now.
pub(crate) struct Pick {
    pub index: usize,
    /// The leave of its endpoint; producers need none.
    pub running: Option<Running>,
}

/// What follows a failed attempt.
pub(crate) enum Then {
    /// Ask this one, at once.
    Ask(Pick),
    /// Wait, and then [`Plan::again`].
    Wait(Duration),
    /// Pass the failure on.
    PassOn,
}

impl Plan {
    pub fn new(route: Arc<Served>, is_idempotent: bool, seed: u64) -> Plan {
        let policy = route.retry_policy();
        Plan { route, policy, is_idempotent, tried: 0, made: 0, waited: Duration::ZERO, seed }
    }

    /// The target of the first attempt.
    pub fn first(&mut self) -> Result<Pick, Failure> {
        self.pick().map_err(|wait| {
            let text = format!("every endpoint of route {:?} is resting", self.route.model);
            let mut failure = Failure::new(Code::EndpointUnavailable, Stage::Admit, text);
            failure.retry_after_ms = wait.map(|wait| wait.as_millis() as u64);
            failure
        })
    }

    /// What follows when the attempt at `target` failed; `left` is the time until the deadline.
    pub fn next(&mut self, fault: Fault, hints: Hints, left: Duration) -> Then {
        let elsewhere = if self.may_go_on() { self.pick().ok() } else { None };
        let standing = Standing {
            is_idempotent: self.is_idempotent,
            made: self.made,
            waited: self.waited,
            left,
            has_elsewhere: elsewhere.is_some(),
        };
        let random = self.random();
        match (self.policy.next(fault, hints, standing, random), elsewhere) {
            (Next::Elsewhere, Some(pick)) => Then::Ask(pick),
            (Next::Wait(wait), _) => {
                self.waited += wait;
                Then::Wait(wait)
            }
            // The leave that was taken is given back by its drop.
            _ => Then::PassOn,
        }
    }

    /// The target after a wait: whoever is best now, asked before or not.
    pub fn again(&mut self) -> Option<Pick> {
        self.tried = 0;
        self.pick().ok()
    }

    /// An attempt is made.
    pub fn makes(&mut self, index: usize) {
        self.made += 1;
        self.tried |= 1 << index;
    }

    fn may_go_on(&self) -> bool {
        self.made < self.policy.attempts
    }

    /// The best target that was not tried, of the first tier that has one; else the shortest time
    /// until one of those may be asked.
    fn pick(&mut self) -> Result<Pick, Option<Duration>> {
        let now_ns = monotonic_ns();
        let mut refused = self.tried;
        let mut wait = None;
        // Bound: each round takes one target out.
        while let Some(index) = self.choose(refused, now_ns) {
            let Some(health) = self.route.target(index).health() else {
                return Ok(Pick { index, running: None });
            };
            match health.leave(self.made > 0, now_ns) {
                Ok(running) => return Ok(Pick { index, running: Some(running) }),
                Err(later) => {
                    wait = Some(wait.map_or(later, |wait: Duration| wait.min(later)));
                    refused |= 1 << index;
                }
            }
        }
        Err(wait)
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
