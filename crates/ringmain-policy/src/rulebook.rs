//! All limits of a broker: which of them a request falls under, and taking from them together.

use std::collections::HashMap;

use crate::limit::{Crowd, Held, Lack, Limit, LimitRule, LimitUid, Outcome};
use crate::throttle::Throttle;

/// The limits, and the endpoints that refused lately.
#[derive(Debug, Default)]
pub(crate) struct Rulebook {
    rules: Vec<Rule>,
    next_rule: u64,
    endpoints: Vec<EndpointState>,
    /// Route names that were seen, for a number each. Bound: what the operator has written.
    routes: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    id: u64,
    rule: LimitRule,
    refused: u64,
    /// By uid for a rule that holds for each by itself, else one under no uid.
    limits: HashMap<Option<u32>, Limit>,
}

#[derive(Debug)]
struct EndpointState {
    name: String,
    /// By route: a provider counts the requests of each model by itself, and what one route has
    /// used up says nothing of another. Bound: what the operator has written.
    lanes: Vec<(u32, Lane)>,
}

/// What is known of an endpoint by the requests of one route.
#[derive(Debug)]
pub(crate) struct Lane {
    pub throttle: Throttle,
    /// Those who wait and go there.
    pub crowd: Crowd,
}

/// What a request asks to be let through to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    /// Number of its endpoint; none for who answers on this host.
    pub endpoint: Option<u32>,
    /// Number of its route.
    pub route: u32,
}

/// Names one limit for as long as its rule is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitKey {
    rule: u64,
    uid: Option<u32>,
}

/// What a request took, from every limit that it falls under.
#[derive(Debug)]
pub struct Hold {
    parts: Vec<(LimitKey, Held)>,
    goal: Goal,
    uid: u32,
    since_ns: u64,
}

/// What one limit shows to an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitGauge {
    /// What it is about: `endpoint "a"`, `route "m" for each uid`.
    pub name: String,
    /// Requests that may be sent at once; of several uids, what the one with the least may.
    pub requests: Option<i64>,
    /// Tokens that may be used at once, likewise.
    pub tokens: Option<i64>,
    /// Requests in flight.
    pub in_flight: u64,
    /// Requests that wait for it.
    pub waiting: u64,
    /// Requests refused because of it.
    pub refused: u64,
}

/// Limits of uids kept for one rule, beyond which those at rest are removed.
const UIDS_KEPT: usize = 1024;

impl Rulebook {
    /// Puts these rules in force. One that was in force already keeps its state, and so does one
    /// that is about the same with other numbers: what is in flight counts on, and a limit that
    /// was used up is not full because its rate was changed.
    pub fn reload(&mut self, rules: Vec<LimitRule>, now_ns: u64) {
        let mut earlier = std::mem::take(&mut self.rules);
        let mut take = |is_it: &dyn Fn(&LimitRule) -> bool| {
            let at = earlier.iter().position(|known| is_it(&known.rule))?;
            // In order: of several about the same, the first goes on as the first.
            Some(earlier.remove(at))
        };
        let same: Vec<_> = rules.iter().map(|rule| take(&|known| known == rule)).collect();
        for (rule, same) in rules.into_iter().zip(same) {
            let kept = same.or_else(|| take(&|known| known.is_about_as(&rule)));
            let rule = match kept {
                Some(mut kept) => {
                    kept.change(rule, now_ns);
                    kept
                }
                None => {
                    let id = self.next_rule;
                    self.next_rule += 1;
                    Rule { id, rule, refused: 0, limits: HashMap::new() }
                }
            };
            self.rules.push(rule);
        }
    }

    /// The numbers of an endpoint and a route.
    pub fn goal(&mut self, endpoint: Option<&str>, route: &str, now_ns: u64) -> Goal {
        let endpoint = endpoint.map(|name| self.number_of(name));
        let known = self.routes.iter().position(|known| known == route);
        let route = known.unwrap_or_else(|| {
            self.routes.push(route.to_owned());
            self.routes.len() - 1
        });
        let goal = Goal { endpoint, route: route as u32 };
        if self.lane(goal).is_none()
            && let Some(state) = goal.endpoint.and_then(|at| self.endpoints.get_mut(at as usize))
        {
            let lane = Lane { throttle: Throttle::new(now_ns), crowd: Crowd::default() };
            state.lanes.push((goal.route, lane));
        }
        goal
    }

    /// The limits that requests of this uid to this goal fall under.
    pub fn limits_of(&mut self, goal: Goal, uid: u32, now_ns: u64) -> Vec<LimitKey> {
        let Rulebook { rules, endpoints, routes, .. } = self;
        let endpoint = goal.endpoint.and_then(|at| endpoints.get(at as usize));
        let endpoint = endpoint.map(|state| state.name.as_str());
        let route = routes.get(goal.route as usize).map(String::as_str);
        let under = rules.iter_mut().filter(|rule| rule.is_about(endpoint, route, uid));
        under.map(|rule| rule.key_of(uid, now_ns)).collect()
    }

    /// Whether some rule counts the tokens of such a request.
    pub fn counts_tokens(&self, route: &str, uid: u32) -> bool {
        let counts = |rule: &&Rule| rule.rule.tokens.is_some();
        self.rules.iter().filter(counts).any(|rule| {
            let endpoint = rule.rule.endpoint.as_deref();
            rule.is_about(endpoint, Some(route), uid)
        })
    }

    pub fn limit(&mut self, key: LimitKey) -> Option<&mut Limit> {
        let rule = self.rules.iter_mut().find(|rule| rule.id == key.rule)?;
        rule.limits.get_mut(&key.uid)
    }

    /// What a limit lacks.
    pub fn lacks(&mut self, key: LimitKey, tokens: u64, now_ns: u64) -> Option<Lack> {
        self.limit(key)?.lacks(tokens, now_ns)
    }

    /// What is known of the endpoint of a goal.
    pub fn lane(&mut self, goal: Goal) -> Option<&mut Lane> {
        let state = self.endpoints.get_mut(goal.endpoint? as usize)?;
        let mut lanes = state.lanes.iter_mut();
        lanes.find_map(|(route, lane)| (*route == goal.route).then_some(lane))
    }

    /// One more waits for all of these limits, and for the endpoint.
    pub fn enter_crowds(&mut self, goal: Goal, limits: &[LimitKey], uid: u32, tokens: u64) {
        for key in limits {
            if let Some(limit) = self.limit(*key) {
                limit.enter(uid, tokens);
            }
        }
        if let Some(lane) = self.lane(goal) {
            lane.crowd.enter(uid, 0);
        }
    }

    /// One who waited for them does not any more.
    pub fn leave_crowds(&mut self, goal: Goal, limits: &[LimitKey], uid: u32, tokens: u64) {
        for key in limits {
            if let Some(limit) = self.limit(*key) {
                limit.leave(uid, tokens);
            }
        }
        if let Some(lane) = self.lane(goal) {
            lane.crowd.leave(uid, 0);
        }
    }

    /// Takes from all of them; none of them lacks anything.
    pub fn take(
        &mut self,
        set: &[LimitKey],
        goal: Goal,
        uid: u32,
        tokens: u64,
        now_ns: u64,
    ) -> Hold {
        if let Some(lane) = self.lane(goal) {
            lane.throttle.sent(now_ns);
        }
        let mut parts = Vec::with_capacity(set.len());
        for key in set {
            if let Some(limit) = self.limit(*key) {
                parts.push((*key, limit.take(tokens, now_ns)));
            }
        }
        Hold { parts, goal, uid, since_ns: now_ns }
    }

    /// Ends what a take began. A limit that went with a reload is no more.
    pub fn settle(&mut self, hold: Hold, outcome: Outcome, now_ns: u64) {
        let Hold { parts, since_ns, .. } = hold;
        let hold_ns = now_ns.saturating_sub(since_ns);
        for (key, held) in parts {
            if let Some(limit) = self.limit(key) {
                limit.settle(held, outcome, hold_ns, now_ns);
            }
        }
    }

    /// The endpoint of this hold refused, with this `Retry-After`.
    pub fn refused_upstream(&mut self, hold: &Hold, retry_after_ns: Option<u64>, now_ns: u64) {
        let state = hold.goal.endpoint.and_then(|at| self.endpoints.get(at as usize));
        let Some(name) = state.map(|state| state.name.as_str()) else { return };
        let ignores =
            |rule: &Rule| rule.rule.ignores_refusals && rule.rule.endpoint.as_deref() == Some(name);
        if self.rules.iter().any(ignores) {
            return;
        }
        if let Some(lane) = self.lane(hold.goal) {
            lane.throttle.refused(hold.uid, retry_after_ns, hold.since_ns, now_ns);
        }
    }

    /// Counts a refusal of ours, and says whose limit it was.
    pub fn count_refusal(&mut self, key: LimitKey) -> String {
        let rule = self.rules.iter_mut().find(|rule| rule.id == key.rule);
        rule.map_or_else(String::new, |rule| {
            rule.refused += 1;
            rule.name()
        })
    }

    /// What all limits show, and every endpoint that is held to a rate because it refused.
    pub fn gauges(&mut self, now_ns: u64) -> Vec<LimitGauge> {
        let mut gauges: Vec<_> = self.rules.iter_mut().map(|rule| rule.gauge(now_ns)).collect();
        for EndpointState { name, lanes } in &mut self.endpoints {
            for (route, Lane { throttle, crowd }) in lanes {
                let Some(per_minute) = throttle.per_minute(now_ns) else { continue };
                let route = self.routes.get(*route as usize).map_or("", String::as_str);
                let name =
                    format!("route {route:?} at endpoint {name:?} refused: {per_minute}/min");
                gauges.push(LimitGauge { name, waiting: crowd.len(), ..LimitGauge::default() });
            }
        }
        gauges
    }

    /// Every limit that there is now.
    pub fn each_limit(&mut self) -> impl Iterator<Item = &mut Limit> {
        self.rules.iter_mut().flat_map(|rule| rule.limits.values_mut())
    }

    fn number_of(&mut self, name: &str) -> u32 {
        let known = self.endpoints.iter().position(|state| state.name == name);
        let at = known.unwrap_or_else(|| {
            self.endpoints.push(EndpointState { name: name.to_owned(), lanes: Vec::new() });
            self.endpoints.len() - 1
        });
        at as u32
    }
}

impl Rule {
    fn change(&mut self, rule: LimitRule, now_ns: u64) {
        if self.rule != rule {
            self.limits.values_mut().for_each(|limit| limit.change(&rule, now_ns));
            self.rule = rule;
        }
    }

    fn is_about(&self, endpoint: Option<&str>, route: Option<&str>, uid: u32) -> bool {
        let is_same = |wanted: &Option<String>, given: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == given)
        };
        let is_uid = match self.rule.uid {
            Some(LimitUid::One(only)) => only == uid,
            Some(LimitUid::Each) | None => true,
        };
        is_uid && is_same(&self.rule.endpoint, endpoint) && is_same(&self.rule.route, route)
    }

    /// The limit for this uid, made when it is first needed.
    fn key_of(&mut self, uid: u32, now_ns: u64) -> LimitKey {
        let uid = match self.rule.uid {
            Some(LimitUid::Each) => Some(uid),
            Some(LimitUid::One(_)) | None => None,
        };
        if self.limits.len() >= UIDS_KEPT && !self.limits.contains_key(&uid) {
            self.limits.retain(|_, limit| !limit.is_at_rest(now_ns));
        }
        let Rule { id, rule, limits, .. } = self;
        limits.entry(uid).or_insert_with(|| Limit::new(rule, now_ns));
        LimitKey { rule: *id, uid }
    }

    fn gauge(&mut self, now_ns: u64) -> LimitGauge {
        let mut gauge = LimitGauge { name: self.name(), ..LimitGauge::default() };
        gauge.refused = self.refused;
        let least = |a: Option<i64>, b: Option<i64>| a.into_iter().chain(b).min();
        let mut fresh = Limit::new(&self.rule, now_ns);
        // Where nobody asked yet, a limit is full.
        for limit in self.limits.values_mut().chain([&mut fresh]) {
            gauge.requests = least(gauge.requests, limit.requests_level(now_ns));
            gauge.tokens = least(gauge.tokens, limit.tokens_level(now_ns));
            gauge.in_flight += limit.in_flight();
            gauge.waiting += limit.crowd.len();
        }
        gauge
    }

    fn name(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.rule.endpoint.as_ref().map(|name| format!("endpoint {name:?}")));
        words.extend(self.rule.route.as_ref().map(|name| format!("route {name:?}")));
        words.extend(self.rule.uid.map(|uid| match uid {
            LimitUid::Each => "each uid".to_owned(),
            LimitUid::One(uid) => format!("uid {uid}"),
        }));
        words.join(", ")
    }
}
