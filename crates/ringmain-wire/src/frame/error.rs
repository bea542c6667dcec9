//! The payload of ERROR.

use std::str;

use bytemuck::{Pod, Zeroable};

use super::{Kind, PayloadError, split_raw};
use crate::code::{Code, Sent, Stage};
use crate::head::cut;
use crate::limits::TERMINAL_PAYLOAD_MAX;

/// The bad end, payload of ERROR.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorFrame<'a> {
    /// What happened.
    pub code: Code,
    /// How far the exchange had come.
    pub stage: Stage,
    /// Whether the upstream may have seen the request.
    pub sent: Sent,
    /// HTTP status of the provider, when it answered.
    pub http_status: Option<u16>,
    /// Attempts made.
    pub attempts: u16,
    /// Payload bytes of content frames delivered before.
    pub bytes: u64,
    /// When the provider, or a limit, asks to come again: milliseconds from now.
    pub retry_after_ms: Option<u64>,
    /// The provider's own error code; may be empty.
    pub provider_code: &'a str,
    /// What happened, where, what to do; ends with the exchange's log id.
    pub message: &'a str,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawError {
    code: u16,
    stage: u8,
    sent: u8,
    http_status: u16,
    attempts: u16,
    provider_code_bytes: u32,
    message_bytes: u32,
    bytes: u64,
    retry_after_ms: u64,
}

const PROVIDER_CODE_MAX: usize = 64;
const MESSAGE_MAX: usize = TERMINAL_PAYLOAD_MAX - size_of::<RawError>() - PROVIDER_CODE_MAX;

impl<'a> ErrorFrame<'a> {
    /// An error before anything was sent or delivered.
    pub fn new(code: Code, stage: Stage, message: &'a str) -> ErrorFrame<'a> {
        ErrorFrame {
            code,
            stage,
            sent: Sent::No,
            http_status: None,
            attempts: 0,
            bytes: 0,
            retry_after_ms: None,
            provider_code: "",
            message,
        }
    }

    /// Appends the payload; texts are cut so that it fits a terminal frame. A long message loses
    /// its middle: its end carries the log id.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let provider_code = cut(self.provider_code, PROVIDER_CODE_MAX);
        let (begin, end) = shorten(self.message, MESSAGE_MAX);
        let raw = RawError {
            code: self.code as u16,
            stage: self.stage as u8,
            sent: self.sent as u8,
            http_status: self.http_status.unwrap_or(0),
            attempts: self.attempts,
            provider_code_bytes: provider_code.len() as u32,
            message_bytes: (begin.len() + end.len()) as u32,
            bytes: self.bytes,
            retry_after_ms: self.retry_after_ms.unwrap_or(u64::MAX),
        };
        out.extend_from_slice(bytemuck::bytes_of(&raw));
        for text in [provider_code, begin, end] {
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`PayloadError`] when a number, a length or UTF-8 is wrong.
    pub fn parse(payload: &'a [u8]) -> Result<ErrorFrame<'a>, PayloadError> {
        let bad = PayloadError(Kind::Error);
        let (raw, rest) = split_raw::<RawError>(payload).ok_or(bad)?;
        let (provider_code, rest) =
            rest.split_at_checked(raw.provider_code_bytes as usize).ok_or(bad)?;
        let message = rest.get(..raw.message_bytes as usize).ok_or(bad)?;
        Ok(ErrorFrame {
            code: Code::from_number(raw.code).ok_or(bad)?,
            stage: Stage::from_number(raw.stage).ok_or(bad)?,
            sent: Sent::from_number(raw.sent).ok_or(bad)?,
            http_status: (raw.http_status != 0).then_some(raw.http_status),
            attempts: raw.attempts,
            bytes: raw.bytes,
            retry_after_ms: (raw.retry_after_ms != u64::MAX).then_some(raw.retry_after_ms),
            provider_code: str::from_utf8(provider_code).map_err(|_| bad)?,
            message: str::from_utf8(message).map_err(|_| bad)?,
        })
    }
}

/// Bytes of a message's end that a cut keeps.
const KEPT_END: usize = 48;

fn shorten(message: &str, bytes_max: usize) -> (&str, &str) {
    if message.len() <= bytes_max {
        return (message, "");
    }
    let mut end = message.len() - KEPT_END;
    while !message.is_char_boundary(end) {
        end += 1;
    }
    (cut(message, bytes_max - KEPT_END), &message[end..])
}
