//! Heads on both sides: what is sent of a caller's, and what callers may see of an answer's.

use std::time::SystemTime;

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use ringmain_wire::RequestHead;
use ringmain_wire::head::{Method as CallMethod, cut};

use crate::config::Dialect;
use crate::encoding::ACCEPTED;
use crate::retry_after::retry_after_ms;

/// Most header fields of an answer that are kept, and most bytes of a value.
const KEPT_MAX: usize = 32;
const KEPT_VALUE_BYTES_MAX: usize = 256;
/// Most bytes of a content type and of a request id.
const SHORT_BYTES_MAX: usize = 128;

pub(super) fn method(head: &RequestHead<'_>) -> Method {
    match head.method {
        CallMethod::Post => Method::POST,
        CallMethod::Get => Method::GET,
        CallMethod::Delete => Method::DELETE,
    }
}

/// The header fields of a request. The head was judged, so each of them fits; the credential is
/// put in after this, and no field of a caller can stand beside it. A body that was given its model
/// is JSON to its reader, in no words of the caller. There is room for so many `further` fields.
pub(super) fn request_headers(
    head: &RequestHead<'_>,
    has_body: bool,
    is_judged: bool,
    further: usize,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(head.headers.len() + further);
    for (name, value) in &head.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED));
    if has_body {
        let told = head.content_type.filter(|_| !is_judged).map(HeaderValue::from_str);
        let value = told.unwrap_or_else(|| Ok(HeaderValue::from_static("application/json")));
        if let Ok(value) = value {
            headers.insert(CONTENT_TYPE, value);
        }
    }
    if let Some(Ok(key)) = head.idempotency_key.map(HeaderValue::from_str) {
        headers.insert("idempotency-key", key);
    }
    headers
}

/// What every request of a dialect has to say. The version is the caller's, if it names one.
pub(super) fn complete(headers: &mut HeaderMap, dialect: Dialect) {
    const VERSION: &str = "anthropic-version";
    if dialect == Dialect::Anthropic && !headers.contains_key(VERSION) {
        headers.insert(VERSION, HeaderValue::from_static("2023-06-01"));
    }
}

/// What is kept of an answer's header fields.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub content_type: String,
    pub request_id: Option<String>,
    pub headers: Vec<(String, String)>,
    pub retry_after_ms: Option<u64>,
    pub should_retry: Option<bool>,
}

pub(super) fn keep(headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Kept {
    let mut kept = Kept::default();
    let (mut content_type, mut request_id, mut other_id) = (None, None, None);
    let (mut after, mut after_ms, mut should_retry) = (None, None, None);
    // Once through the few that there are: to look a field up by its name costs as much.
    for (name, value) in headers {
        let name = name.as_str();
        match name {
            "content-type" => _ = content_type.get_or_insert(value),
            "x-request-id" => _ = request_id.get_or_insert(value),
            "request-id" => _ = other_id.get_or_insert(value),
            "retry-after" => _ = after.get_or_insert(value),
            "retry-after-ms" => _ = after_ms.get_or_insert(value),
            "x-should-retry" => _ = should_retry.get_or_insert(value),
            _ => {}
        }
        if is_kept(name)
            && value.len() <= KEPT_VALUE_BYTES_MAX
            && kept.headers.len() < KEPT_MAX
            && let Ok(value) = value.to_str()
        {
            kept.headers.push((name.to_owned(), value.to_owned()));
        }
    }
    kept.content_type = short(content_type).unwrap_or_default();
    kept.request_id = short(request_id).or_else(|| short(other_id));
    kept.retry_after_ms = retry_after_ms(text(after_ms), text(after), now);
    kept.should_retry = text(should_retry).and_then(|value| value.parse().ok());
    kept
}

/// The value of a field, unless it holds other bytes than visible ASCII.
fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}

/// The same, cut where it is too long to be told of.
fn short(value: Option<&HeaderValue>) -> Option<String> {
    text(value).map(|text| cut(text, SHORT_BYTES_MAX).to_owned())
}

fn is_kept(name: &str) -> bool {
    const NAMES: [&str; 5] = [
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "openai-processing-ms",
        "openai-version",
    ];
    NAMES.contains(&name)
        || name.starts_with("x-ratelimit-")
        || name.starts_with("anthropic-ratelimit-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_callers_may_see_is_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("set-cookie", "session=secret"),
            ("openai-organization", "org-1"),
            ("x-ratelimit-limit-requests", "5000"),
            ("anthropic-ratelimit-tokens-reset", "2026-01-01T00:00:00Z"),
            ("retry-after", "2"),
            ("x-should-retry", "false"),
            ("request-id", "req_1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let kept = keep(&headers, || SystemTime::UNIX_EPOCH);
        let names: Vec<&str> = kept.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(!names.contains(&"set-cookie") && !names.contains(&"openai-organization"));
        assert_eq!(kept.request_id.as_deref(), Some("req_1"));
        assert_eq!((kept.retry_after_ms, kept.should_retry), (Some(2000), Some(false)));
        assert_eq!(kept.content_type, "text/event-stream");
    }
}
