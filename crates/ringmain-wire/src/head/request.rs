//! The head of a request, which a caller writes and the broker judges.

use super::check::{check_name, check_path, check_route, check_value};
use super::{HeadError, put_headers, split_header, tag, text};
use crate::field::{FieldReader, FieldWriter, OPTIONAL};
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

fn once<T>(slot: &mut Option<T>, field: &'static str, value: T) -> Result<(), HeadError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeadError::Twice(field)),
    }
}

fn parse_method(bytes: &[u8]) -> Result<Method, HeadError> {
    match bytes {
        [1] => Ok(Method::Post),
        [2] => Ok(Method::Get),
        [3] => Ok(Method::Delete),
        _ => Err(HeadError::Bad { field: "method", reason: "not 1, 2 or 3" }),
    }
}
