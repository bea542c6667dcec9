//! The head of a response, which the broker writes so that it always fits.

use super::{HeadError, cut, put_headers, split_header, tag, text};
use crate::field::{FieldReader, FieldWriter, OPTIONAL};
use crate::limits::*;

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

fn number(field: &'static str, bytes: &[u8]) -> Result<u16, HeadError> {
    let array = bytes.try_into().map_err(|_| HeadError::Bad { field, reason: "not two bytes" })?;
    Ok(u16::from_le_bytes(array))
}
