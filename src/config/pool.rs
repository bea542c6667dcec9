//! What an endpoint says of its connections: how many, how long, how they are made, and what
//! travels on them besides the request.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use ringmain_upstream::{
    ClientCert, EndpointConfig, Probe, Proxy, RequestEncoding, check_header, check_probe,
};

use super::KeyFolder;
use super::section::Section;

/// What `event_max` may be.
const EVENT_BYTES: RangeInclusive<u64> = 64 << 10..=64 << 20;

/// The keys of an `[[endpoint]]` that its pool reads. What is not said keeps its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSection {
    /// Connections that are kept without any demand.
    pub connections_min: Option<usize>,
    /// Most connections at once.
    pub connections_max: Option<usize>,
    /// Most requests at once on one HTTP/2 connection.
    pub streams_max: Option<u32>,
    /// How long an unused connection is kept at most.
    pub idle_timeout: Option<Duration>,
    /// How old a connection may become.
    pub max_lifetime: Option<Duration>,
    /// Who may vouch for the server.
    pub ca_file: Option<PathBuf>,
    /// What is shown to a server that asks who calls.
    pub client_cert: Option<ClientCert>,
    /// Header fields of every request.
    pub headers: Vec<(String, String)>,
    /// The proxy that connections are made through.
    pub proxy: Option<Proxy>,
    /// How request bodies are compressed.
    pub request_encoding: RequestEncoding,
    /// Request bodies of fewer bytes are sent as they are.
    pub encode_above: Option<usize>,
    /// Most bytes of one event of an answer.
    pub event_max: Option<usize>,
    /// A request that shows whether the endpoint is well.
    pub probe: Option<Probe>,
}

impl PoolSection {
    /// Reads the keys; relative files are looked up where key files are.
    pub(super) fn read(table: &mut Section<'_>, files: &KeyFolder) -> PoolSection {
        let least = table.integer("connections_min", 0..=16_384);
        let most = table.integer("connections_max", 1..=16_384);
        if let (Some(least), Some(most)) = (least, most)
            && least > most
        {
            table.fault_at("connections_min", "is more than connections_max");
        }
        let encoding = table.parsed("request_encoding", parse_encoding);
        PoolSection {
            connections_min: least.map(|count| count as usize),
            connections_max: most.map(|count| count as usize),
            streams_max: table.integer("streams_max", 1..=1000).map(|count| count as u32),
            idle_timeout: table.duration("idle_timeout"),
            max_lifetime: read_lifetime(table),
            ca_file: table.text("ca_file").map(|file| files.join(&file.value)),
            client_cert: read_client_cert(table, files),
            headers: read_headers(table),
            proxy: read_proxy(table, files),
            request_encoding: encoding.map(|at| at.value).unwrap_or_default(),
            encode_above: table.integer("encode_above", 0..=1 << 30).map(|bytes| bytes as usize),
            event_max: table.size("event_max", EVENT_BYTES).map(|bytes| bytes as usize),
            probe: read_probe(table),
        }
    }

    /// Puts what is said into the configuration of an endpoint.
    pub fn apply(&self, endpoint: &mut EndpointConfig) {
        fn set<T: Copy>(place: &mut T, said: Option<T>) {
            if let Some(said) = said {
                *place = said;
            }
        }
        set(&mut endpoint.connections_min, self.connections_min);
        set(&mut endpoint.connections_max, self.connections_max);
        set(&mut endpoint.streams_max, self.streams_max);
        set(&mut endpoint.idle_timeout, self.idle_timeout);
        set(&mut endpoint.lifetime_max, self.max_lifetime);
        set(&mut endpoint.encode_above, self.encode_above);
        set(&mut endpoint.event_bytes_max, self.event_max);
        endpoint.ca_file.clone_from(&self.ca_file);
        endpoint.client_cert.clone_from(&self.client_cert);
        endpoint.headers.clone_from(&self.headers);
        endpoint.proxy.clone_from(&self.proxy);
        endpoint.request_encoding = self.request_encoding;
        endpoint.probe.clone_from(&self.probe);
    }
}

fn read_lifetime(table: &mut Section<'_>) -> Option<Duration> {
    let lifetime = table.duration("max_lifetime")?;
    if lifetime < Duration::from_secs(1) {
        table.fault_at("max_lifetime", "is less than 1s");
    }
    Some(lifetime)
}

fn read_client_cert(table: &mut Section<'_>, files: &KeyFolder) -> Option<ClientCert> {
    let (cert, key) = (table.text("client_cert"), table.text("client_key"));
    match (cert, key) {
        (Some(cert), Some(key)) => {
            Some(ClientCert { cert: files.join(&cert.value), key: files.join(&key.value) })
        }
        (Some(cert), None) => {
            table.fault(cert.span, "client_cert", "needs `client_key` beside it");
            None
        }
        (None, Some(key)) => {
            table.fault(key.span, "client_key", "needs `client_cert` beside it");
            None
        }
        (None, None) => None,
    }
}

/// `headers = { "x-team" = "ml" }`.
fn read_headers(table: &mut Section<'_>) -> Vec<(String, String)> {
    let Some(value) = table.take("headers") else { return Vec::new() };
    let Some(fields) = value.get_ref().as_table() else {
        table.fault(value.span(), "headers", "must be a table of names and texts");
        return Vec::new();
    };
    let mut headers = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let name: &str = name.get_ref();
        let text = value.get_ref().as_str();
        match text.map(|text| (text, check_header(name, text))) {
            Some((text, Ok(()))) => headers.push((name.to_owned(), text.to_owned())),
            Some((_, Err(reason))) => {
                table.fault(value.span(), "headers", format!("{name:?} {reason}"));
            }
            None => table.fault(value.span(), "headers", format!("{name:?} is not a text")),
        }
    }
    headers
}

fn read_proxy(table: &mut Section<'_>, files: &KeyFolder) -> Option<Proxy> {
    let url = table.parsed("proxy", parse_proxy);
    let login = table.text("proxy_login_file");
    match (url, login) {
        (Some(url), login) => {
            let login_file = login.map(|login| files.join(&login.value));
            Some(Proxy { url: url.value, login_file })
        }
        (None, Some(login)) if !table.has("proxy") => {
            table.fault(login.span, "proxy_login_file", "needs `proxy` beside it");
            None
        }
        (None, _) => None,
    }
}

/// `probe = { path = "/models", interval = "30s" }`.
fn read_probe(table: &mut Section<'_>) -> Option<Probe> {
    let mut probe = table.table("probe")?;
    let path = probe.required_text("path");
    let interval = probe.duration("interval").unwrap_or(Duration::from_secs(30));
    if interval < Duration::from_secs(1) {
        probe.fault_at("interval", "is less than 1s");
    }
    let path = path.and_then(|path| match check_probe(&path.value) {
        Ok(()) => Some(path.value),
        Err(reason) => {
            probe.fault(path.span, "path", reason);
            None
        }
    });
    probe.finish();
    Some(Probe { path: path?, interval })
}

fn parse_proxy(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("is not an address: {error}"))?;
    match () {
        // The text may hold a password: it is not repeated in the sentence.
        () if !url.username().is_empty() || url.password().is_some() => {
            Err("holds a user or a password; use `proxy_login_file`".to_owned())
        }
        () if url.scheme() != "http" => Err(format!("begins with {:?}, not http", url.scheme())),
        () if url.host().is_none() => Err(format!("{text:?} names no host")),
        () => Ok(text.to_owned()),
    }
}

fn parse_encoding(text: &str) -> Result<RequestEncoding, String> {
    match text {
        "off" => Ok(RequestEncoding::Off),
        "auto" => Ok(RequestEncoding::Auto),
        "deflate" => Ok(RequestEncoding::Deflate),
        "gzip" => Ok(RequestEncoding::Gzip),
        "zstd" => Ok(RequestEncoding::Zstd),
        _ => Err(format!(
            "{text:?} is not one of \"off\", \"auto\", \"deflate\", \"gzip\" and \"zstd\""
        )),
    }
}
