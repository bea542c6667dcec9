//! The addresses of an endpoint's paths.
//!
//! To take an address apart costs more than all else that is done to a small request here, and
//! callers ask for the same few paths again and again.

use parking_lot::Mutex;
use reqwest::Url;

type ParseError = <Url as std::str::FromStr>::Err;

/// Most addresses that are remembered, and most bytes of a path among them.
const KNOWN_MAX: usize = 16;
const PATH_BYTES_MAX: usize = 128;

/// The addresses below a base address.
#[derive(Debug)]
pub(super) struct Urls {
    base: String,
    known: Mutex<Known>,
}

/// Bound: `KNOWN_MAX` paths of `PATH_BYTES_MAX` bytes.
#[derive(Debug, Default)]
struct Known {
    urls: Vec<(Box<str>, Url)>,
    /// Whose place the next one takes when all are taken.
    next: usize,
}

impl Urls {
    /// The addresses below `base`, which has no slash at its end.
    pub fn below(base: String) -> Urls {
        Urls { base, known: Mutex::default() }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// The address of a path.
    pub fn of(&self, path: &str) -> Result<Url, ParseError> {
        if let Some(url) = self.known.lock().find(path) {
            return Ok(url);
        }
        let url = Url::parse(&format!("{}{path}", self.base))?;
        if path.len() <= PATH_BYTES_MAX {
            self.known.lock().keep(path, &url);
        }
        Ok(url)
    }
}

impl Known {
    fn find(&self, path: &str) -> Option<Url> {
        let found = self.urls.iter().find(|(known, _)| **known == *path);
        found.map(|(_, url)| url.clone())
    }

    fn keep(&mut self, path: &str, url: &Url) {
        let kept = (path.into(), url.clone());
        match self.urls.len() < KNOWN_MAX {
            true => self.urls.push(kept),
            false => {
                self.urls[self.next] = kept;
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
        let urls = Urls::below("https://host:8443/v1".to_owned());
        for path in ["/models", "/models/a%20b?x=1", "/models", "/files/x y", "/models"] {
            let url = urls.of(path).unwrap();
            assert_eq!(url, Url::parse(&format!("https://host:8443/v1{path}")).unwrap());
        }
        assert_eq!(urls.known.lock().urls.len(), 3);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let urls = Urls::below("http://host".to_owned());
        for number in 0..3 * KNOWN_MAX {
            let path = format!("/{number}");
            assert_eq!(urls.of(&path).unwrap().path(), path);
        }
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        assert_eq!(urls.of(&long).unwrap().path(), long);
        let known = urls.known.lock();
        assert_eq!(known.urls.len(), KNOWN_MAX);
        assert!(known.find("/0").is_none() && known.find("/47").is_some());
        assert!(known.find(&long).is_none());
    }
}
