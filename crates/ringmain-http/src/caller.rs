//! Who is calling: over a Unix socket whom the kernel names, over TCP whose key is sent.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use ringmain_broker::{Allow, Identity};
use ringmain_wire::Code;

use crate::config::{HttpConfig, NOBODY};
use crate::key::KeyHash;
use crate::refusal::Refusal;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    Tcp(IpAddr),
    Unix(Identity),
}

impl Peer {
    /// What its connections are counted under.
    pub fn uid(&self) -> u32 {
        match self {
            Peer::Tcp(_) => NOBODY,
            Peer::Unix(identity) => identity.uid,
        }
    }

    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Peer::Tcp(address) => Some(*address),
            Peer::Unix(_) => None,
        }
    }
}

/// Judges a request by its connection and its headers.
pub(crate) fn identify(
    config: &HttpConfig,
    allow: &Allow,
    peer: &Peer,
    headers: &HeaderMap,
) -> Result<Identity, Refusal> {
    match peer {
        Peer::Unix(identity) if allow.permits(identity) => Ok(identity.clone()),
        Peer::Unix(identity) => {
            let text = format!("uid {} may not use this broker", identity.uid);
            Err(Refusal::new(Code::NotAllowed, text))
        }
        Peer::Tcp(_) if config.clients.is_empty() => {
            Ok(Identity { uid: NOBODY, gid: NOBODY, pid: 0, groups: Vec::new() })
        }
        Peer::Tcp(_) => by_key(config, headers),
    }
}

fn by_key(config: &HttpConfig, headers: &HeaderMap) -> Result<Identity, Refusal> {
    let unknown = |text| Err(Refusal::unknown_caller(text));
    let Some(key) = key(headers) else {
        return unknown("this broker asks for a key: send one that `ringmain key new` made");
    };
    let sent = KeyHash::of(key);
    // All are compared, so that the time does not tell which one it was.
    let mut found = None;
    for client in &config.clients {
        if client.key.matches(&sent) {
            found = Some(client);
        }
    }
    match found {
        Some(client) => Ok(client.identity.clone()),
        None => unknown("this broker does not know the key"),
    }
}

/// The key where the libraries of either API put it.
fn key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Client;

    fn who(config: &HttpConfig, name: &'static str, value: &str) -> Result<u32, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        let found = identify(config, &Allow::nobody(), &Peer::Tcp([127, 0, 0, 1].into()), &headers);
        found.map(|identity| identity.uid).map_err(|refusal| refusal.status)
    }

    #[test]
    fn the_first_client_closes_the_port() {
        let mut config = HttpConfig::default();
        assert_eq!(who(&config, "authorization", "Bearer x"), Ok(NOBODY));
        config.clients.push(Client::alone(0, "a", KeyHash::of("rmk-a")));
        config.clients.push(Client::of_user(1000, "b", KeyHash::of("rmk-b")));
        assert_eq!(who(&config, "authorization", "Bearer rmk-a"), Ok(0xfffe_0000));
        assert_eq!(who(&config, "authorization", "bearer  rmk-b"), Ok(1000));
        assert_eq!(who(&config, "x-api-key", "rmk-b"), Ok(1000));
        for bad in ["Bearer x", "Basic rmk-a", "rmk-a", "Bearer"] {
            assert_eq!(who(&config, "authorization", bad), Err(401), "{bad}");
        }
        assert_eq!(who(&config, "accept", "*/*"), Err(401));
    }

    #[test]
    fn the_kernel_names_the_peer_of_a_unix_socket() {
        let peer = |uid| Peer::Unix(Identity { uid, ..Identity::default() });
        let allow = Allow::nobody().uid(7);
        let (config, headers) = (HttpConfig::default(), HeaderMap::new());
        assert_eq!(identify(&config, &allow, &peer(7), &headers).unwrap().uid, 7);
        assert_eq!(identify(&config, &allow, &peer(8), &headers).unwrap_err().status, 403);
    }
}
