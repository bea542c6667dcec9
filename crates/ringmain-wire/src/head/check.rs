//! What the parts of a request's head may be.

use super::HeadError;
use crate::limits::{PATH_BYTES_MAX, ROUTE_BYTES_MAX};

/// Headers that the broker sets, that speak about one connection, that choose the account which
/// is charged, or that make a server act on another method or path than the ones that were
/// judged: never a caller's.
const FORBIDDEN: &[&str] = &[
    "accept",
    "accept-encoding",
    "api-key",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "idempotency-key",
    "keep-alive",
    "openai-organization",
    "openai-project",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-api-key",
    "x-goog-api-key",
    "x-goog-user-project",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

pub(super) fn check_route(route: &str) -> Result<(), HeadError> {
    let bad = |reason| Err(HeadError::Bad { field: "route", reason });
    match route {
        "" => bad("empty"),
        long if long.len() > ROUTE_BYTES_MAX => bad("longer than 256 bytes"),
        text if text.chars().any(char::is_control) => bad("a control character"),
        _ => Ok(()),
    }
}

pub(super) fn check_path(path: &str) -> Result<(), HeadError> {
    let bad = |reason| Err(HeadError::Bad { field: "path", reason });
    // By bytes: to set up a search in a text as short as this costs more than to look at each.
    let plain = path.as_bytes().split(|&b| b == b'?').next().unwrap_or_default();
    let is_bad = |b: u8| !b.is_ascii_graphic() || matches!(b, b'#' | b'\\' | b'"' | b'<' | b'>');
    match path {
        long if long.len() > PATH_BYTES_MAX => bad("longer than 512 bytes"),
        text if !text.starts_with('/') => bad("it does not begin with a slash"),
        text if text.bytes().any(is_bad) => bad("a character that a path cannot hold"),
        // A percent sign could hide a slash or a dot from this check.
        _ if plain.contains(&b'%') => bad("a percent sign"),
        _ if begins_with_dot(plain) && plain.split(|&b| b == b'/').any(is_dots) => {
            bad("a dot segment")
        }
        _ if plain.windows(2).any(|two| two == b"//") => bad("an empty segment"),
        _ => Ok(()),
    }
}

/// Whether some segment may be one of dots: most paths have none that begins so.
fn begins_with_dot(path: &[u8]) -> bool {
    path.windows(2).any(|two| two == b"/.")
}

fn is_dots(segment: &[u8]) -> bool {
    matches!(segment, b"." | b"..")
}

pub(super) fn check_name(name: &str) -> Result<(), HeadError> {
    // RFC 9110, 5.6.2, without upper case: HTTP/2 knows lower-case names only.
    let is_token =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(is_token) {
        return Err(HeadError::Bad {
            field: "header name",
            reason: "not 1 to 128 lower-case token characters",
        });
    }
    let hop = name.starts_with("proxy-") || name.starts_with("x-forwarded-");
    if hop || FORBIDDEN.binary_search(&name).is_ok() {
        return Err(HeadError::Forbidden(name.to_owned()));
    }
    Ok(())
}

pub(super) fn check_value(
    field: &'static str,
    value: &str,
    bytes_max: usize,
) -> Result<(), HeadError> {
    let bad = |reason| Err(HeadError::Bad { field, reason });
    match value {
        long if long.len() > bytes_max => bad("too long"),
        text if text.bytes().any(|b| b != b'\t' && !(b' '..=b'~').contains(&b)) => {
            bad("a character other than visible ASCII, blank and tab")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forbidden_list_is_sorted() {
        assert!(FORBIDDEN.is_sorted());
    }
}
