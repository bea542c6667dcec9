//! What an operator may set for single endpoints and routes.

use std::collections::HashMap;

use ringmain_policy::breaker::BreakerRule;
use ringmain_policy::budget::BudgetRule;
use ringmain_policy::retry::RetryPolicy;
use ringmain_policy::timeouts::{AdaptiveRule, LimitChanges};

/// The rules of a table, by the name of the endpoint and the model of the route; who is not named
/// has the default.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Rules {
    /// By the name of the endpoint.
    pub endpoints: HashMap<String, EndpointRules>,
    /// By the model of the route, as the route has it.
    pub routes: HashMap<String, RouteRules>,
}

/// What holds for one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointRules {
    /// Its own time limits.
    pub limits: LimitChanges,
    /// When it is not asked.
    pub breaker: BreakerRule,
    /// How many retries it is sent.
    pub budget: BudgetRule,
}

/// What holds for one route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteRules {
    /// Its own time limits; they come before those of the endpoint.
    pub limits: LimitChanges,
    /// How often and how long its requests are tried. `None`: the default, and at least once per
    /// target.
    pub retry: Option<RetryPolicy>,
    /// Limits that follow what was seen; `None`: they do not.
    pub adaptive: Option<AdaptiveRule>,
}
