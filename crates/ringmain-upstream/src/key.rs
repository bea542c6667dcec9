//! Keys: read once, checked, never shown.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::config::{Dialect, KeySource};

/// Most bytes of a key.
const KEY_BYTES_MAX: usize = 8 * 1024;

/// Why a key cannot be used. No variant holds a part of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// Others can read or replace the file.
    #[error(
        "{}: its mode {mode:04o} lets others in; run: chmod 600 {}",
        path.display(),
        path.display()
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to somebody else.
    #[error(
        "{}: it belongs to uid {uid}, not to uid {own} or root; run: chown {own} {}",
        path.display(),
        path.display()
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// The uid of this process.
        own: u32,
    },
    /// The variable is not set.
    #[error("the variable {0} is not set")]
    Unset(String),
    /// The content cannot be a key.
    #[error("{origin}: {reason}")]
    Content {
        /// The file or variable.
        origin: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The credential of an endpoint, ready to be sent in the header of its dialect. It is marked
/// sensitive: HTTP/2 keeps it out of its compression tables, and no Debug shows it.
#[derive(Clone)]
pub(crate) struct Credential {
    name: HeaderName,
    value: HeaderValue,
}

impl Credential {
    /// Reads the key; `None` when the endpoint has none.
    pub fn load(source: &KeySource, dialect: Dialect) -> Result<Option<Credential>, KeyError> {
        let (key, origin) = match source {
            KeySource::None => return Ok(None),
            KeySource::File(path) => (read_file(path)?, path.display().to_string()),
            KeySource::Env(name) => {
                let key = std::env::var(name).map_err(|_| KeyError::Unset(name.clone()))?;
                (SecretString::from(key), format!("the variable {name}"))
            }
        };
        Credential::new(&key, dialect)
            .map(Some)
            .map_err(|reason| KeyError::Content { origin, reason })
    }

    fn new(key: &SecretString, dialect: Dialect) -> Result<Credential, &'static str> {
        let key = key.expose_secret().trim_end_matches(['\n', '\r']);
        if key.is_empty() {
            return Err("the key is empty");
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the key holds a character other than visible ASCII");
        }
        let (name, text) = match dialect {
            Dialect::OpenAi => (AUTHORIZATION, format!("Bearer {key}")),
            Dialect::Anthropic => (HeaderName::from_static("x-api-key"), key.to_owned()),
        };
        let text = Zeroizing::new(text);
        let mut value =
            HeaderValue::from_str(&text).map_err(|_| "the key cannot stand in a header")?;
        value.set_sensitive(true);
        Ok(Credential { name, value })
    }

    pub fn name(&self) -> HeaderName {
        self.name.clone()
    }

    pub fn header(&self) -> HeaderValue {
        self.value.clone()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// Reads the key of an endpoint.
fn read_file(path: &Path) -> Result<SecretString, KeyError> {
    let bytes = read_private(path)?;
    let content = |reason| KeyError::Content { origin: path.display().to_string(), reason };
    let text = str::from_utf8(&bytes).map_err(|_| content("the key is not text"))?;
    Ok(SecretString::from(text))
}

/// Reads a file that nobody else may read, after judging the open file itself, not its name.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |reason| KeyError::Read { path: path.to_owned(), reason };
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    // The service manager hands out credentials through an access control list, whose mask shows
    // up as the group's right to read.
    let others = if is_service_credential(path) { 0o037 } else { 0o077 };
    if meta.mode() & others != 0 {
        return Err(KeyError::Mode { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    let own = own_uid().map_err(failed)?;
    if meta.uid() != own && meta.uid() != 0 {
        return Err(KeyError::Owner { path: path.to_owned(), uid: meta.uid(), own });
    }
    // With room from the start: a buffer that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES_MAX + 1));
    file.take(KEY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let content = |reason| KeyError::Content { origin: path.display().to_string(), reason };
    if bytes.len() > KEY_BYTES_MAX {
        return Err(content("longer than 8192 bytes"));
    }
    Ok(bytes)
}

fn is_service_credential(path: &Path) -> bool {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty());
    folder.is_some_and(|folder| path.parent() == Some(Path::new(&folder)))
}

/// The effective uid of this process.
fn own_uid() -> io::Result<u32> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = line.and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok());
    uid.ok_or_else(|| io::Error::other("/proc/self/status does not tell the uid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn key_file(content: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn load(file: &tempfile::NamedTempFile) -> Result<Credential, KeyError> {
        load_for(file, Dialect::OpenAi)
    }

    fn load_for(file: &tempfile::NamedTempFile, dialect: Dialect) -> Result<Credential, KeyError> {
        let source = KeySource::File(file.path().to_owned());
        Credential::load(&source, dialect).map(Option::unwrap)
    }

    #[test]
    fn each_dialect_has_its_header() {
        let file = key_file(b"sk-canary", 0o600);
        for (dialect, name, value) in [
            (Dialect::OpenAi, "authorization", "Bearer sk-canary"),
            (Dialect::Anthropic, "x-api-key", "sk-canary"),
        ] {
            let credential = load_for(&file, dialect).unwrap();
            assert_eq!(
                (credential.name().as_str(), credential.header().to_str().unwrap()),
                (name, value)
            );
            assert!(credential.header().is_sensitive());
        }
    }

    #[test]
    fn a_private_file_is_read_and_its_newline_dropped() {
        let credential = load(&key_file(b"sk-canary\n", 0o600)).unwrap();
        assert_eq!(credential.header().to_str().unwrap(), "Bearer sk-canary");
        assert!(credential.header().is_sensitive());
        assert!(!format!("{credential:?}{:?}", credential.header()).contains("canary"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o620, 0o601] {
            let file = key_file(b"sk-canary", mode);
            let text = load(&file).unwrap_err().to_string();
            assert!(text.contains(&format!("chmod 600 {}", file.path().display())), "{text}");
            assert!(text.contains(&format!("{mode:04o}")), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_key_is_refused_without_showing_it() {
        for content in [&b""[..], b"\n", b"sk canary", b"sk-canary\r\nX: y", b"canary\xff"] {
            let text = load(&key_file(content, 0o600)).unwrap_err().to_string();
            assert!(!text.contains("canary"), "{text}");
        }
        assert!(load(&key_file(&[b'k'; 9000], 0o400)).is_err());
        let absent = KeySource::File("/nonexistent/key".into());
        assert!(
            Credential::load(&absent, Dialect::OpenAi)
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/key")
        );
        assert!(Credential::load(&KeySource::None, Dialect::OpenAi).unwrap().is_none());
        assert!(
            Credential::load(&KeySource::Env("RINGMAIN_NO_SUCH".into()), Dialect::OpenAi).is_err()
        );
    }
}
