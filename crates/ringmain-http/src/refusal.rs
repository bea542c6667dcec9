//! An answer that is an error of the broker's own.

use axum::body::Body;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use ringmain_broker::face::Failure;
use ringmain_wire::{Code, Stage};

use crate::shape::{Shape, Words};

/// Why a request gets no answer of a provider.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub status: u16,
    pub failure: Failure,
    /// The id of the exchange, where one had begun.
    pub id: String,
    /// Whether the caller's library may send it again; unsaid, it goes by the status.
    pub should_retry: Option<bool>,
    /// The rest of the request is not read, so the connection cannot be used again.
    pub closes: bool,
}

impl Refusal {
    /// Before an exchange began.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal::of(Failure::new(code, Stage::Intake, message), String::new(), 0)
    }

    /// A caller that is not known: 401, which is not what a known one without a right gets.
    pub fn unknown_caller(message: impl Into<String>) -> Refusal {
        Refusal { status: 401, ..Refusal::new(Code::NotAllowed, message) }
    }

    /// A request whose encoding nobody reads.
    pub fn unknown_encoding(message: impl Into<String>) -> Refusal {
        Refusal { status: 415, ..Refusal::new(Code::InvalidRequest, message) }
    }

    /// A path or method that is not served.
    pub fn not_served(status: u16, message: impl Into<String>) -> Refusal {
        Refusal { status, ..Refusal::new(Code::InvalidRequest, message) }
    }

    /// The bad end of an exchange of which nothing was answered yet. What the broker tried more
    /// than once is not to be tried again by its caller: the two would multiply.
    pub fn of(failure: Failure, id: String, attempts: u16) -> Refusal {
        let status = failure.code.http_status();
        let should_retry = match attempts {
            0 | 1 => None,
            _ => Some(false),
        };
        Refusal { status, failure, id, should_retry, closes: false }
    }

    /// The response.
    pub fn response(&self, shape: Shape) -> Response<Body> {
        let message = match self.id.as_str() {
            "" => self.failure.message.clone(),
            id => format!("{} ({id})", self.failure.message),
        };
        let (code, request_id) = (self.failure.code.name(), self.id.as_str());
        let words = Words { status: self.status, code, message: &message, request_id };
        let mut response = Response::new(Body::from(shape.body(&words)));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !self.id.is_empty() {
            put(headers, HeaderName::from_static(shape.id_header()), &self.id);
            put(headers, HeaderName::from_static("x-ringmain-id"), &self.id);
        }
        if let Some(retry_after_ms) = self.failure.retry_after_ms {
            let seconds = retry_after_ms.div_ceil(1000);
            put(headers, HeaderName::from_static("retry-after-ms"), &retry_after_ms.to_string());
            put(headers, http::header::RETRY_AFTER, &seconds.to_string());
        }
        if let Some(should_retry) = self.should_retry {
            let value = if should_retry { "true" } else { "false" };
            headers.insert("x-should-retry", HeaderValue::from_static(value));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Sets a header whose value may not be one; then it is left out.
pub(crate) fn put(headers: &mut http::HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
