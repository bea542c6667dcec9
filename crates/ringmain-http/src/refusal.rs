//! An answer that is an error of the broker's own.

use axum::body::Body;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use ringmain_broker::face::Failure;
use ringmain_wire::{Code, Stage};

use crate::framing::Fault;
use crate::names;
use crate::shape::{Shape, Words};

/// When to come again to a broker that has no room, or is replaced by the next one.
const COME_AGAIN_MS: u64 = 1000;

/// Why a request gets no answer of a provider.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub status: u16,
    pub failure: Failure,
    /// The id of the exchange, where one had begun.
    pub id: String,
    /// Sent again it would end no better.
    pub is_final: bool,
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

    /// What came is no request, and nothing is read behind it.
    pub fn faulty(fault: Fault) -> Refusal {
        let refusal = Refusal::new(Code::InvalidRequest, fault.to_string());
        Refusal { status: fault.status(), closes: true, ..refusal }
    }

    /// A path or method that is not served.
    pub fn not_served(status: u16, message: impl Into<String>) -> Refusal {
        Refusal { status, ..Refusal::new(Code::InvalidRequest, message) }
    }

    /// The bad end of an exchange of which nothing was answered yet. What the broker tried more
    /// than once is not to be tried again by its caller, for the two would multiply; nor what ends
    /// the same each time.
    pub fn of(mut failure: Failure, id: String, attempts: u16) -> Refusal {
        let told = failure.http_status.filter(|status| (400..600).contains(status));
        let status = match (failure.code, told) {
            // What the provider says inside an answer is what it would have said before it.
            (Code::UpstreamError, Some(status)) => status,
            (code, _) => code.http_status(),
        };
        if matches!(failure.code, Code::QuotaExceeded | Code::Draining) {
            failure.retry_after_ms.get_or_insert(COME_AGAIN_MS);
        }
        let is_final = attempts > 1 || !failure.code.is_retryable();
        Refusal { status, failure, id, is_final, closes: false }
    }

    /// Whether libraries send a request again that ends like this, if they are not told.
    fn invites_retries(&self) -> bool {
        self.status >= 500 || matches!(self.status, 408 | 409 | 429)
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
            put(headers, shape.id_header(), &self.id);
            put(headers, &names::X_RINGMAIN_ID, &self.id);
        }
        if let Some(retry_after_ms) = self.failure.retry_after_ms {
            let seconds = retry_after_ms.div_ceil(1000);
            put(headers, &names::RETRY_AFTER_MS, &retry_after_ms.to_string());
            put(headers, &RETRY_AFTER, &seconds.to_string());
        }
        if self.is_final && self.invites_retries() {
            headers.insert(&names::X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Sets a header whose value may not be one; then it is left out.
pub(crate) fn put(headers: &mut http::HeaderMap, name: &'static HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(refusal: &Refusal) -> http::HeaderMap {
        refusal.response(Shape::OpenAi).headers().clone()
    }

    #[test]
    fn what_is_final_is_not_to_be_sent_again() {
        let said = |code, attempts| {
            let failure = Failure::new(code, Stage::Relay, "");
            headers(&Refusal::of(failure, String::new(), attempts)).contains_key("x-should-retry")
        };
        assert!(said(Code::UpstreamProtocol, 1), "it ends the same each time");
        assert!(said(Code::UpstreamReset, 2), "it was tried again");
        assert!(!said(Code::UpstreamReset, 1));
        assert!(!said(Code::UnknownRoute, 1), "nobody sends it again");
        assert!(!said(Code::QuotaExceeded, 0));
    }

    #[test]
    fn a_broker_without_room_says_when_to_come_again() {
        for code in [Code::QuotaExceeded, Code::Draining] {
            assert_eq!(headers(&Refusal::new(code, ""))["retry-after"], "1");
        }
        assert!(!headers(&Refusal::new(Code::Internal, "")).contains_key("retry-after"));
    }

    #[test]
    fn an_error_of_the_provider_keeps_its_status() {
        let status = |code, http_status| {
            let mut failure = Failure::new(code, Stage::Relay, "");
            failure.http_status = http_status;
            Refusal::of(failure, String::new(), 1).status
        };
        assert_eq!(status(Code::UpstreamError, Some(529)), 529);
        assert_eq!(status(Code::UpstreamError, Some(200)), 502);
        assert_eq!(status(Code::UpstreamProtocol, Some(429)), 502);
    }
}
