//! What an operator may set.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ringmain_broker::Identity;

use crate::key::KeyHash;

/// Uid and gid of TCP callers while no client is configured: that of nobody, so that no route with
/// an allow list is open to them unless it says so.
pub const NOBODY: u32 = 65_534;

/// The uids that stand for clients without a user of their own: this bit, and as many bits of the
/// key's digest as the mask has. No system gives them to anybody, so each such client is charged
/// for itself, wherever it stands in the configuration.
const CLIENT_UIDS: u32 = 0x8000_0000;
const CLIENT_MASK: u32 = 0x3fff_ffff;

/// Settings of a [`Server`](crate::Server). The default is the documented default of every key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// Permission bits of Unix sockets.
    pub socket_mode: u32,
    /// Group of Unix sockets.
    pub socket_group: Option<u32>,
    /// Values of Host, besides loopback and the addresses listened on, that requests may carry.
    pub hosts: Vec<String>,
    /// Who may call over TCP; with nobody listed, every process that reaches the port may.
    pub clients: Vec<Client>,
    /// The route of a request that names no model.
    pub default_route: Option<String>,
    /// Header fields that are passed on to providers besides the known ones, in lower case.
    pub forward_headers: Vec<String>,
    /// Most bytes of a request body, as sent and as expanded.
    pub body_bytes_max: u64,
    /// How long a head may take from its first byte on.
    pub head: Duration,
    /// How long a body may take.
    pub body: Duration,
    /// How long a connection may stay unused. Longer than any client keeps one: whoever closes
    /// first must not be the server.
    pub idle: Duration,
    /// How long a stream may be silent before a comment line shows that it lives.
    pub heartbeat: Option<Duration>,
    /// How long a caller may leave what was written for it.
    pub slow_consumer: Duration,
    /// Most connections at once; one uid may have half of them.
    pub connections_max: usize,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// Somebody who may call over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub name: String,
    /// The digest of its key.
    pub key: KeyHash,
    /// What it is judged and charged by.
    pub identity: Identity,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            listen: Vec::new(),
            socket_mode: 0o660,
            socket_group: None,
            hosts: Vec::new(),
            clients: Vec::new(),
            default_route: None,
            forward_headers: Vec::new(),
            body_bytes_max: 32 << 20,
            head: Duration::from_secs(10),
            body: Duration::from_secs(60),
            idle: Duration::from_secs(300),
            heartbeat: Some(Duration::from_secs(15)),
            slow_consumer: Duration::from_secs(60),
            connections_max: 16_384,
        }
    }
}

impl HttpConfig {
    /// Whether every process that reaches the port may call, whatever key it sends.
    pub fn ignores_keys(&self) -> bool {
        let is_tcp = |listen: &Listen| matches!(listen, Listen::Tcp(_));
        self.clients.is_empty() && self.listen.iter().any(is_tcp)
    }
}

impl Client {
    /// A client that is judged and charged by itself, under a uid that its key gives it.
    pub fn alone(name: impl Into<String>, key: KeyHash) -> Client {
        let uid = CLIENT_UIDS | key.short() & CLIENT_MASK;
        let identity = Identity { uid, gid: uid, pid: 0, groups: Vec::new() };
        Client { name: name.into(), key, identity }
    }

    /// A client that is judged and charged as this uid.
    pub fn of_user(uid: u32, name: impl Into<String>, key: KeyHash) -> Client {
        let identity = Identity { uid, gid: NOBODY, pid: 0, groups: Vec::new() };
        Client { name: name.into(), key, identity }
    }
}

impl Listen {
    /// Reads `127.0.0.1:8117`, `[::1]:8117` or `unix:/run/ringmain/http.sock`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Listen, String> {
        match text.strip_prefix("unix:") {
            // Bound: sun_path of a Unix socket address, with its closing zero.
            Some(path) if path.len() > 107 => {
                Err(format!("the path is {} bytes long, at most 107", path.len()))
            }
            Some(path) if path.starts_with('/') => Ok(Listen::Unix(path.into())),
            Some(_) => Err(format!("{text:?} is not an absolute path behind \"unix:\"")),
            None => text.parse().map(Listen::Tcp).map_err(|_| {
                format!("{text:?} is neither \"127.0.0.1:8117\" nor \"unix:/path/of/the.sock\"")
            }),
        }
    }

    /// Whether processes of other hosts can reach it.
    pub fn is_remote(&self) -> bool {
        matches!(self, Listen::Tcp(addr) if !addr.ip().to_canonical().is_loopback())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(addr) => write!(f, "{addr}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_in_two_forms() {
        for text in ["127.0.0.1:8117", "[::1]:80", "unix:/run/ringmain/http.sock"] {
            assert_eq!(Listen::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "8117", "localhost:1", "unix:", "unix:a", "127.0.0.1"] {
            assert!(Listen::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Listen::parse(&format!("unix:/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn only_loopback_is_local() {
        let is_remote = |text| Listen::parse(text).unwrap().is_remote();
        assert!(!is_remote("127.9.9.9:1") && !is_remote("[::1]:1") && !is_remote("unix:/a"));
        assert!(!is_remote("[::ffff:127.0.0.1]:1"));
        assert!(is_remote("0.0.0.0:1") && is_remote("[::]:1") && is_remote("10.0.0.1:1"));
    }
}
