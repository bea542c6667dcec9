//! Which endpoint serves a model name, for whom.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringmain_policy::retry::RetryPolicy;
use ringmain_policy::{ExchangeLimits, PatternError, RouteMatch};
use ringmain_upstream::Endpoint;
use thiserror::Error;

use crate::allow::{Allow, Identity};
use crate::attempt::adaptive::Adaptive;
use crate::attempt::health::{Condition, Health};
use crate::rules::{EndpointRules, RouteRules, Rules};

/// Most targets of a route: one bit each in the set of those that were tried.
pub const TARGETS_MAX: usize = 64;

/// A model name and the endpoints that serve it, as configured.
#[derive(Clone, Debug)]
pub struct Route {
    /// The name that callers use: exact, `prefix*` or `*`.
    pub model: String,
    /// Who serves it.
    pub targets: Vec<Target>,
    /// Who may use it; `None`: everybody who may attach.
    pub allow: Option<Allow>,
}

/// One endpoint or producer of a route, as configured.
#[derive(Clone, Debug)]
pub struct Target {
    /// Who answers.
    pub server: Server,
    /// Its own name of the model; `None`: the name that the caller used.
    pub model: Option<String>,
    /// Its share of the requests of its tier; 0 takes it out.
    pub weight: u32,
    /// Targets of a higher tier are asked only when those below are resting or have failed.
    pub tier: u16,
}

/// Who answers the requests of a target, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Server {
    /// An upstream endpoint.
    Endpoint(String),
    /// The processes of this host that attach under this name.
    Producer(String),
}

/// Who may attach as a producer of a name, beside those whom the broker trusts with everything.
#[derive(Clone, Debug)]
pub struct ProducerRule {
    /// The name.
    pub name: String,
    /// Who may attach under it; `None`: the broker's own uid and root.
    pub allow: Option<Allow>,
}

/// All routes and endpoints of a configuration. Replaced whole by a reload; an exchange keeps
/// what it was given.
pub struct RouteTable {
    patterns: RouteMatch,
    routes: Vec<Arc<Served>>,
    endpoints: Vec<Arc<Endpoint>>,
    /// In the order of the endpoints.
    healths: Vec<Arc<Health>>,
    /// Every producer that a route or a rule names, and who may attach as one.
    producers: BTreeMap<String, Allow>,
}

/// A route that an exchange was given.
pub(crate) struct Served {
    pub model: String,
    allow: Option<Allow>,
    // Bound: `TARGETS_MAX`.
    targets: Vec<ServedTarget>,
    /// Whose turn it is, for each tier of the targets.
    turns: Vec<Turn>,
    rules: RouteRules,
    /// Limits that follow what was seen, when they do.
    pub adaptive: Option<Arc<Adaptive>>,
}

/// The turns of one tier.
struct Turn {
    tier: u16,
    taken: AtomicUsize,
    weight_total: usize,
}

/// Who an exchange was given to, and the model name to ask for.
pub(crate) struct ServedTarget {
    pub server: ServedBy,
    pub model: Option<String>,
    /// Some route to this server is not for everybody. The body's own model name is what an
    /// endpoint goes by, and a producer may, so it must not differ from the name that was judged.
    pub is_guarded: bool,
    pub weight: u32,
    pub tier: u16,
    /// Of an endpoint.
    health: Option<Arc<Health>>,
}

/// Who answers.
pub(crate) enum ServedBy {
    Endpoint(Arc<Endpoint>),
    /// Whoever is attached under this name when the request comes.
    Producer(String),
}

/// Why routes and endpoints make no table.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Two endpoints have the same name.
    #[error("two endpoints are named {0:?}")]
    DoubleEndpoint(String),
    /// No endpoint, or no target with a weight.
    #[error("route {0:?} has no endpoint")]
    Empty(String),
    /// A faulty model name.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// More targets than a route may have.
    #[error("route {route:?} has {targets} targets, at most {TARGETS_MAX}")]
    TooMany {
        /// Model name of the route.
        route: String,
        /// How many it has.
        targets: usize,
    },
    /// Several endpoints and no route.
    #[error("{0} endpoints and no route: say which serves what")]
    Undecided(usize),
    /// A route names an endpoint that does not exist.
    #[error("route {route:?} names endpoint {endpoint:?}, which does not exist")]
    UnknownEndpoint {
        /// Model name of the route.
        route: String,
        /// Endpoint named.
        endpoint: String,
    },
}

/// No route serves a model name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no route serves {asked:?}{}", nearest_hint(.nearest.as_deref(), *.routes))]
pub(crate) struct UnknownRoute {
    asked: String,
    nearest: Option<String>,
    routes: usize,
}

impl Target {
    /// An endpoint with weight 1 that knows the model by the caller's name.
    pub fn new(endpoint: impl Into<String>) -> Target {
        Target::of(Server::Endpoint(endpoint.into()))
    }

    /// A producer with weight 1 that knows the model by the caller's name.
    pub fn producer(name: impl Into<String>) -> Target {
        Target::of(Server::Producer(name.into()))
    }

    fn of(server: Server) -> Target {
        Target { server, model: None, weight: 1, tier: 0 }
    }
}

impl ServedTarget {
    /// What it is, in words.
    pub fn role(&self) -> &'static str {
        match &self.server {
            ServedBy::Endpoint(_) => "endpoint",
            ServedBy::Producer(_) => "producer",
        }
    }

    /// The name of who answers, as heads and logs carry it.
    pub fn name(&self) -> &str {
        match &self.server {
            ServedBy::Endpoint(endpoint) => endpoint.name(),
            ServedBy::Producer(name) => name,
        }
    }

    /// What is known of the endpoint.
    pub fn health(&self) -> Option<&Arc<Health>> {
        self.health.as_ref()
    }
}

impl RouteTable {
    /// Ties routes to endpoints. A single endpoint and no route: it serves every model.
    ///
    /// # Errors
    /// [`RouteError`] names the route or endpoint.
    pub fn new(
        mut routes: Vec<Route>,
        endpoints: Vec<Arc<Endpoint>>,
    ) -> Result<RouteTable, RouteError> {
        if let Some(name) = first_double(&endpoints) {
            return Err(RouteError::DoubleEndpoint(name));
        }
        match (&endpoints[..], routes.is_empty()) {
            ([only], true) => {
                let targets = vec![Target::new(only.name())];
                routes.push(Route { model: "*".to_owned(), targets, allow: None });
            }
            (many, true) => return Err(RouteError::Undecided(many.len())),
            (_, false) => {}
        }
        let models: Vec<_> = routes.iter().map(|route| route.model.as_str()).collect();
        let patterns = RouteMatch::new(&models)?;
        let guarded = guarded_servers(&routes);
        let producers = producer_names(&routes);
        let healths = endpoints.iter().map(|_| Arc::new(Health::new(EndpointRules::default())));
        let healths: Vec<_> = healths.collect();
        let serve = |route| serve(route, &endpoints, &healths, &guarded).map(Arc::new);
        let routes = routes.into_iter().map(serve);
        let routes = routes.collect::<Result<_, _>>()?;
        Ok(RouteTable { patterns, routes, endpoints, healths, producers })
    }

    /// Sets what holds for single endpoints and routes. For a table that serves nobody yet.
    #[must_use]
    pub fn with_rules(mut self, rules: &Rules) -> RouteTable {
        for (endpoint, health) in self.endpoints.iter().zip(&mut self.healths) {
            if let Some(rules) = rules.endpoints.get(endpoint.name()) {
                *health = Arc::new(Health::new(*rules));
            }
        }
        self.give_health();
        for route in self.routes.iter_mut().filter_map(Arc::get_mut) {
            let Some(rules) = rules.routes.get(&route.model) else { continue };
            route.rules = *rules;
            route.adaptive = rules.adaptive.map(|rule| Arc::new(Adaptive::new(rule)));
        }
        self
    }

    /// Takes over what an earlier table knows of the endpoints and routes that both have.
    pub(crate) fn adopt(&mut self, earlier: &RouteTable) {
        for (endpoint, health) in self.endpoints.iter().zip(&mut self.healths) {
            let mut known = earlier.endpoints.iter().zip(&earlier.healths);
            // One whose connections are set up differently is the same server.
            let is_it = |known: &Endpoint| {
                (known.name(), &known.config().base_url)
                    == (endpoint.name(), &endpoint.config().base_url)
            };
            if let Some((_, known)) = known.find(|(known, _)| is_it(known)) {
                *health = match known.rules() == health.rules() {
                    true => known.clone(),
                    false => Arc::new(known.under(*health.rules())),
                };
            }
        }
        for route in self.routes.iter_mut().filter_map(Arc::get_mut) {
            let known = earlier.routes.iter().find(|known| known.model == route.model);
            let seen = known.and_then(|known| known.adaptive.as_ref());
            if let (Some(seen), Some(fresh)) = (seen, &mut route.adaptive)
                && seen.rule() == fresh.rule()
            {
                *fresh = seen.clone();
            }
        }
        self.give_health();
    }

    /// Gives every target the health of its endpoint.
    fn give_health(&mut self) {
        let RouteTable { routes, endpoints, healths, .. } = self;
        for target in routes.iter_mut().filter_map(Arc::get_mut).flat_map(|r| &mut r.targets) {
            if let ServedBy::Endpoint(endpoint) = &target.server {
                target.health = health_of(endpoint.name(), endpoints, healths);
            }
        }
    }

    /// Has the health checks of the endpoints told to what is known of them.
    pub(crate) fn hear_checks(&self) {
        for (endpoint, health) in self.endpoints.iter().zip(&self.healths) {
            let health = Arc::downgrade(health);
            endpoint.on_check(move |is_well| {
                if let Some(health) = health.upgrade() {
                    health.checked(is_well);
                }
            });
        }
    }

    /// The condition of the endpoints, in their order.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = Condition> {
        self.healths.iter().map(|health| health.condition())
    }

    /// Says who may attach as a producer. A producer that a route names and no rule does is
    /// served by the broker's own uid and root.
    #[must_use]
    pub fn with_producers(mut self, rules: Vec<ProducerRule>) -> RouteTable {
        for ProducerRule { name, allow } in rules {
            self.producers.insert(name, allow.unwrap_or_else(trusted));
        }
        self
    }

    /// Who may attach as a producer of this name; `None`: nothing here is served by it.
    pub(crate) fn producer(&self, name: &str) -> Option<&Allow> {
        self.producers.get(name)
    }

    /// Whether there is a producer that this peer may be.
    pub(crate) fn may_produce(&self, peer: &Identity) -> bool {
        self.producers.values().any(|allow| allow.permits(peer))
    }

    /// The model names and patterns that this peer may use, as configured.
    pub fn models<'a>(&'a self, peer: &'a Identity) -> impl Iterator<Item = &'a str> {
        let permitted = self.routes.iter().filter(|route| route.permits(peer));
        permitted.map(|route| route.model.as_str())
    }

    /// The endpoints, as given.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Whether this peer may use the model.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn serves(&self, model: &str, peer: &Identity) -> Result<(), String> {
        match self.find(model, peer) {
            Ok(route) if route.permits(peer) => Ok(()),
            Ok(_) => Err(format!("uid {} may not use {model:?}", peer.uid)),
            Err(unknown) => Err(unknown.to_string()),
        }
    }

    /// The route of a model name. A refusal tells this peer of the routes that it may use.
    pub(crate) fn find(&self, model: &str, peer: &Identity) -> Result<Arc<Served>, UnknownRoute> {
        let found = self.patterns.find(model).and_then(|index| self.routes.get(index));
        let permitted = |index: usize| self.routes.get(index).is_some_and(|r| r.permits(peer));
        found.cloned().ok_or_else(|| UnknownRoute {
            asked: model.to_owned(),
            nearest: self.patterns.nearest(model, permitted).map(str::to_owned),
            routes: self.routes.iter().filter(|route| route.permits(peer)).count(),
        })
    }
}

impl Served {
    pub fn permits(&self, peer: &Identity) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.permits(peer))
    }

    /// The target at an index below the number of targets.
    pub fn target(&self, index: usize) -> &ServedTarget {
        &self.targets[index]
    }

    pub fn indices(&self) -> Range<usize> {
        0..self.targets.len()
    }

    /// The next target of a tier in turn, each as often as its weight says.
    pub fn take_turn(&self, tier: u16) -> Option<usize> {
        let turn = self.turns.iter().find(|turn| turn.tier == tier)?;
        let due = turn.taken.fetch_add(1, Ordering::Relaxed) % turn.weight_total;
        let mut passed = 0;
        self.targets.iter().position(|target| {
            passed += if target.tier == tier { target.weight as usize } else { 0 };
            due < passed
        })
    }

    /// How often and how long its requests are tried.
    pub fn retry_policy(&self) -> RetryPolicy {
        self.rules.retry.unwrap_or_else(|| {
            let usual = RetryPolicy::default();
            // Bound: `TARGETS_MAX`.
            RetryPolicy { attempts: usual.attempts.max(self.targets.len() as u32), ..usual }
        })
    }

    /// The time limits at one of its targets: what the route sets itself comes first, then what the
    /// endpoint does.
    pub fn limits(&self, target: Option<&ServedTarget>, others: ExchangeLimits) -> ExchangeLimits {
        let of_endpoint = match target.and_then(ServedTarget::health) {
            Some(health) => health.rules().limits.over(others),
            None => others,
        };
        let limits = self.rules.limits.over(of_endpoint);
        match &self.adaptive {
            Some(adaptive) => adaptive.limits(limits),
            None => limits,
        }
    }
}

fn health_of(
    name: &str,
    endpoints: &[Arc<Endpoint>],
    healths: &[Arc<Health>],
) -> Option<Arc<Health>> {
    let at = endpoints.iter().position(|endpoint| endpoint.name() == name)?;
    healths.get(at).cloned()
}

/// The tiers that these targets have, each with its turns.
fn turns_of(targets: &[ServedTarget]) -> Vec<Turn> {
    let tiers: BTreeSet<u16> = targets.iter().map(|target| target.tier).collect();
    let turn = |tier| {
        let of_tier = targets.iter().filter(|target| target.tier == tier);
        let weight_total = of_tier.map(|target| target.weight as usize).sum();
        Turn { tier, taken: AtomicUsize::new(0), weight_total }
    };
    tiers.into_iter().map(turn).collect()
}

fn first_double(endpoints: &[Arc<Endpoint>]) -> Option<String> {
    let named_before = |at: usize| endpoints[..at].iter().any(|e| e.name() == endpoints[at].name());
    (0..endpoints.len()).find(|at| named_before(*at)).map(|at| endpoints[at].name().to_owned())
}

/// The endpoints and producers that a route with an allow list leads to.
fn guarded_servers(routes: &[Route]) -> HashSet<Server> {
    let guarded = routes.iter().filter(|route| route.allow.is_some());
    guarded.flat_map(|route| &route.targets).map(|target| target.server.clone()).collect()
}

/// The producers that the routes lead to, for those who may be any of them.
fn producer_names(routes: &[Route]) -> BTreeMap<String, Allow> {
    let servers = routes.iter().flat_map(|route| &route.targets).map(|target| &target.server);
    let named = |server: &Server| match server {
        Server::Endpoint(_) => None,
        Server::Producer(name) => Some((name.clone(), trusted())),
    };
    servers.filter_map(named).collect()
}

/// Who may be any producer: the broker's own uid and root.
pub(crate) fn trusted() -> Allow {
    Allow::standard(None)
}

fn serve(
    route: Route,
    endpoints: &[Arc<Endpoint>],
    healths: &[Arc<Health>],
    guarded: &HashSet<Server>,
) -> Result<Served, RouteError> {
    let mut targets = Vec::with_capacity(route.targets.len());
    for target in route.targets.into_iter().filter(|target| target.weight > 0) {
        let is_guarded = guarded.contains(&target.server);
        let health = match &target.server {
            Server::Endpoint(name) => health_of(name, endpoints, healths),
            Server::Producer(_) => None,
        };
        let server = match target.server {
            Server::Producer(name) => ServedBy::Producer(name),
            Server::Endpoint(name) => {
                let endpoint = endpoints.iter().find(|endpoint| endpoint.name() == name);
                let route = route.model.clone();
                let unknown = RouteError::UnknownEndpoint { route, endpoint: name };
                ServedBy::Endpoint(endpoint.cloned().ok_or(unknown)?)
            }
        };
        targets.push(ServedTarget {
            is_guarded,
            server,
            model: target.model,
            weight: target.weight,
            tier: target.tier,
            health,
        });
    }
    match targets.len() {
        0 => Err(RouteError::Empty(route.model)),
        targets if targets > TARGETS_MAX => {
            Err(RouteError::TooMany { route: route.model, targets })
        }
        _ => Ok(Served {
            model: route.model,
            allow: route.allow,
            turns: turns_of(&targets),
            targets,
            rules: RouteRules::default(),
            adaptive: None,
        }),
    }
}

fn nearest_hint(nearest: Option<&str>, routes: usize) -> String {
    match nearest {
        Some(nearest) => format!("; the nearest of {routes} is {nearest:?}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
