//! Tables of routes: who is served by whom, and what makes no table.

use std::collections::HashMap;
use std::time::Duration;

use super::*;
use ringmain_policy::timeouts::AdaptiveRule;
use ringmain_upstream::{EndpointConfig, Progress};

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
    assert_eq!((served.model.as_str(), served.target(0).name()), ("*", "only"));
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
    let picked: Vec<_> =
        (0..8).map(|_| served.take_turn(0).unwrap()).map(|at| served.target(at).name()).collect();
    let count = |name: &str| picked.iter().filter(|picked| **picked == name).count();
    assert_eq!((count("a"), count("b"), count("out")), (6, 2, 0));
}

#[test]
fn producers_are_served_by_whom_a_rule_names_or_by_the_trusted() {
    let targets = vec![Target::producer("own"), Target::producer("lent")];
    let table = RouteTable::new(vec![route("m", targets)], vec![]).unwrap();
    let rule = ProducerRule { name: "lent".into(), allow: Some(Allow::nobody().uid(4242)) };
    let table = table.with_producers(vec![rule]);
    let peer = |uid| Identity { uid, ..Identity::default() };
    let own = peer(ringmain_shm::own_uid());
    assert!(table.producer("own").unwrap().permits(&own));
    assert!(!table.producer("own").unwrap().permits(&peer(4242)));
    assert!(table.producer("lent").unwrap().permits(&peer(4242)));
    assert!(table.producer("other").is_none());
    assert!(table.may_produce(&peer(4242)) && !table.may_produce(&peer(4243)));
    let served = table.find("m", &Identity::default()).unwrap();
    assert_eq!(served.target(served.take_turn(0).unwrap()).name(), "own");
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

/// What is known of an endpoint outlives a reload, whatever that changes but the server.
#[test]
fn a_reload_keeps_what_is_known_of_an_endpoint() {
    let kept = endpoint("kept");
    let table = |rules: &Rules| {
        let routes = vec![route("m", vec![Target::new("kept")])];
        RouteTable::new(routes, vec![kept.clone()]).unwrap().with_rules(rules)
    };
    let health = |table: &RouteTable| {
        let served = table.find("m", &Identity::default()).unwrap();
        served.target(0).health().unwrap().clone()
    };
    let before = table(&Rules::default());
    let mut same = table(&Rules::default());
    same.adopt(&before);
    assert!(Arc::ptr_eq(&health(&before), &health(&same)));
    // Another time limit changes nothing of what is known.
    let mut rules = EndpointRules::default();
    rules.limits.head = Some(Duration::from_secs(7));
    let slower = HashMap::from([("kept".to_owned(), rules)]);
    let mut limited = table(&Rules { endpoints: slower, ..Rules::default() });
    limited.adopt(&before);
    let mut running = health(&before).leave(7, false, 0).ok().unwrap();
    running.begin(Progress::default());
    assert_eq!(health(&limited).condition().pending, 1);
    assert_eq!(health(&limited).rules(), &rules);
    // Nor does another breaker or budget, nor another way to connect to the same server.
    let mut rules = EndpointRules::default();
    rules.breaker.failures = 1;
    rules.budget.percent = 50;
    let changed = HashMap::from([("kept".to_owned(), rules)]);
    let mut other = table(&Rules { endpoints: changed, ..Rules::default() });
    other.adopt(&before);
    assert_eq!(health(&other).condition().pending, 1);
    let again = |url: &str| {
        let endpoint = Endpoint::new(EndpointConfig::new("kept", url)).unwrap();
        let routes = vec![route("m", vec![Target::new("kept")])];
        let mut table = RouteTable::new(routes, vec![Arc::new(endpoint)]).unwrap();
        table.adopt(&before);
        health(&table).condition().pending
    };
    assert_eq!(again(&kept.config().base_url), 1);
    assert_eq!(again("http://127.0.0.1:19/v1"), 0, "another server under an old name");
}

#[test]
fn a_reload_keeps_what_the_limits_of_a_route_have_learned() {
    let table = |floor_ms| {
        let floor = Duration::from_millis(floor_ms);
        let adaptive = Some(AdaptiveRule { floor, ..AdaptiveRule::default() });
        let of_route = RouteRules { adaptive, ..RouteRules::default() };
        let rules =
            Rules { routes: HashMap::from([("m".to_owned(), of_route)]), ..Rules::default() };
        let routes = vec![route("m", vec![Target::new("a")])];
        RouteTable::new(routes, vec![endpoint("a")]).unwrap().with_rules(&rules)
    };
    let seen = |table: &RouteTable| {
        table.find("m", &Identity::default()).unwrap().adaptive.clone().unwrap()
    };
    let (before, mut same, mut other) = (table(5), table(5), table(6));
    same.adopt(&before);
    other.adopt(&before);
    assert!(Arc::ptr_eq(&seen(&before), &seen(&same)));
    assert!(!Arc::ptr_eq(&seen(&before), &seen(&other)));
}
