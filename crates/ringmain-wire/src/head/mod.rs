//! The head of a request and the head of a response: everything but the body.

use std::str;

use thiserror::Error;

use crate::field::{FieldError, FieldWriter, OPTIONAL};

pub use request::{Method, RequestHead};
pub use response::ResponseHead;

mod check;
mod request;
mod response;
#[cfg(test)]
mod tests;

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

/// The longest start of `text` that is at most `bytes_max` bytes and ends between characters.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn text<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, HeadError> {
    str::from_utf8(bytes).map_err(|_| HeadError::Bad { field, reason: "not UTF-8" })
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
