//! Who is calling: over a Unix socket whom the kernel names, over TCP whose key is sent.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use ringmain_broker::{Allow, Identity};
use ringmain_wire::Code;

use crate::config::{HttpConfig, NOBODY};
use crate::key::KeyHash;
use crate::names;
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
        Peer::Unix(identity) if allow.permits(identity) || is_member(config, identity) => {
            Ok(identity.clone())
        }
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

/// Whether the group of the Unix sockets is one of its own: it was given them to call.
fn is_member(config: &HttpConfig, identity: &Identity) -> bool {
    config.socket_group.is_some_and(|gid| identity.gid == gid || identity.groups.contains(&gid))
}

fn by_key(config: &HttpConfig, headers: &HeaderMap) -> Result<Identity, Refusal> {
    let unknown = |text| Err(Refusal::unknown_caller(text));
    // A proxy or a library may fill in the one that the caller did not mean.
    let sent = keys(headers).map(|key| key.map(KeyHash::of));
    if sent == [None, None] {
        return unknown("this broker asks for a key: send one that `ringmain key new` made");
    }
    // All are compared, so that the time does not tell which one it was.
    let mut found = None;
    for client in &config.clients {
        for _ in sent.iter().flatten().filter(|sent| client.key.matches(sent)) {
            found = Some(client);
        }
    }
    match found {
        Some(client) => Ok(client.identity.clone()),
        None => unknown("this broker does not know the key"),
    }
}

/// The keys where the libraries of either API put them.
fn keys(headers: &HeaderMap) -> [Option<&str>; 2] {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    [bearer, headers.get(&names::X_API_KEY).and_then(|value| value.to_str().ok())]
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
        config.clients.push(Client::alone("a", KeyHash::of("rmk-a")));
        config.clients.push(Client::of_user(1000, "b", KeyHash::of("rmk-b")));
        assert_eq!(
            who(&config, "authorization", "Bearer rmk-a"),
            Ok(config.clients[0].identity.uid)
        );
        assert_eq!(who(&config, "authorization", "bearer  rmk-b"), Ok(1000));
        assert_eq!(who(&config, "x-api-key", "rmk-b"), Ok(1000));
        for bad in ["Bearer x", "Basic rmk-a", "rmk-a", "Bearer"] {
            assert_eq!(who(&config, "authorization", bad), Err(401), "{bad}");
        }
        assert_eq!(who(&config, "accept", "*/*"), Err(401));
    }

    #[test]
    fn either_place_of_a_key_is_good() {
        let mut config = HttpConfig::default();
        config.clients.push(Client::alone("a", KeyHash::of("rmk-a")));
        let mut headers = HeaderMap::new();
        let mut judged = |bearer: &str, key: &str| {
            headers.insert(AUTHORIZATION, bearer.parse().unwrap());
            headers.insert("x-api-key", key.parse().unwrap());
            let peer = Peer::Tcp([127, 0, 0, 1].into());
            identify(&config, &Allow::nobody(), &peer, &headers).is_ok()
        };
        assert!(judged("Bearer unused", "rmk-a") && judged("Bearer rmk-a", "unused"));
        assert!(!judged("Bearer unused", "unused"));
    }

    #[test]
    fn members_of_the_socket_s_group_may_call() {
        let config = HttpConfig { socket_group: Some(50), ..HttpConfig::default() };
        let peer = |gid, groups| Peer::Unix(Identity { uid: 9, gid, pid: 0, groups });
        let judged = |peer| identify(&config, &Allow::nobody(), &peer, &HeaderMap::new()).is_ok();
        assert!(judged(peer(50, Vec::new())) && judged(peer(9, vec![7, 50])));
        assert!(!judged(peer(9, vec![7])));
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
