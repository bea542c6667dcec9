//! What an endpoint is told at its start.

use std::path::PathBuf;
use std::time::Duration;

/// Configuration of one endpoint: an address and a credential.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointConfig {
    /// Name in logs, errors and HEAD frames.
    pub name: String,
    /// Where its API begins, such as `https://api.example.com/v1` or, for a Unix socket,
    /// `unix:/run/server.sock:/v1`.
    pub base_url: String,
    /// How its answers are to be read.
    pub dialect: Dialect,
    /// Where its key comes from.
    pub key: KeySource,
    /// Whether usage is asked for on behalf of callers who did not.
    pub usage: UsageSplice,
    /// Whether callers may read and remove what the provider stored.
    pub stored: Stored,
    /// How HTTP/2 comes about.
    pub http2: Http2,
    /// Most bytes of one event; default 16 MiB.
    pub event_bytes_max: usize,
    /// Most bytes of a plain answer that is read as a whole (mode deltas); default 32 MiB.
    pub plain_bytes_max: usize,
    /// Most bytes that a compressed answer may expand to; default 256 MiB.
    pub expanded_bytes_max: u64,
    /// Limit of name lookup, TCP and TLS handshake together; default 5 s.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept at most; default 20 s. What the server is seen or
    /// said to grant shortens it, so that no request meets a connection that is just being closed.
    pub idle_timeout: Duration,
    /// How old a connection may become; default 30 minutes.
    pub lifetime_max: Duration,
    /// Connections that are kept open without any demand; default 0.
    pub connections_min: usize,
    /// Most connections at once; default 8,192. Beyond them requests wait.
    pub connections_max: usize,
    /// Most requests at once on one connection that speaks HTTP/2; default 100.
    pub streams_max: u32,
    /// Certificates of the authorities that may vouch for the server, in PEM; `None`: those that
    /// the system trusts.
    pub ca_file: Option<PathBuf>,
    /// What is shown to a server that asks who calls.
    pub client_cert: Option<ClientCert>,
    /// Header fields of every request, beside those of the caller.
    pub headers: Vec<(String, String)>,
    /// The HTTP proxy that connections are made through.
    pub proxy: Option<Proxy>,
    /// How request bodies are compressed.
    pub request_encoding: RequestEncoding,
    /// Request bodies of fewer bytes are sent as they are; default 4 KiB.
    pub encode_above: usize,
    /// A request that shows whether the endpoint is well.
    pub probe: Option<Probe>,
}

/// A certificate and its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCert {
    /// File of the certificate and of those between it and its authority.
    pub cert: PathBuf,
    /// File of the key, which nobody else may read.
    pub key: PathBuf,
}

/// An HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its address, `http://host:port`.
    pub url: String,
    /// A file with `user:password` that nobody else may read.
    pub login_file: Option<PathBuf>,
}

/// A request that shows whether an endpoint is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// API path of the GET request.
    pub path: String,
    /// Time from one to the next.
    pub interval: Duration,
}

/// How request bodies are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestEncoding {
    /// As they are.
    #[default]
    Off,
    /// Whatever has cost least at this endpoint, by size, time and refusals.
    Auto,
    /// RFC 1950, which HTTP calls deflate.
    Deflate,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl EndpointConfig {
    /// The defaults for an endpoint of this name and address.
    pub fn new(name: impl Into<String>, base_url: impl Into<String>) -> EndpointConfig {
        EndpointConfig {
            name: name.into(),
            base_url: base_url.into(),
            dialect: Dialect::default(),
            key: KeySource::default(),
            usage: UsageSplice::default(),
            stored: Stored::default(),
            http2: Http2::default(),
            event_bytes_max: 16 << 20,
            plain_bytes_max: 32 << 20,
            expanded_bytes_max: 256 << 20,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(20),
            lifetime_max: Duration::from_secs(30 * 60),
            connections_min: 0,
            connections_max: 8192,
            streams_max: 100,
            ca_file: None,
            client_cert: None,
            headers: Vec::new(),
            proxy: None,
            request_encoding: RequestEncoding::default(),
            encode_above: 4096,
            probe: None,
        }
    }
}

/// The language of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// The messages API of Anthropic.
    Anthropic,
    /// The OpenAI API and the many servers that speak it.
    #[default]
    OpenAi,
}

/// Where a key comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySource {
    /// No Authorization is sent.
    #[default]
    None,
    /// A file that nobody else may read.
    File(PathBuf),
    /// A variable of the environment, for development: other processes of this user can see it.
    Env(String),
}

/// Whether `stream_options.include_usage` is put into streams that lack it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UsageSplice {
    /// Yes, until the endpoint refuses it.
    #[default]
    Inject,
    /// No.
    Off,
}

/// Whether callers may read and remove what the provider stored: files, batches, responses. All of
/// it belongs to the one account of the endpoint's key, whichever caller it was stored for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stored {
    /// No: of GET there is only that of models, and DELETE is refused.
    #[default]
    Refused,
    /// Whoever may use the endpoint may read and remove what any caller stored.
    Shared,
}

/// How HTTP/2 comes about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Http2 {
    /// Agreed on in the TLS handshake; HTTP/1.1 without TLS.
    #[default]
    Negotiated,
    /// From the first byte, without TLS too.
    PriorKnowledge,
    /// Never.
    Off,
}
