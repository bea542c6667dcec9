//! Whether the end of a body shows that the body is whole.
//!
//! Whoever reads the connection judges chunks and, over HTTP/1, Content-Length. Two ends pass there
//! that prove nothing: that of an HTTP/2 stream which is reset with NO_ERROR, or whose connection
//! goes away so, before its END_STREAM; and that of a body over HTTP/1 which has neither length nor
//! chunks and ends with its connection, which looks the same when its sender died. So the length is compared here too,
//! and without one the end must be a framed one. A stream that has shown its terminal marker does
//! not come to this, except in mode body; a plain body has no other marker than its frame.
//!
//! The words of an error status need no proof: the status stands without them.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Response, StatusCode, Version};
use ringmain_wire::Code;

use crate::error::UpstreamError;

/// How the end of one body is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framing {
    /// Length before any content encoding is undone.
    told: Option<u64>,
    seen: u64,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was checked where it was read, or nothing needs proof.
    Checked,
    /// With its connection.
    Closed,
    /// With END_STREAM.
    Stream,
}

impl Framing {
    /// As the head of the answer says.
    pub fn of<B>(response: &Response<B>) -> Framing {
        let (status, headers) = (response.status(), response.headers());
        let is_plain = !headers.contains_key(TRANSFER_ENCODING) && has_body(status);
        let told = headers.get(CONTENT_LENGTH).filter(|_| is_plain);
        let told = told.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let end = match response.version() {
            _ if told.is_some() || !status.is_success() || !has_body(status) => End::Checked,
            Version::HTTP_2 => End::Stream,
            _ if is_chunked(headers) => End::Checked,
            _ => End::Closed,
        };
        Framing { told, seen: 0, end }
    }

    /// Bytes of the body came.
    pub fn saw(&mut self, bytes: usize) {
        self.seen += bytes as u64;
    }

    /// Whether all bytes came that were promised.
    pub fn is_whole(&self) -> bool {
        self.told == Some(self.seen)
    }

    /// Judges an end that was taken for good, and whether it came in a frame.
    pub fn judge(self, is_framed: bool) -> Result<(), UpstreamError> {
        let message = match (self.told, self.end) {
            (Some(told), _) if told == self.seen => return Ok(()),
            (Some(told), _) => {
                format!("the answer ended after {} of {told} bytes", self.seen)
            }
            (None, End::Checked) => return Ok(()),
            (None, End::Stream) if is_framed => return Ok(()),
            (None, End::Stream) => "the answer was ended by a reset of its stream".to_owned(),
            (None, End::Closed) => {
                "the answer has neither length nor chunks, so its end proves nothing".to_owned()
            }
        };
        Err(UpstreamError::answered(Code::UpstreamTruncated, message))
    }
}

fn has_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether chunks are the last transfer coding (RFC 9112, 6.3).
fn is_chunked(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TRANSFER_ENCODING).iter().rev();
    let members = values.flat_map(|value| value.as_bytes().rsplit(|&byte| byte == b','));
    // Empty members of a list count for nothing (RFC 9110, 5.6.1).
    let last = members.map(<[u8]>::trim_ascii).find(|coding| !coding.is_empty());
    last.is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"))
}
