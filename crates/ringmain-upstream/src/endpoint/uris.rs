//! The addresses of an endpoint's paths.
//!
//! To take an address apart costs more than all else that is done to a small request here, and
//! callers ask for the same few paths again and again.

use http::Uri;
use http::uri::InvalidUri;
use parking_lot::Mutex;
use reqwest::Url;

/// Most addresses that are remembered, and most bytes of a path among them.
const KNOWN_MAX: usize = 16;
const PATH_BYTES_MAX: usize = 128;

/// The addresses below a base address.
#[derive(Debug)]
pub(super) struct Uris {
    base: String,
    known: Mutex<Known>,
}

/// Bound: `KNOWN_MAX` paths of `PATH_BYTES_MAX` bytes.
#[derive(Debug, Default)]
struct Known {
    uris: Vec<(Box<str>, Uri)>,
    /// Whose place the next one takes when all are taken.
    next: usize,
}

impl Uris {
    /// The addresses below `base`, which has no slash at its end.
    pub fn below(base: String) -> Uris {
        Uris { base, known: Mutex::default() }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// The address of a path; an error is a sentence.
    pub fn of(&self, path: &str) -> Result<Uri, String> {
        if let Some(uri) = self.known.lock().find(path) {
            return Ok(uri);
        }
        let url = Url::parse(&format!("{}{path}", self.base)).map_err(|error| error.to_string())?;
        let uri: Uri = url.as_str().parse().map_err(|error: InvalidUri| error.to_string())?;
        if path.len() <= PATH_BYTES_MAX {
            self.known.lock().keep(path, &uri);
        }
        Ok(uri)
    }
}

impl Known {
    fn find(&self, path: &str) -> Option<Uri> {
        let found = self.uris.iter().find(|(known, _)| **known == *path);
        found.map(|(_, uri)| uri.clone())
    }

    fn keep(&mut self, path: &str, uri: &Uri) {
        let kept = (path.into(), uri.clone());
        match self.uris.len() < KNOWN_MAX {
            true => self.uris.push(kept),
            false => {
                self.uris[self.next] = kept;
                self.next = (self.next + 1) % KNOWN_MAX;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_same_whether_it_was_known_or_not() {
        let uris = Uris::below("https://host:8443/v1".to_owned());
        for path in ["/models", "/models/a%20b?x=1", "/models", "/files/x y", "/models"] {
            let uri = uris.of(path).unwrap();
            assert_eq!(
                uri.to_string(),
                Url::parse(&format!("https://host:8443/v1{path}")).unwrap().as_str()
            );
        }
        assert_eq!(uris.known.lock().uris.len(), 3);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let uris = Uris::below("http://host".to_owned());
        for number in 0..3 * KNOWN_MAX {
            let path = format!("/{number}");
            assert_eq!(uris.of(&path).unwrap().path(), path);
        }
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        assert_eq!(uris.of(&long).unwrap().path(), long);
        let known = uris.known.lock();
        assert_eq!(known.uris.len(), KNOWN_MAX);
        assert!(known.find("/0").is_none() && known.find("/47").is_some());
        assert!(known.find(&long).is_none());
    }
}
