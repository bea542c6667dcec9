//! The answer of an endpoint: its head and the bytes of its body.

use bytes::Bytes;

use crate::decode::{Decoder, DecoderConfig};
use crate::error::UpstreamError;

/// An answer whose head has arrived.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// HTTP status. A redirect is a status like any other: it is never followed.
    pub status: u16,
    /// Content type as given; empty when absent.
    pub content_type: String,
    /// The provider's id of the request.
    pub request_id: Option<String>,
    /// Header fields that callers may see.
    pub headers: Vec<(String, String)>,
    /// When the provider asks to come again, milliseconds from now.
    pub retry_after_ms: Option<u64>,
    /// What `x-should-retry` says.
    pub should_retry: Option<bool>,
    /// The body.
    pub body: AnswerBody,
    pub(crate) reading: DecoderConfig,
}

impl Answer {
    /// The decoder for this answer; the broker feeds it what [`AnswerBody::chunk`] gives.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(self.reading.clone())
    }
}

/// The body of an answer, its content encoding undone.
#[derive(Debug)]
pub struct AnswerBody {}

impl AnswerBody {
    /// The next bytes, or `None` after a correctly framed end.
    ///
    /// Cancel-safe: a call that is dropped has taken nothing.
    ///
    /// # Errors
    /// [`UpstreamError`] when the connection broke, the framing was cut short, or the encoding is
    /// wrong or expands beyond its bounds.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        unimplemented!()
    }

    /// Reads what is left behind the terminal marker, so that an HTTP/1.1 connection can be used
    /// again; gives up at 64 KiB. Dropping the body instead burns the connection.
    pub async fn settle(self) {
        unimplemented!()
    }
}
