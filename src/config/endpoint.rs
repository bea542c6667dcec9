//! The `[[endpoint]]` tables.

use std::net::IpAddr;

use reqwest::Url;
use ringmain_broker::rules::EndpointRules;
use ringmain_upstream::{Dialect, Http2, KeySource, Stored, UsageSplice};

use super::pool::PoolSection;
use super::section::{Lines, Section};
use super::{KeyFolder, attempt};

/// One upstream address and its credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSection {
    /// Its name in routes, logs and counters.
    pub name: String,
    /// The address that API paths are appended to.
    pub base_url: String,
    /// The language that it speaks.
    pub dialect: Dialect,
    /// The credential.
    pub key: KeySource,
    /// Where its keys stand in the file, for a fault found when it is made.
    pub lines: Lines,
    /// Whether to ask a stream for usage that the caller did not ask for.
    pub usage: UsageSplice,
    /// Whether callers may read and remove what the provider stored.
    pub stored: Stored,
    /// How HTTP/2 comes about.
    pub http2: Http2,
    /// Its connections.
    pub pool: PoolSection,
    /// Its time limits, breaker and retry budget.
    pub rules: EndpointRules,
}

impl EndpointSection {
    /// Whether the key goes over a network that anybody on the way can read.
    pub fn sends_key_in_clear(&self) -> bool {
        let url = Url::parse(&self.base_url).ok();
        let Some(host) = url
            .filter(|url| url.scheme() == "http")
            .and_then(|url| url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned()))
        else {
            return false;
        };
        let is_local = host == "localhost"
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        !is_local && !matches!(self.key, KeySource::None)
    }

    /// Whether both say the same of its connections, wherever they stand in their files.
    pub fn is_same(&self, other: &EndpointSection) -> bool {
        let (lines, rules) = (other.lines.clone(), other.rules);
        let moved = EndpointSection { lines, rules, ..self.clone() };
        moved == *other
    }
}

/// Reads all tables; names must differ.
pub(super) fn read_all(tables: Vec<Section<'_>>, folder: &KeyFolder) -> Vec<EndpointSection> {
    let mut endpoints: Vec<EndpointSection> = Vec::with_capacity(tables.len());
    for table in tables {
        let endpoint = read(table, &endpoints, folder);
        endpoints.push(endpoint);
    }
    endpoints
}

/// Reads one table. What is faulty is reported; what is returned then only serves to check the
/// rest of the file.
fn read(mut table: Section<'_>, earlier: &[EndpointSection], keys: &KeyFolder) -> EndpointSection {
    let name = table.required_text("name");
    if let Some(name) = &name {
        table.rename(format!("endpoint {:?}", name.value));
        if let Err(sentence) = check_name(&name.value) {
            table.fault(name.span.clone(), "name", sentence);
        }
        if earlier.iter().any(|endpoint| endpoint.name == name.value) {
            table.fault(name.span.clone(), "name", "is already the name of another endpoint");
        }
    }
    let base_url =
        table.required_text("base_url").and_then(|url| match parse_base_url(&url.value) {
            Ok(text) => Some(text),
            Err(sentence) => {
                table.fault(url.span, "base_url", sentence);
                None
            }
        });
    let dialect = table.parsed("dialect", parse_dialect);
    let usage = table.parsed("usage", parse_usage);
    let stored = table.parsed("stored", parse_stored);
    let http2 = table.parsed("http2", parse_http2);
    let key = read_key(&mut table, keys);
    let mut endpoint = EndpointSection {
        name: name.map(|name| name.value).unwrap_or_default(),
        base_url: base_url.unwrap_or_default(),
        dialect: dialect.map(|at| at.value).unwrap_or_default(),
        key,
        lines: Lines::default(),
        usage: usage.map(|at| at.value).unwrap_or_default(),
        stored: stored.map(|at| at.value).unwrap_or_default(),
        http2: http2.map(|at| at.value).unwrap_or_default(),
        pool: PoolSection::read(&mut table, keys),
        rules: attempt::read_endpoint_rules(&mut table),
    };
    endpoint.lines = table.lines();
    table.finish();
    endpoint
}

fn read_key(table: &mut Section<'_>, folder: &KeyFolder) -> KeySource {
    let file = table.text("key_file");
    let variable = table.parsed("key_env", parse_variable);
    match (file, variable) {
        (Some(_), Some(variable)) => {
            table.fault(variable.span, "key_env", "stands beside `key_file`; keep one of the two");
            KeySource::None
        }
        (Some(file), None) => KeySource::File(folder.join(&file.value)),
        (None, Some(variable)) => KeySource::Env(variable.value),
        (None, None) => KeySource::None,
    }
}

pub(super) fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    // Bound: what a response head carries of it.
    match name {
        "" => Err("is empty".to_owned()),
        long if long.len() > 64 => Err(format!("is {} bytes long, at most 64", long.len())),
        text if !text.chars().all(plain) => {
            Err(format!("{text:?} holds more than letters, digits, `-`, `_` and `.`"))
        }
        _ => Ok(()),
    }
}

fn parse_base_url(text: &str) -> Result<String, String> {
    if let Some(socket) = text.strip_prefix("unix:") {
        return match socket.starts_with('/') {
            true => Ok(text.to_owned()),
            false => Err(format!("{text:?} is not of the form \"unix:/run/server.sock:/v1\"")),
        };
    }
    let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    // The text may hold a password: it is not repeated in the sentence.
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or a password; use `key_file`".to_owned());
    }
    match url.scheme() {
        "http" | "https" if url.host().is_none() => Err(format!("{text:?} names no host")),
        "http" | "https" if url.query().is_some() || url.fragment().is_some() => {
            Err(format!("{text:?} has a query or a fragment"))
        }
        "http" | "https" => Ok(text.trim_end_matches('/').to_owned()),
        scheme => Err(format!("begins with {scheme:?}, which is neither http, https nor unix")),
    }
}

fn parse_dialect(text: &str) -> Result<Dialect, String> {
    match text {
        "openai" => Ok(Dialect::OpenAi),
        "anthropic" => Ok(Dialect::Anthropic),
        _ => Err(format!("{text:?} is neither \"openai\" nor \"anthropic\"")),
    }
}

fn parse_usage(text: &str) -> Result<UsageSplice, String> {
    match text {
        "inject" => Ok(UsageSplice::Inject),
        "off" => Ok(UsageSplice::Off),
        _ => Err(format!("{text:?} is neither \"inject\" nor \"off\"")),
    }
}

fn parse_stored(text: &str) -> Result<Stored, String> {
    match text {
        "refused" => Ok(Stored::Refused),
        "shared" => Ok(Stored::Shared),
        _ => Err(format!("{text:?} is neither \"refused\" nor \"shared\"")),
    }
}

fn parse_http2(text: &str) -> Result<Http2, String> {
    match text {
        "negotiated" => Ok(Http2::Negotiated),
        "prior-knowledge" => Ok(Http2::PriorKnowledge),
        "off" => Ok(Http2::Off),
        _ => Err(format!("{text:?} is not one of \"negotiated\", \"prior-knowledge\" and \"off\"")),
    }
}

fn parse_variable(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains(['=', '\0']) {
        true => Err(format!("{text:?} is not the name of an environment variable")),
        false => Ok(text.to_owned()),
    }
}
