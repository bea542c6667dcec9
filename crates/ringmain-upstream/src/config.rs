//! What an endpoint is told at its start.

use std::path::PathBuf;
use std::time::Duration;

/// Configuration of one endpoint: an address and a credential.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointConfig {
    /// Name in logs, errors and HEAD frames.
    pub name: String,
    /// Where its API begins, such as `https://api.example.com/v1`.
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
    /// Most bytes of one event; default 1 MiB.
    pub event_bytes_max: usize,
    /// Most bytes of a plain answer that is read as a whole (mode deltas); default 32 MiB.
    pub plain_bytes_max: usize,
    /// Most bytes that a compressed answer may expand to; default 256 MiB.
    pub expanded_bytes_max: u64,
    /// Limit of name lookup, TCP and TLS handshake together; default 5 s.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Below what servers usually grant, so that a request
    /// does not meet a connection that is just being closed; default 20 s.
    pub idle_timeout: Duration,
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
            event_bytes_max: 1 << 20,
            plain_bytes_max: 32 << 20,
            expanded_bytes_max: 256 << 20,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(20),
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
