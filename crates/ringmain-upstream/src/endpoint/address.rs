//! Where an endpoint is.

use std::path::PathBuf;

use reqwest::Url;

use super::EndpointError;
use crate::config::EndpointConfig;

/// Host that stands in the requests over a Unix socket.
const UNIX_HOST: &str = "localhost";

/// A base address that was judged.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub base: Url,
    /// The socket, when the server listens on one of this host.
    pub unix: Option<PathBuf>,
}

/// Judges the base address.
pub(super) fn check(config: &EndpointConfig) -> Result<Address, EndpointError> {
    let fail = |url: String, reason| {
        Err(EndpointError::BaseUrl { endpoint: config.name.clone(), url, reason })
    };
    if let Some(rest) = config.base_url.strip_prefix("unix:") {
        return unix(rest).or_else(|reason| fail(config.base_url.clone(), reason));
    }
    // What cannot be taken apart is not repeated: it could be a key in the wrong place.
    let Ok(url) = Url::parse(&config.base_url) else {
        return fail(String::new(), "it is not an address such as https://host/v1");
    };
    let shown = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
    match () {
        () if !matches!(url.scheme(), "http" | "https") => {
            fail(shown, "neither http, https nor unix")
        }
        () if url.host_str().is_none_or(str::is_empty) => fail(shown, "it names no host"),
        () if !url.username().is_empty() || url.password().is_some() => {
            fail(shown, "it holds a user name or password; use key_file")
        }
        () if url.query().is_some() || url.fragment().is_some() => {
            fail(shown, "it holds a query or fragment")
        }
        () => Ok(Address { base: url, unix: None }),
    }
}

/// `unix:/run/server.sock:/v1`, or without a path of the API.
fn unix(rest: &str) -> Result<Address, &'static str> {
    let (socket, path) = rest.split_once(':').unwrap_or((rest, ""));
    if !socket.starts_with('/') {
        return Err("the path of the socket must begin with a slash");
    }
    if !path.is_empty() && !path.starts_with('/') {
        return Err("the path behind the socket must begin with a slash");
    }
    let Ok(url) = Url::parse(&format!("http://{UNIX_HOST}{path}")) else {
        return Err("the path behind the socket cannot stand in an address");
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it holds a query or fragment");
    }
    Ok(Address { base: url, unix: Some(PathBuf::from(socket)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_their_paths() {
        let at = |text: &str| check(&EndpointConfig::new("e", text));
        for (text, base) in [
            ("unix:/run/x.sock:/v1", "http://localhost/v1"),
            ("unix:/run/x.sock:/v1/", "http://localhost/v1/"),
            ("unix:/run/x.sock", "http://localhost"),
        ] {
            let unix = Some("/run/x.sock".into());
            assert_eq!(at(text).unwrap(), Address { base: Url::parse(base).unwrap(), unix });
        }
        for bad in ["unix:x.sock", "unix:", "unix:/x:v1", "unix:/x:/v1?a", "unix:/x:/v1#a"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
