//! The configuration file: TOML in, one typed value or every fault out.

mod attempt;
mod broker;
mod endpoint;
mod http;
mod identity;
mod limits;
mod pool;
mod producer;
mod rates;
mod report;
mod route;
mod section;
mod socket;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ringmain_http::HttpConfig;
use ringmain_policy::{ExchangeLimits, LimitRule, QueueBounds, Quotas};
use thiserror::Error;
use toml::de::DeTable;

pub use attempt::RetrySection;
pub use broker::BrokerSection;
pub use endpoint::EndpointSection;
pub use identity::Identity;
pub use producer::ProducerSection;
pub use rates::{amounts, scope};
pub use report::Fault;
pub use route::{RouteSection, Target};
pub use socket::{SOCKET_VARIABLE, client_candidates, server_socket};

use report::Report;
use section::Section;

/// Where `serve` and `check` look when no file is named.
pub const DEFAULT_PATH: &str = "/etc/ringmain/ringmain.toml";

/// A configuration without faults.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it was read from.
    pub path: PathBuf,
    /// The broker itself.
    pub broker: BrokerSection,
    /// How long each part of an exchange may take.
    pub limits: ExchangeLimits,
    /// How often and how long requests are tried, where a route does not say.
    pub retry: RetrySection,
    /// How much one uid may hold.
    pub quota: Quotas,
    /// How many requests may wait for their limits.
    pub queue: QueueBounds,
    /// How much may be sent.
    pub rates: Vec<LimitRule>,
    /// The HTTP face; without an address it is not there.
    pub http: HttpConfig,
    /// The upstream addresses.
    pub endpoints: Vec<EndpointSection>,
    /// Who may answer requests on this host.
    pub producers: Vec<ProducerSection>,
    /// Which model goes where.
    pub routes: Vec<RouteSection>,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("the configuration {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has faults.
    #[error("{}", listed(.path, .faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// Every fault, in the order of the lines.
        faults: Vec<Fault>,
    },
}

impl Config {
    /// Reads and judges a file.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault of the file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let source = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(path, &source)
    }

    /// Whether everything that is only read at a start is the same.
    pub fn has_same_start(&self, other: &Config) -> bool {
        (&self.broker, self.limits, self.quota, self.queue)
            == (&other.broker, other.limits, other.quota, other.queue)
    }

    /// Judges the text of a file; `path` names it in faults and anchors relative paths.
    ///
    /// # Errors
    /// [`ConfigError::Faults`] with every fault of the text.
    pub fn parse(path: &Path, source: &str) -> Result<Config, ConfigError> {
        let report = Report::new(source);
        let (document, errors) = DeTable::parse_recoverable(source);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            report.fault(span, "", format!("this is not TOML: {}", error.message()));
        }
        let root = Section::new(&report, "", document.span(), document.get_ref());
        let config = read_root(root, path);
        let faults = report.into_faults();
        match faults.is_empty() {
            true => Ok(config),
            false => Err(ConfigError::Faults { path: path.to_owned(), faults }),
        }
    }
}

/// Reads the whole file. What is faulty is reported, and what is returned then is not used.
fn read_root(mut root: Section<'_>, path: &Path) -> Config {
    let broker = root.table("broker").map(BrokerSection::read).unwrap_or_default();
    let limits = root.table("limits").map(limits::read_limits).unwrap_or_default();
    let quota = root.table("quota").map(limits::read_quota).unwrap_or_default();
    let retry = root.table("retry").map(RetrySection::read).unwrap_or_default();
    let queue = root.table("queue").map(rates::read_queue).unwrap_or_default();
    let http = http::read(root.table("http"), root.tables("client"), &broker, &limits);
    let anchor = KeyFolder::of(path);
    let endpoints = endpoint::read_all(root.tables("endpoint"), &anchor);
    let tables = root.tables("route");
    let producers = producer::read_all(root.tables("producer"));
    // Routes may lead to producers alone.
    if endpoints.is_empty() && tables.is_empty() {
        root.fault(0..0, "endpoint", "at least one [[endpoint]] is required");
    } else if tables.is_empty() && endpoints.len() > 1 {
        let sentence = "is required when there is more than one [[endpoint]]";
        root.fault(0..0, "route", sentence);
    }
    let routes = match tables.is_empty() {
        true => endpoints.first().map(RouteSection::everything).into_iter().collect(),
        false => route::read_all(tables, &endpoints),
    };
    let rates = rates::read_limits(root.tables("limit"), &endpoints, &routes);
    root.finish();
    let path = path.to_owned();
    Config { path, broker, limits, retry, quota, queue, rates, http, endpoints, producers, routes }
}

/// The folder from which relative key files are read: that of the service manager's credentials
/// when it hands some over, else that of the configuration.
pub(crate) struct KeyFolder(PathBuf);

impl KeyFolder {
    fn of(config: &Path) -> KeyFolder {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty());
        KeyFolder(match (credentials, config.parent()) {
            (Some(folder), _) => folder.into(),
            (None, Some(parent)) => parent.to_owned(),
            (None, None) => PathBuf::new(),
        })
    }

    fn join(&self, key_file: &str) -> PathBuf {
        self.0.join(key_file)
    }
}

fn listed(path: &Path, faults: &[Fault]) -> impl fmt::Display {
    let lines: Vec<_> = faults.iter().map(|fault| format!("{}: {fault}", path.display())).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests;
