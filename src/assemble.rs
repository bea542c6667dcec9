//! From a configuration to what the broker is made of.

use std::sync::Arc;
use std::time::Duration;

use ringmain_broker::rules::{RouteRules, Rules};
use ringmain_broker::{
    Allow, BrokerConfig, ProducerRule, Route, RouteError, RouteTable, Server, Target,
};
use ringmain_upstream::{Endpoint, EndpointConfig, EndpointError, FreshKey};

use crate::config::{
    Config, ConfigError, EndpointSection, Fault, Identity, ProducerSection, RouteSection,
};

/// The broker's settings. `counters` names the segment that `ringmain status` reads.
pub fn broker_config(config: &Config, counters: String) -> BrokerConfig {
    let section = &config.broker;
    let mut broker = BrokerConfig::default();
    let standard = Allow::standard(section.socket_group);
    broker.allow = match &section.allow {
        Some(identities) => with_identities(standard, identities),
        None => standard,
    };
    broker.drain = section.drain;
    broker.loan = section.loan;
    broker.wait = section.wait;
    broker.body_bytes_max = section.body_max;
    broker.copied_body_bytes_max = section.copied_body_max;
    broker.quotas = config.quota;
    broker.limits = config.limits;
    broker.rates.clone_from(&config.rates);
    broker.queue = config.queue;
    broker.counters = Some(counters);
    broker.counters_gid = section.socket_group;
    broker
}

/// Routes and endpoints that were read and found good, and change nothing yet.
pub struct Prepared {
    table: RouteTable,
    /// New keys of endpoints that are kept.
    keys: Vec<(Arc<Endpoint>, FreshKey)>,
}

impl Prepared {
    /// Reads the key files and judges everything. An endpoint of `running` whose section did not
    /// change is kept, with its connections, and gets a fresh key.
    ///
    /// # Errors
    /// [`ConfigError::Faults`] names the line of everything that cannot be had: keys, certificates.
    pub fn new(
        config: &Config,
        running: &[(&EndpointSection, Arc<Endpoint>)],
    ) -> Result<Prepared, AssembleError> {
        let (mut endpoints, mut keys, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for section in &config.endpoints {
            let wanted = endpoint_config(config, section);
            let is_same = |(earlier, endpoint): &&(&EndpointSection, Arc<Endpoint>)| {
                earlier.is_same(section)
                    && endpoint.config().connect_timeout == wanted.connect_timeout
            };
            let kept = running.iter().find(is_same);
            let made = match kept {
                Some((_, endpoint)) => endpoint.read_key().map(|key| {
                    keys.push((Arc::clone(endpoint), key));
                    Arc::clone(endpoint)
                }),
                None => Endpoint::new(wanted).map(Arc::new),
            };
            match made {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => faults.push(endpoint_fault(section, &error)),
            }
        }
        if !faults.is_empty() {
            return Err(ConfigError::Faults { path: config.path.clone(), faults }.into());
        }
        let routes = config.routes.iter().map(route).collect();
        let producers = config.producers.iter().map(producer).collect();
        let table = RouteTable::new(routes, endpoints)?.with_producers(producers);
        let table = table.with_rules(&rules(config));
        Ok(Prepared { table, keys })
    }

    /// Brings the fresh keys into use; the table is the broker's to take. Cannot fail.
    pub fn commit(self) -> RouteTable {
        for (endpoint, key) in self.keys {
            endpoint.use_key(key);
        }
        self.table
    }
}

/// Why a configuration that reads well makes no broker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// A fault of a line.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Routes and endpoints do not fit.
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// How the connections of an endpoint are made.
pub fn endpoint_config(config: &Config, section: &EndpointSection) -> EndpointConfig {
    let mut endpoint = EndpointConfig::new(section.name.as_str(), section.base_url.as_str());
    endpoint.dialect = section.dialect;
    endpoint.key = section.key.clone();
    endpoint.usage = section.usage;
    endpoint.stored = section.stored;
    endpoint.http2 = section.http2;
    endpoint.connect_timeout = patience(config, section);
    section.pool.apply(&mut endpoint);
    endpoint
}

/// How long a connection to this endpoint may take at most: what its most patient route allows.
/// Others see to their own limits.
fn patience(config: &Config, section: &EndpointSection) -> Duration {
    let leads_here = |target: &crate::config::Target| match &target.server {
        Server::Endpoint(name) => *name == section.name,
        Server::Producer(_) => false,
    };
    let routes = config.routes.iter().filter(|route| route.targets.iter().any(leads_here));
    let own = section.rules.limits.connect.unwrap_or(config.limits.connect);
    routes.filter_map(|route| route.rules.limits.connect).fold(own, Duration::max)
}

fn endpoint_fault(section: &EndpointSection, error: &EndpointError) -> Fault {
    let key = match error.key() {
        "key_file" if section.lines.has("key_env") => "key_env",
        key => key,
    };
    let (line, key) = (section.lines.of(key), format!("endpoint {:?}.{key}", section.name));
    Fault { line, key, sentence: error.to_string() }
}

fn producer(section: &ProducerSection) -> ProducerRule {
    let trusted = Allow::standard(None);
    let allow = section.allow.as_deref().map(|list| with_identities(trusted, list));
    ProducerRule { name: section.name.clone(), allow }
}

fn route(section: &RouteSection) -> Route {
    let target = |target: &crate::config::Target| {
        let mut serving = match &target.server {
            Server::Endpoint(name) => Target::new(name.as_str()),
            Server::Producer(name) => Target::producer(name.as_str()),
        };
        serving.model = target.model.clone();
        serving.weight = target.weight;
        serving.tier = target.tier;
        serving
    };
    Route {
        model: section.model.clone(),
        targets: section.targets.iter().map(target).collect(),
        allow: section.allow.as_deref().map(|list| with_identities(Allow::nobody(), list)),
    }
}

/// What holds for single endpoints and routes.
fn rules(config: &Config) -> Rules {
    let mut rules = Rules::default();
    let endpoints = config.endpoints.iter();
    rules.endpoints = endpoints.map(|section| (section.name.clone(), section.rules)).collect();
    let of_route = |section: &RouteSection| {
        let retry = section.retry.or(config.retry).policy(section.targets.len());
        (section.model.clone(), RouteRules { retry: Some(retry), ..section.rules })
    };
    rules.routes = config.routes.iter().map(of_route).collect();
    rules
}

fn with_identities(allow: Allow, identities: &[Identity]) -> Allow {
    identities.iter().fold(allow, |allow, identity| match *identity {
        Identity::Uid(uid) => allow.uid(uid),
        Identity::Gid(gid) => allow.gid(gid),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Clients are shared by routes, so they wait as long as the most patient one allows, and are
    /// made anew when that changes.
    #[test]
    fn connections_may_take_what_the_most_patient_route_allows() {
        let parse = |of_endpoint: &str, of_route: &str| {
            let source = format!(
                "[limits]\nconnect = \"3s\"\n[[endpoint]]\nname = \"a\"\n\
                 base_url = \"http://127.0.0.1:1/v1\"\n{of_endpoint}\n\
                 [[route]]\nmodel = \"m\"\nendpoints = [{{ name = \"a\" }}]\n{of_route}\n"
            );
            Config::parse(Path::new("/etc/r.toml"), &source).unwrap()
        };
        for (of_endpoint, of_route, seconds) in [
            ("", "", 3),
            ("connect_timeout = \"7s\"", "", 7),
            ("timeouts = { connect = \"1s\" }", "", 1),
            ("timeouts = { connect = \"1s\" }", "timeouts = { connect = \"9s\" }", 9),
            ("", "timeouts = { connect = \"1s\" }", 3),
        ] {
            let config = parse(of_endpoint, of_route);
            let made = endpoint_config(&config, &config.endpoints[0]);
            assert_eq!(made.connect_timeout.as_secs(), seconds, "{of_endpoint} {of_route}");
        }
        let first = parse("", "");
        let table = Prepared::new(&first, &[]).unwrap().commit();
        let running = [(&first.endpoints[0], table.endpoints()[0].clone())];
        let is_kept = |config: &Config| {
            let table = Prepared::new(config, &running).unwrap().commit();
            Arc::ptr_eq(&table.endpoints()[0], &running[0].1)
        };
        assert!(is_kept(&parse("", "timeouts = { connect = \"1s\" }")));
        assert!(!is_kept(&parse("", "timeouts = { connect = \"9s\" }")));
    }
}
