//! The head of a request and the head of a response: everything but the body.

use std::str;

use thiserror::Error;

use crate::field::{FieldError, FieldReader, FieldWriter, OPTIONAL};
use crate::limits::*;

/// Method of the HTTP request that an exchange becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// Remove something.
    Delete = 3,
    /// Read something; the body is not sent.
    Get = 2,
    /// Everything else.
    #[default]
    Post = 1,
}

/// The head of a request, judged: every text is UTF-8 within its bound, the path stays below the
/// endpoint's base, and no header can smuggle a line or replace what the broker sets itself.
///
/// ```
/// use ringmain_wire::RequestHead;
/// let head = RequestHead::new("tiny", "/chat/completions");
/// let mut bytes = Vec::new();
/// head.encode(&mut bytes)?;
/// assert_eq!(RequestHead::parse(&bytes)?.route, "tiny");
/// assert!(RequestHead::parse(b"\x01\x00\xff\xff").is_err());
/// # Ok::<(), ringmain_wire::head::HeadError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// Model name that a route serves, 1 to [`ROUTE_BYTES_MAX`] bytes.
    pub route: &'a str,
    /// API path below the endpoint's base URL, such as `/chat/completions`.
    pub path: &'a str,
    /// HTTP method.
    pub method: Method,
    /// Content type of the body; `application/json` when absent.
    pub content_type: Option<&'a str>,
    /// Key under which the provider recognizes a repetition.
    pub idempotency_key: Option<&'a str>,
    /// Further header fields for the provider: lower-case name, value.
    pub headers: Vec<(&'a str, &'a str)>,
}

/// The head of a response, payload of the HEAD frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseHead<'a> {
    /// HTTP status of the provider's answer.
    pub status: u16,
    /// Number of the attempt that answered, from 1.
    pub attempt: u16,
    /// Whether the answer came from a cache.
    pub cached: bool,
    /// The broker's id of the exchange, as in its log.
    pub log_id: &'a str,
    /// Route that matched.
    pub route: &'a str,
    /// Endpoint that answered.
    pub endpoint: &'a str,
    /// Content type of the answer.
    pub content_type: &'a str,
    /// The provider's id of the request.
    pub upstream_request_id: Option<&'a str>,
    /// Header fields of the answer that callers may need: rate limits, retry-after.
    pub headers: Vec<(&'a str, &'a str)>,
}

/// Why a head was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeadError {
    /// A field holds something that it may not hold.
    #[error("{field} is not valid: {reason}")]
    Bad {
        /// Field.
        field: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// The record itself is broken.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A header that the broker sets itself, that belongs to one connection only, or that speaks
    /// of the account or of another request.
    #[error("header {0:?} may not be set by a caller")]
    Forbidden(String),
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field came twice.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// A field that this version does not know and may not skip.
    #[error("field {0} is not known")]
    Unknown(u16),
}

mod tag {
    use super::OPTIONAL;
    pub const ROUTE: u16 = 1;
    pub const PATH: u16 = 2;
    pub const METHOD: u16 = 3;
    pub const CONTENT_TYPE: u16 = 4;
    pub const IDEMPOTENCY_KEY: u16 = 5;
    pub const HEADER: u16 = 6;
    pub const STATUS: u16 = 16;
    pub const ATTEMPT: u16 = 17;
    pub const ENDPOINT: u16 = 18;
    pub const LOG_ID: u16 = 19;
    pub const UPSTREAM_REQUEST_ID: u16 = 20 | OPTIONAL;
    pub const CACHED: u16 = 21;
}

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

impl<'a> RequestHead<'a> {
    /// A POST of JSON to `path` on the endpoint that serves `route`.
    pub fn new(route: &'a str, path: &'a str) -> RequestHead<'a> {
        RequestHead {
            route,
            path,
            method: Method::Post,
            content_type: None,
            idempotency_key: None,
            headers: Vec::new(),
        }
    }

    /// Appends the encoded head to `out`, after the same checks that the broker makes.
    ///
    /// # Errors
    /// [`HeadError`] names the field; `out` is as it was then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), HeadError> {
        let start = out.len();
        let result = self.check().and_then(|()| self.put(out));
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// Judges a private copy of an encoded head.
    ///
    /// # Errors
    /// [`HeadError`]; no bytes make it panic.
    pub fn parse(bytes: &'a [u8]) -> Result<RequestHead<'a>, HeadError> {
        let (mut route, mut path, mut method) = (None, None, None);
        let (mut content_type, mut idempotency_key, mut headers) = (None, None, Vec::new());
        for field in FieldReader::new(bytes) {
            let (tag, bytes) = field?;
            match tag {
                tag::ROUTE => once(&mut route, "route", text("route", bytes)?)?,
                tag::PATH => once(&mut path, "path", text("path", bytes)?)?,
                tag::METHOD => once(&mut method, "method", parse_method(bytes)?)?,
                tag::CONTENT_TYPE => {
                    once(&mut content_type, "content type", text("content type", bytes)?)?;
                }
                tag::IDEMPOTENCY_KEY => {
                    once(&mut idempotency_key, "idempotency key", text("idempotency key", bytes)?)?;
                }
                tag::HEADER if headers.len() == HEADERS_MAX => {
                    return Err(HeadError::Bad { field: "headers", reason: "more than 32" });
                }
                tag::HEADER => headers.push(split_header(bytes)?),
                tag if tag & OPTIONAL != 0 => {}
                tag => return Err(HeadError::Unknown(tag)),
            }
        }
        let head = RequestHead {
            route: route.ok_or(HeadError::Missing("route"))?,
            path: path.ok_or(HeadError::Missing("path"))?,
            method: method.unwrap_or_default(),
            content_type,
            idempotency_key,
            headers,
        };
        head.check()?;
        Ok(head)
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), HeadError> {
        let mut writer = FieldWriter::new(out, HEAD_BYTES_MAX);
        writer.put(tag::ROUTE, self.route.as_bytes())?;
        writer.put(tag::PATH, self.path.as_bytes())?;
        if self.method != Method::Post {
            writer.put(tag::METHOD, &[self.method as u8])?;
        }
        if let Some(text) = self.content_type {
            writer.put(tag::CONTENT_TYPE, text.as_bytes())?;
        }
        if let Some(key) = self.idempotency_key {
            writer.put(tag::IDEMPOTENCY_KEY, key.as_bytes())?;
        }
        put_headers(&mut writer, &self.headers)
    }

    fn check(&self) -> Result<(), HeadError> {
        check_route(self.route)?;
        check_path(self.path)?;
        if let Some(value) = self.content_type {
            check_value("content type", value, 256)?;
        }
        if let Some(value) = self.idempotency_key {
            check_value("idempotency key", value, IDEMPOTENCY_KEY_BYTES_MAX)?;
        }
        if self.headers.len() > HEADERS_MAX {
            return Err(HeadError::Bad { field: "headers", reason: "more than 32" });
        }
        for (name, value) in &self.headers {
            check_name(name)?;
            check_value("header value", value, HEADER_VALUE_BYTES_MAX)?;
        }
        Ok(())
    }
}

impl<'a> ResponseHead<'a> {
    /// Appends the encoded head to `out`. What does not fit into one frame is left out from the
    /// end: headers first, and texts are cut, so that a HEAD can always be sent.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = FieldWriter::new(out, RESPONSE_HEAD_BYTES_MAX);
        let short = |text: &'a str| cut(text, 128).as_bytes();
        // Bound: 2 + 2 + 1 + 5 x 128 bytes and their prefixes are below RESPONSE_HEAD_BYTES_MAX.
        let fixed = [
            (tag::STATUS, &self.status.to_le_bytes()[..]),
            (tag::ATTEMPT, &self.attempt.to_le_bytes()[..]),
            (tag::CACHED, &[u8::from(self.cached)][..]),
            (tag::LOG_ID, short(self.log_id)),
            (tag::ROUTE, short(self.route)),
            (tag::ENDPOINT, short(self.endpoint)),
            (tag::CONTENT_TYPE, short(self.content_type)),
        ];
        let id = self.upstream_request_id.map(|id| (tag::UPSTREAM_REQUEST_ID, short(id)));
        for (tag, bytes) in fixed.into_iter().chain(id) {
            let put = writer.put(tag, bytes);
            debug_assert!(put.is_ok(), "{put:?}");
        }
        for header in self.headers.iter().take(HEADERS_MAX) {
            if put_headers(&mut writer, std::slice::from_ref(header)).is_err() {
                break;
            }
        }
    }

    /// Reads an encoded head.
    ///
    /// # Errors
    /// [`HeadError`] when it is not what [`ResponseHead::encode`] writes.
    pub fn parse(bytes: &'a [u8]) -> Result<ResponseHead<'a>, HeadError> {
        let mut head = ResponseHead::default();
        for field in FieldReader::new(bytes) {
            let (tag, bytes) = field?;
            match tag {
                tag::STATUS => head.status = number("status", bytes)?,
                tag::ATTEMPT => head.attempt = number("attempt", bytes)?,
                tag::CACHED => head.cached = bytes == [1],
                tag::LOG_ID => head.log_id = text("log id", bytes)?,
                tag::ROUTE => head.route = text("route", bytes)?,
                tag::ENDPOINT => head.endpoint = text("endpoint", bytes)?,
                tag::CONTENT_TYPE => head.content_type = text("content type", bytes)?,
                tag::UPSTREAM_REQUEST_ID => {
                    head.upstream_request_id = Some(text("upstream request id", bytes)?);
                }
                tag::HEADER if head.headers.len() == HEADERS_MAX => {
                    return Err(HeadError::Bad { field: "headers", reason: "more than 32" });
                }
                tag::HEADER => head.headers.push(split_header(bytes)?),
                tag if tag & OPTIONAL != 0 => {}
                tag => return Err(HeadError::Unknown(tag)),
            }
        }
        Ok(head)
    }
}

/// The longest start of `text` that is at most `bytes_max` bytes and ends between characters.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn once<T>(slot: &mut Option<T>, field: &'static str, value: T) -> Result<(), HeadError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeadError::Twice(field)),
    }
}

fn text<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, HeadError> {
    str::from_utf8(bytes).map_err(|_| HeadError::Bad { field, reason: "not UTF-8" })
}

fn number(field: &'static str, bytes: &[u8]) -> Result<u16, HeadError> {
    let array = bytes.try_into().map_err(|_| HeadError::Bad { field, reason: "not two bytes" })?;
    Ok(u16::from_le_bytes(array))
}

fn parse_method(bytes: &[u8]) -> Result<Method, HeadError> {
    match bytes {
        [1] => Ok(Method::Post),
        [2] => Ok(Method::Get),
        [3] => Ok(Method::Delete),
        _ => Err(HeadError::Bad { field: "method", reason: "not 1, 2 or 3" }),
    }
}

/// A header is encoded as `name:value`; a name holds no colon.
fn put_headers(writer: &mut FieldWriter<'_>, headers: &[(&str, &str)]) -> Result<(), HeadError> {
    for (name, value) in headers {
        let mut joined = Vec::with_capacity(name.len() + 1 + value.len());
        joined.extend_from_slice(name.as_bytes());
        joined.push(b':');
        joined.extend_from_slice(value.as_bytes());
        writer.put(tag::HEADER, &joined)?;
    }
    Ok(())
}

fn split_header(bytes: &[u8]) -> Result<(&str, &str), HeadError> {
    let joined = text("header", bytes)?;
    joined.split_once(':').ok_or(HeadError::Bad { field: "header", reason: "no colon" })
}

fn check_route(route: &str) -> Result<(), HeadError> {
    let bad = |reason| Err(HeadError::Bad { field: "route", reason });
    match route {
        "" => bad("empty"),
        long if long.len() > ROUTE_BYTES_MAX => bad("longer than 256 bytes"),
        text if text.chars().any(char::is_control) => bad("a control character"),
        _ => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), HeadError> {
    let bad = |reason| Err(HeadError::Bad { field: "path", reason });
    let plain = path.split('?').next().unwrap_or_default();
    match path {
        long if long.len() > PATH_BYTES_MAX => bad("longer than 512 bytes"),
        text if !text.starts_with('/') => bad("it does not begin with a slash"),
        text if text.bytes().any(|b| !b.is_ascii_graphic() || b"#\\\"<>".contains(&b)) => {
            bad("a character that a path cannot hold")
        }
        // A percent sign could hide a slash or a dot from this check.
        _ if plain.contains('%') => bad("a percent sign"),
        _ if plain.split('/').any(|part| part == "." || part == "..") => bad("a dot segment"),
        _ if plain.contains("//") => bad("an empty segment"),
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), HeadError> {
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

fn check_value(field: &'static str, value: &str, bytes_max: usize) -> Result<(), HeadError> {
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
    use proptest::prelude::*;

    fn encoded(head: &RequestHead<'_>) -> Result<Vec<u8>, HeadError> {
        let mut out = Vec::new();
        head.encode(&mut out).map(|()| out)
    }

    #[test]
    fn the_forbidden_list_is_sorted() {
        assert!(FORBIDDEN.is_sorted());
    }

    #[test]
    fn a_full_request_head_comes_back() {
        let mut head = RequestHead::new("claude-*", "/chat/completions?x=%20");
        head.method = Method::Delete;
        head.content_type = Some("multipart/form-data; boundary=x");
        head.idempotency_key = Some("k-1");
        head.headers = vec![("openai-beta", "a:b"), ("x-trace", "")];
        assert_eq!(RequestHead::parse(&encoded(&head).unwrap()).unwrap(), head);
    }

    #[test]
    fn bad_heads_are_refused_by_name() {
        let with = |name, value| {
            let mut head = RequestHead::new("tiny", "/x");
            head.headers = vec![(name, value)];
            encoded(&head).unwrap_err().to_string()
        };
        assert!(with("x", "a\r\nb: c").contains("header value"));
        for name in ["authorization", "openai-project", "x-goog-user-project", "x-original-url"] {
            assert!(with(name, "x").contains(name), "{name}");
        }
        assert!(with("X-Upper", "x").contains("header name"));
        for (route, path) in [
            ("", "/x"),
            ("a\nb", "/x"),
            ("a", "x"),
            ("a", "/../x"),
            ("a", "/a//b"),
            ("a", "/%2e%2e/x"),
            ("a", "/a b"),
            ("a", "//host/x"),
        ] {
            assert!(encoded(&RequestHead::new(route, path)).is_err(), "{route:?} {path:?}");
        }
        let long = "r".repeat(257);
        assert!(encoded(&RequestHead::new(&long, "/x")).is_err());
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_refused() {
        let mut bytes = encoded(&RequestHead::new("tiny", "/x")).unwrap();
        bytes[4] = 0xff;
        let error = RequestHead::parse(&bytes).unwrap_err();
        assert_eq!(error, HeadError::Bad { field: "route", reason: "not UTF-8" });
    }

    #[test]
    fn a_response_head_comes_back_and_always_fits() {
        let long = "é".repeat(400);
        let value = "v".repeat(300);
        let head = ResponseHead {
            status: 200,
            attempt: 2,
            cached: true,
            log_id: "rm-1",
            route: &long,
            endpoint: "local",
            content_type: "text/event-stream",
            upstream_request_id: Some("req_1"),
            headers: vec![("a", "1"), ("b", &value), ("c", &value), ("d", &value)],
        };
        let mut out = Vec::new();
        head.encode(&mut out);
        assert!(out.len() <= RESPONSE_HEAD_BYTES_MAX);
        let back = ResponseHead::parse(&out).unwrap();
        assert_eq!((back.status, back.attempt, back.cached), (200, 2, true));
        assert_eq!(back.route, "é".repeat(64));
        assert_eq!(back.headers[0], ("a", "1"));
        assert!(back.headers.len() < 4);
        // Many short headers are left out as well: a reader takes no more than that.
        let headers = vec![("a", "1"); HEADERS_MAX + 1];
        out.clear();
        ResponseHead { headers, ..ResponseHead::default() }.encode(&mut out);
        assert_eq!(ResponseHead::parse(&out).unwrap().headers.len(), HEADERS_MAX);
        out.extend_from_slice(b"\x06\x00\x01\x00:");
        let error = ResponseHead::parse(&out).unwrap_err();
        assert_eq!(error, HeadError::Bad { field: "headers", reason: "more than 32" });
    }

    proptest! {
        #[test]
        fn property_any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(head) = RequestHead::parse(&bytes) {
                prop_assert!(head.path.starts_with('/'));
            }
            let _ = ResponseHead::parse(&bytes);
        }
    }
}
