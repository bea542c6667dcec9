//! Who may attach, and who may use a route.

use std::collections::BTreeSet;
use std::fmt;

use ringmain_shm::{Peer, own_uid};

/// A list of uids and gids. A peer is on it by its uid, its gid or one of its further groups.
///
/// ```
/// use ringmain_broker::Allow;
/// let allow = Allow::nobody().uid(1000).gid(50);
/// assert_eq!(allow.to_string(), "uid:1000, gid:50");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
}

/// Who a peer was when it connected, as the kernel recorded it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its effective uid: what it is judged and charged by.
    pub uid: u32,
    /// Its effective gid.
    pub gid: u32,
    /// Its process id, for people to read; nothing is decided by it.
    pub pid: i32,
    /// Its further groups.
    pub groups: Vec<u32>,
}

impl Allow {
    /// An empty list.
    pub fn nobody() -> Allow {
        Allow::default()
    }

    /// The default: the broker's own uid, root, and the socket's group if it has one of its own.
    pub fn standard(socket_gid: Option<u32>) -> Allow {
        Allow { uids: [own_uid(), 0].into(), gids: socket_gid.into_iter().collect() }
    }

    /// Adds a uid.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Allow {
        self.uids.insert(uid);
        self
    }

    /// Adds a gid.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Allow {
        self.gids.insert(gid);
        self
    }

    /// Whether this peer is on the list.
    pub fn permits(&self, peer: &Identity) -> bool {
        let in_group = || peer.groups.iter().any(|gid| self.gids.contains(gid));
        self.uids.contains(&peer.uid) || self.gids.contains(&peer.gid) || in_group()
    }
}

impl Identity {
    /// What the kernel said of a peer.
    pub fn of(peer: &Peer) -> Identity {
        let Peer { uid, gid, pid, ref groups, .. } = *peer;
        Identity { uid, gid, pid, groups: groups.clone() }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uids = self.uids.iter().map(|uid| format!("uid:{uid}"));
        let gids = self.gids.iter().map(|gid| format!("gid:{gid}"));
        let all: Vec<_> = uids.chain(gids).collect();
        f.write_str(if all.is_empty() { "nobody" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Identity {
        Identity { uid, gid, pid: 1, groups: groups.to_vec() }
    }

    #[test]
    fn uid_gid_or_a_further_group_is_enough() {
        let allow = Allow::nobody().uid(7).gid(8);
        assert!(allow.permits(&peer(7, 0, &[])));
        assert!(allow.permits(&peer(1, 8, &[])));
        assert!(allow.permits(&peer(1, 1, &[3, 8])));
        assert!(!allow.permits(&peer(8, 7, &[7])));
        assert!(!Allow::nobody().permits(&peer(0, 0, &[0])));
    }

    #[test]
    fn the_standard_list_holds_the_own_uid_root_and_the_group() {
        let allow = Allow::standard(Some(4242));
        assert!(allow.permits(&peer(own_uid(), 9, &[])) && allow.permits(&peer(0, 9, &[])));
        assert!(allow.permits(&peer(9, 4242, &[])));
        assert_eq!(Allow::nobody().to_string(), "nobody");
    }
}
