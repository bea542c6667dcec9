//! Keys of TCP clients. The configuration holds digests alone: a key is 256 random bits, so there
//! is nothing to guess that a slow hash would make slower.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;

const PREFIX: &str = "rmk-";
const KEY_BYTES: usize = 32;
const HASH_PREFIX: &str = "sha256:";

/// A new key, for the eyes of its client alone.
pub struct ClientKey(String);

/// The digest of a key, as the configuration holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; KEY_BYTES]);

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes for a key")]
pub struct NoRandomness;

impl ClientKey {
    /// A random key.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate() -> Result<ClientKey, NoRandomness> {
        let mut bytes = [0; KEY_BYTES];
        rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(ClientKey(format!("{PREFIX}{}", Hex(&bytes))))
    }

    /// The key as its client sends it.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Its digest.
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(..)")
    }
}

impl KeyHash {
    /// The digest of what a caller sent.
    pub fn of(key: &str) -> KeyHash {
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        KeyHash(bytes)
    }

    /// A few of its bits, to tell digests apart by.
    pub(crate) fn short(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Whether both are the same, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &KeyHash) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl FromStr for KeyHash {
    type Err = String;

    fn from_str(text: &str) -> Result<KeyHash, String> {
        let wrong = || {
            "is not a digest of the form \"sha256:\" and 64 hexadecimal digits, as `ringmain key \
             new` prints it"
                .to_owned()
        };
        let digits = text.strip_prefix(HASH_PREFIX).ok_or_else(wrong)?.as_bytes();
        let mut bytes = [0; KEY_BYTES];
        if digits.len() != 2 * KEY_BYTES {
            return Err(wrong());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            let (high, low) = (digit(0).ok_or_else(wrong)?, digit(1).ok_or_else(wrong)?);
            *byte = (high * 16 + low) as u8;
        }
        Ok(KeyHash(bytes))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HASH_PREFIX}{}", Hex(&self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_their_digests_come_back() {
        let (a, b) = (ClientKey::generate().unwrap(), ClientKey::generate().unwrap());
        assert_ne!(a.text(), b.text());
        assert!(a.text().starts_with(PREFIX) && a.text().len() == 68, "{}", a.text());
        let hash: KeyHash = a.hash().to_string().parse().unwrap();
        assert!(hash.matches(&KeyHash::of(a.text())) && !hash.matches(&b.hash()));
        assert!(!format!("{a:?}{hash:?}").contains(&a.text()[4..8]));
    }

    #[test]
    fn the_digest_is_that_of_other_programs() {
        let of_abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyHash::of("abc").to_string(), of_abc);
        let short = &of_abc[..70];
        let (foreign, not_hex) = (of_abc.replace("sha256", "md5"), of_abc.replace('b', "é"));
        for bad in ["", "abc", short, &foreign, &not_hex] {
            assert!(bad.parse::<KeyHash>().is_err(), "{bad}");
        }
    }
}
