//! Who may attach: users and groups of the host, by number or by name.

use std::io;

use ringmain_shm::process::{group_id, user_id};

/// A user or a group, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A user.
    Uid(u32),
    /// A group, primary or supplementary.
    Gid(u32),
}

impl Identity {
    /// Reads `uid:1000`, `uid:alice`, `gid:100` or `gid:ml`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Identity, String> {
        match text.split_once(':') {
            Some(("uid", user)) if !user.is_empty() => uid(user).map(Identity::Uid),
            Some(("gid", group)) if !group.is_empty() => gid(group).map(Identity::Gid),
            _ => Err(format!("{text:?} is not of the form \"uid:1000\" or \"gid:ml\"")),
        }
    }
}

/// The number of a user, given by number or name.
pub fn uid(text: &str) -> Result<u32, String> {
    number(text, "user", user_id)
}

/// The number of a group, given by number or name.
pub fn gid(text: &str) -> Result<u32, String> {
    number(text, "group", group_id)
}

fn number(
    text: &str,
    noun: &str,
    find: impl FnOnce(&str) -> io::Result<Option<u32>>,
) -> Result<u32, String> {
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => match find(text) {
            Ok(Some(number)) => Ok(number),
            Ok(None) => Err(format!("this host has no {noun} named {text:?}")),
            Err(error) => Err(format!("the {noun} {text:?} cannot be looked up: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_resolved() {
        assert_eq!(Identity::parse("uid:1000"), Ok(Identity::Uid(1000)));
        assert_eq!(Identity::parse("uid:root"), Ok(Identity::Uid(0)));
        assert_eq!(Identity::parse("gid:root"), Ok(Identity::Gid(0)));
        let unknown = Identity::parse("gid:no-such-group").unwrap_err();
        assert_eq!(unknown, "this host has no group named \"no-such-group\"");
        for bad in ["", "root", "uid:", "user:1", "uid:-1"] {
            assert!(Identity::parse(bad).is_err(), "{bad:?}");
        }
    }
}
