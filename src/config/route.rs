//! The `[[route]]` tables.

use std::ops::Range;

use ringmain_broker::Server;
use ringmain_broker::routes::TARGETS_MAX;
use ringmain_broker::rules::RouteRules;
use ringmain_wire::limits::ROUTE_BYTES_MAX;
use toml::Spanned;
use toml::de::DeValue;

use super::attempt::{self, RetrySection};
use super::broker::read_allow;
use super::endpoint::{EndpointSection, check_name};
use super::identity::Identity;
use super::report::did_you_mean;
use super::section::{Section, wrong_type};

/// Which endpoints serve the models of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSection {
    /// An exact name, a prefix and `*`, or `*` alone.
    pub model: String,
    /// Where its requests go.
    pub targets: Vec<Target>,
    /// Who may use it; `None`: whoever may attach.
    pub allow: Option<Vec<Identity>>,
    /// How often and how long its requests are tried.
    pub retry: RetrySection,
    /// Its time limits.
    pub rules: RouteRules,
}

/// One endpoint or producer of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who answers, by name.
    pub server: Server,
    /// Its own name for the model, when it differs.
    pub model: Option<String>,
    /// Share of the requests, relative to the others of its tier.
    pub weight: u32,
    /// 0 for those of `endpoints`; those of `fallback` follow, one by one.
    pub tier: u16,
}

impl RouteSection {
    /// The route of a file with one endpoint and no route.
    pub(super) fn everything(endpoint: &EndpointSection) -> RouteSection {
        let server = Server::Endpoint(endpoint.name.clone());
        let target = Target { server, model: None, weight: 1, tier: 0 };
        RouteSection {
            model: "*".to_owned(),
            targets: vec![target],
            allow: None,
            retry: RetrySection::default(),
            rules: RouteRules::default(),
        }
    }
}

/// Reads all tables; no two may have the same pattern.
pub(super) fn read_all(
    tables: Vec<Section<'_>>,
    endpoints: &[EndpointSection],
) -> Vec<RouteSection> {
    let mut routes: Vec<RouteSection> = Vec::with_capacity(tables.len());
    for mut table in tables {
        let model = table.required_text("model");
        if let Some(model) = &model {
            table.rename(format!("route {:?}", model.value));
            if let Err(sentence) = check_pattern(&model.value) {
                table.fault(model.span.clone(), "model", sentence);
            }
            if routes.iter().any(|route| route.model == model.value) {
                table.fault(model.span.clone(), "model", "has a route already");
            }
        }
        let mut targets = read_targets(&mut table, endpoints);
        targets.extend(read_fallback(&mut table, endpoints));
        if targets.len() > TARGETS_MAX {
            let sentence = format!("has {} targets, at most {TARGETS_MAX}", targets.len());
            table.fault(table.span(), "endpoints", sentence);
        }
        let allow = read_allow(&mut table);
        let retry = table.table("retry").map(RetrySection::read).unwrap_or_default();
        let rules = attempt::read_route_rules(&mut table);
        table.finish();
        routes.push(RouteSection {
            model: model.map(|at| at.value).unwrap_or_default(),
            targets,
            allow,
            retry,
            rules,
        });
    }
    routes
}

fn read_targets<'a>(table: &mut Section<'a>, endpoints: &[EndpointSection]) -> Vec<Target> {
    match table.list("endpoints") {
        Some(elements) if elements.is_empty() => {
            table.fault(table.span(), "endpoints", "is empty; name at least one endpoint");
            Vec::new()
        }
        Some(elements) => {
            let read = |value| read_target(table, "endpoints", value, endpoints);
            elements.into_iter().filter_map(read).collect()
        }
        None if table.has("endpoints") => Vec::new(),
        None => {
            table.fault(table.span(), "endpoints", "is required and missing");
            Vec::new()
        }
    }
}

/// Those to ask, one after the other, when those of `endpoints` are resting or have failed.
fn read_fallback<'a>(table: &mut Section<'a>, endpoints: &[EndpointSection]) -> Vec<Target> {
    let elements = table.list("fallback").unwrap_or_default();
    let read = |value| read_target(table, "fallback", value, endpoints);
    let targets = elements.into_iter().filter_map(read).zip(1..);
    targets.map(|(target, tier)| Target { tier, ..target }).collect()
}

fn read_target<'a>(
    table: &Section<'a>,
    key: &'static str,
    value: &'a Spanned<DeValue<'a>>,
    endpoints: &[EndpointSection],
) -> Option<Target> {
    if value.get_ref().as_table().is_none() {
        let sentence = wrong_type("a table such as { name = \"local\" }", value);
        table.fault(value.span(), key, sentence);
        return None;
    }
    let mut target = table.inner(key, value)?;
    let server = read_server(&mut target, endpoints);
    let model = target.parsed("model", |text| check_model(text).map(|()| text.to_owned()));
    let weight = target.integer("weight", 1..=1_000_000);
    target.finish();
    Some(Target {
        server: server?,
        model: model.map(|at| at.value),
        weight: weight.map_or(1, |weight| weight as u32),
        tier: 0,
    })
}

/// `name` of an endpoint, or `producer`.
fn read_server(target: &mut Section<'_>, endpoints: &[EndpointSection]) -> Option<Server> {
    let producer = target.parsed("producer", |name| check_name(name).map(|()| name.to_owned()));
    if !target.has("producer") {
        let name = target.required_text("name")?;
        let known = known_endpoint(target, name.value, name.span, endpoints);
        return known.map(Server::Endpoint);
    }
    if let Some(name) = target.text("name") {
        target.fault(name.span, "name", "stands beside `producer`; keep one of the two");
    }
    producer.map(|at| Server::Producer(at.value))
}

fn known_endpoint(
    target: &Section<'_>,
    name: String,
    span: Range<usize>,
    endpoints: &[EndpointSection],
) -> Option<String> {
    if endpoints.iter().any(|endpoint| endpoint.name == name) {
        return Some(name);
    }
    let near = did_you_mean(&name, endpoints.iter().map(|endpoint| endpoint.name.as_str()));
    target.fault(span, "name", format!("{name:?} is not the name of an [[endpoint]]{near}"));
    None
}

fn check_pattern(pattern: &str) -> Result<(), String> {
    check_model(pattern)?;
    match pattern.find('*') {
        Some(at) if at + 1 != pattern.len() => {
            Err(format!("{pattern:?} has a `*` that is not its last character"))
        }
        _ => Ok(()),
    }
}

fn check_model(model: &str) -> Result<(), String> {
    match model {
        "" => Err("is empty".to_owned()),
        long if long.len() > ROUTE_BYTES_MAX => {
            Err(format!("is {} bytes long, at most {ROUTE_BYTES_MAX}", long.len()))
        }
        text if text.chars().any(char::is_control) => Err("holds a control character".to_owned()),
        _ => Ok(()),
    }
}
