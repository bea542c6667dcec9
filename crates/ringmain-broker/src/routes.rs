//! Which endpoint serves a model name, for whom.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringmain_policy::{PatternError, RouteMatch};
use ringmain_upstream::Endpoint;
use thiserror::Error;

use crate::allow::{Allow, Identity};

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

/// One endpoint of a route, as configured.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the endpoint.
    pub endpoint: String,
    /// The endpoint's own name of the model; `None`: the name that the caller used.
    pub model: Option<String>,
    /// Its share of the route's requests; 0 takes it out.
    pub weight: u32,
}

/// All routes and endpoints of a configuration. Replaced whole by a reload; an exchange keeps
/// what it was given.
pub struct RouteTable {
    patterns: RouteMatch,
    routes: Vec<Arc<Served>>,
    endpoints: Vec<Arc<Endpoint>>,
}

/// A route that an exchange was given.
pub(crate) struct Served {
    pub model: String,
    allow: Option<Allow>,
    targets: Vec<ServedTarget>,
    turn: AtomicUsize,
    weight_total: usize,
}

/// An endpoint that an exchange was given, and the model name to ask it for.
pub(crate) struct ServedTarget {
    pub endpoint: Arc<Endpoint>,
    pub model: Option<String>,
    /// Some route to this endpoint is not for everybody. The body's own model name is what the
    /// endpoint goes by, so it must not differ from the name that was judged.
    pub is_guarded: bool,
    weight: usize,
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
        Target { endpoint: endpoint.into(), model: None, weight: 1 }
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
        let guarded = guarded_endpoints(&routes);
        let serve = |route| serve(route, &endpoints, &guarded).map(Arc::new);
        let routes = routes.into_iter().map(serve);
        Ok(RouteTable { patterns, routes: routes.collect::<Result<_, _>>()?, endpoints })
    }

    /// The endpoints, as given.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
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

    /// The next endpoint in turn, each as often as its weight says.
    pub fn pick(&self) -> &ServedTarget {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.weight_total;
        let mut passed = 0;
        let due = |target: &&ServedTarget| {
            passed += target.weight;
            turn < passed
        };
        // The turn is below the sum of all weights, so one of them passes it.
        self.targets.iter().find(due).unwrap_or(&self.targets[0])
    }
}

fn first_double(endpoints: &[Arc<Endpoint>]) -> Option<String> {
    let named_before = |at: usize| endpoints[..at].iter().any(|e| e.name() == endpoints[at].name());
    (0..endpoints.len()).find(|at| named_before(*at)).map(|at| endpoints[at].name().to_owned())
}

/// Names of the endpoints that a route with an allow list leads to.
fn guarded_endpoints(routes: &[Route]) -> HashSet<String> {
    let guarded = routes.iter().filter(|route| route.allow.is_some());
    guarded.flat_map(|route| &route.targets).map(|target| target.endpoint.clone()).collect()
}

fn serve(
    route: Route,
    endpoints: &[Arc<Endpoint>],
    guarded: &HashSet<String>,
) -> Result<Served, RouteError> {
    let mut targets = Vec::with_capacity(route.targets.len());
    for target in route.targets.into_iter().filter(|target| target.weight > 0) {
        let endpoint = endpoints.iter().find(|e| e.name() == target.endpoint);
        let endpoint = endpoint.cloned().ok_or_else(|| RouteError::UnknownEndpoint {
            route: route.model.clone(),
            endpoint: target.endpoint.clone(),
        })?;
        targets.push(ServedTarget {
            is_guarded: guarded.contains(endpoint.name()),
            endpoint,
            model: target.model,
            weight: target.weight as usize,
        });
    }
    let weight_total = targets.iter().map(|target| target.weight).sum();
    match targets.is_empty() {
        true => Err(RouteError::Empty(route.model)),
        false => Ok(Served {
            model: route.model,
            allow: route.allow,
            targets,
            turn: AtomicUsize::new(0),
            weight_total,
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
mod tests {
    use super::*;
    use ringmain_upstream::EndpointConfig;

    fn endpoint(name: &str) -> Arc<Endpoint> {
        Arc::new(Endpoint::new(EndpointConfig::new(name, "http://127.0.0.1:9/v1")).unwrap())
    }

    fn route(model: &str, targets: Vec<Target>) -> Route {
        Route { model: model.to_owned(), targets, allow: None }
    }

    #[test]
    fn one_endpoint_and_no_route_serves_everything() {
        let table = RouteTable::new(vec![], vec![endpoint("only")]).unwrap();
        let served = table.find("whatever", &Identity::default()).unwrap();
        assert_eq!((served.model.as_str(), served.pick().endpoint.name()), ("*", "only"));
    }

    #[test]
    fn a_refusal_names_no_route_that_its_reader_may_not_use() {
        let targets = || vec![Target::new("only")];
        let mut guarded = route("secret", targets());
        guarded.allow = Some(Allow::nobody().uid(7));
        let routes = vec![guarded, route("tiny", targets())];
        let table = RouteTable::new(routes, vec![endpoint("only")]).unwrap();
        let refused = |uid| {
            let peer = Identity { uid, ..Identity::default() };
            table.find("secrit", &peer).err().unwrap().to_string()
        };
        assert!(refused(8).ends_with(r#"the nearest of 1 is "tiny""#), "{}", refused(8));
        assert!(refused(7).ends_with(r#"the nearest of 2 is "secret""#), "{}", refused(7));
    }

    #[test]
    fn targets_take_turns_by_weight() {
        let weighted = |name, weight| Target { weight, ..Target::new(name) };
        let targets = vec![weighted("a", 3), weighted("out", 0), weighted("b", 1)];
        let endpoints = ["a", "b", "out"].map(endpoint).to_vec();
        let table = RouteTable::new(vec![route("m", targets)], endpoints).unwrap();
        let served = table.find("m", &Identity::default()).unwrap();
        let picked: Vec<_> = (0..8).map(|_| served.pick().endpoint.name().to_owned()).collect();
        let count = |name: &str| picked.iter().filter(|picked| *picked == name).count();
        assert_eq!((count("a"), count("b"), count("out")), (6, 2, 0));
    }

    #[test]
    fn faulty_tables_are_refused_by_name() {
        let error = |routes, names: &[&str]| {
            let endpoints = names.iter().map(|name| endpoint(name)).collect();
            RouteTable::new(routes, endpoints).err().unwrap()
        };
        assert_eq!(error(vec![], &["a", "b"]), RouteError::Undecided(2));
        assert_eq!(error(vec![], &["a", "a"]), RouteError::DoubleEndpoint("a".into()));
        assert_eq!(error(vec![route("m", vec![])], &["a"]), RouteError::Empty("m".into()));
        let unknown = error(vec![route("m", vec![Target::new("x")])], &["a"]);
        assert!(unknown.to_string().contains(r#"names endpoint "x""#), "{unknown}");
    }
}
