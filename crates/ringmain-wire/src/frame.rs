//! The frame header and the payloads of each frame kind.
//!
//! ```text
//! word 0  publish word: line position + 1, stored last with Release
//! word 1  exchange id
//! word 2  payload bytes (32) | kind (8) | flags (8) | choice (16)
//! word 3  time of publishing, ns of the broker's CLOCK_MONOTONIC
//! then    payload, padded to whole lines
//! ```
//!
//! | kind | payload |
//! |---|---|
//! | HEAD | a [`ResponseHead`](crate::ResponseHead) |
//! | DELTA, REASONING | text, UTF-8 |
//! | TOOL | [`ToolFrame`]: index, id, name, fragment of the arguments |
//! | EVENT | one upstream event, byte for byte |
//! | BODY | bytes of the answer's body |
//! | USAGE | [`Usage`] |
//! | END | [`EndFrame`]: finish reason of each choice |
//! | ERROR | [`ErrorFrame`] |
//! | SKIP | nothing: fills the lane to its end |

use std::str;

use bytemuck::{Pod, Zeroable};
use thiserror::Error;

use crate::code::{Code, Sent, Stage};
use crate::head::cut;
use crate::limits::{LINE_BYTES, TERMINAL_PAYLOAD_MAX};

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 32;

/// The header of a frame, as it stands in a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FrameHeader {
    /// Line position + 1 when published.
    pub publish: u64,
    /// Exchange that the frame belongs to.
    pub exchange: u64,
    /// Payload bytes.
    pub length: u32,
    /// A [`Kind`] by number.
    pub kind: u8,
    /// [`MORE`] or 0.
    pub flags: u8,
    /// Index of the choice that the payload belongs to.
    pub choice: u16,
    /// Broker time of publishing, ns.
    pub time_ns: u64,
}

const _: () = assert!(size_of::<FrameHeader>() == HEADER_BYTES);

/// Flag of a frame whose payload goes on in the next frame of the same kind and choice.
pub const MORE: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Kind {
    /// Status and origin of the answer.
    Head = 1,
    /// A piece of the answer's text.
    Delta = 2,
    /// A piece of the model's reasoning.
    Reasoning = 3,
    /// A piece of a tool call.
    Tool = 4,
    /// One upstream event, verbatim.
    Event = 5,
    /// Bytes of a plain answer.
    Body = 6,
    /// Tokens used.
    Usage = 7,
    /// The good end.
    End = 8,
    /// The bad end.
    Error = 9,
    /// Filler up to the end of the lane; never shown to a consumer.
    Skip = 10,
}

impl Kind {
    /// The kind with this number, if there is one.
    #[inline]
    pub fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Head,
            2 => Kind::Delta,
            3 => Kind::Reasoning,
            4 => Kind::Tool,
            5 => Kind::Event,
            6 => Kind::Body,
            7 => Kind::Usage,
            8 => Kind::End,
            9 => Kind::Error,
            10 => Kind::Skip,
            _ => return None,
        })
    }

    /// Whether the frame is the last of its exchange.
    #[inline]
    pub fn is_terminal(self) -> bool {
        matches!(self, Kind::End | Kind::Error)
    }

    /// Whether the frame is content: after the first one nothing is retried.
    #[inline]
    pub fn is_content(self) -> bool {
        matches!(self, Kind::Delta | Kind::Reasoning | Kind::Tool | Kind::Event | Kind::Body)
    }

    /// Whether the payload is UTF-8 text, which MORE splits between characters only.
    #[inline]
    pub fn is_text(self) -> bool {
        matches!(self, Kind::Delta | Kind::Reasoning)
    }
}

/// Lines that a frame with this many payload bytes takes.
#[inline]
pub fn lines_of(payload_bytes: usize) -> u64 {
    ((HEADER_BYTES + payload_bytes).div_ceil(LINE_BYTES)) as u64
}

/// Why a payload could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the payload of a {0:?} frame is not valid")]
pub struct PayloadError(pub Kind);

/// A piece of a tool call, payload of TOOL.
///
/// `index` tells parallel calls apart; `id` and `name` are empty except on the first piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToolFrame<'a> {
    /// Index of the call within the answer.
    pub index: u32,
    /// The provider's id of the call.
    pub id: &'a str,
    /// Name of the function.
    pub name: &'a str,
    /// Fragment of the arguments (JSON text, cut anywhere between characters).
    pub arguments: &'a str,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawTool {
    index: u32,
    id_bytes: u16,
    name_bytes: u16,
}

impl<'a> ToolFrame<'a> {
    /// Bytes of the payload before the texts.
    pub const PREFIX_BYTES: usize = size_of::<RawTool>();

    /// Appends the payload. An id or name above 256 bytes is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (id, name) = (cut(self.id, 256), cut(self.name, 256));
        let raw =
            RawTool { index: self.index, id_bytes: id.len() as u16, name_bytes: name.len() as u16 };
        out.extend_from_slice(bytemuck::bytes_of(&raw));
        for text in [id, name, self.arguments] {
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`PayloadError`] when lengths or UTF-8 are wrong.
    pub fn parse(payload: &'a [u8]) -> Result<ToolFrame<'a>, PayloadError> {
        let bad = PayloadError(Kind::Tool);
        let (raw, rest) = split_raw::<RawTool>(payload).ok_or(bad)?;
        let (id, rest) = rest.split_at_checked(raw.id_bytes.into()).ok_or(bad)?;
        let (name, rest) = rest.split_at_checked(raw.name_bytes.into()).ok_or(bad)?;
        let text = |bytes| str::from_utf8(bytes).map_err(|_| bad);
        Ok(ToolFrame { index: raw.index, id: text(id)?, name: text(name)?, arguments: text(rest)? })
    }
}

/// Tokens used, payload of USAGE. 0 where the provider does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input: u64,
    /// Tokens generated, reasoning included.
    pub output: u64,
    /// Tokens of the prompt that the provider had cached.
    pub input_cached: u64,
    /// Tokens of the prompt that the provider wrote to its cache.
    pub input_cache_written: u64,
    /// Tokens generated as reasoning.
    pub output_reasoning: u64,
    /// Total, as the provider counts it.
    pub total: u64,
}

impl Usage {
    /// The payload.
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::bytes_of(self)
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`PayloadError`] when it is too short.
    pub fn parse(payload: &[u8]) -> Result<Usage, PayloadError> {
        split_raw(payload).map(|(usage, _)| usage).ok_or(PayloadError(Kind::Usage))
    }
}

/// Why a choice ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum FinishReason {
    /// The answer does not say, or has no choices (an embedding, a body).
    #[default]
    None = 0,
    /// The model was done, or a stop sequence came.
    Stop = 1,
    /// The token limit was reached.
    Length = 2,
    /// The model calls tools.
    ToolCalls = 3,
    /// The provider's filter cut it.
    ContentFilter = 4,
    /// The model refused.
    Refusal = 5,
    /// Something else, see [`EndFrame::text`].
    Other = 6,
}

impl FinishReason {
    /// The reason with this number; unknown ones are [`FinishReason::Other`].
    pub fn from_number(number: u8) -> FinishReason {
        use FinishReason::*;
        let reasons = [None, Stop, Length, ToolCalls, ContentFilter, Refusal];
        reasons.get(usize::from(number)).copied().unwrap_or(Other)
    }
}

/// The good end, payload of END.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndFrame<'a> {
    /// Payload bytes of content frames delivered.
    pub bytes: u64,
    /// Choice and reason, for each choice that said one; at most 64.
    pub finish: Vec<(u16, FinishReason)>,
    /// The provider's own word for the first choice's reason; at most 64 bytes.
    pub text: &'a str,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawEnd {
    bytes: u64,
    choices: u32,
    text_bytes: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawChoice {
    choice: u16,
    reason: u8,
    reserved: u8,
}

const CHOICES_MAX: usize = 64;
const _: () = assert!(
    size_of::<RawEnd>() + CHOICES_MAX * size_of::<RawChoice>() + 64 <= TERMINAL_PAYLOAD_MAX
);

impl<'a> EndFrame<'a> {
    /// Appends the payload, cut to its bounds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let finish = &self.finish[..self.finish.len().min(CHOICES_MAX)];
        let text = cut(self.text, 64);
        let raw = RawEnd {
            bytes: self.bytes,
            choices: finish.len() as u32,
            text_bytes: text.len() as u32,
        };
        out.extend_from_slice(bytemuck::bytes_of(&raw));
        for &(choice, reason) in finish {
            let raw = RawChoice { choice, reason: reason as u8, reserved: 0 };
            out.extend_from_slice(bytemuck::bytes_of(&raw));
        }
        out.extend_from_slice(text.as_bytes());
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`PayloadError`] when lengths or UTF-8 are wrong.
    pub fn parse(payload: &'a [u8]) -> Result<EndFrame<'a>, PayloadError> {
        let bad = PayloadError(Kind::End);
        let (raw, mut rest) = split_raw::<RawEnd>(payload).ok_or(bad)?;
        if raw.choices as usize > CHOICES_MAX {
            return Err(bad);
        }
        let mut finish = Vec::with_capacity(raw.choices as usize);
        for _ in 0..raw.choices {
            let (choice, after) = split_raw::<RawChoice>(rest).ok_or(bad)?;
            finish.push((choice.choice, FinishReason::from_number(choice.reason)));
            rest = after;
        }
        let text = rest.get(..raw.text_bytes as usize).ok_or(bad)?;
        let text = str::from_utf8(text).map_err(|_| bad)?;
        Ok(EndFrame { bytes: raw.bytes, finish, text })
    }

    /// The reason of the first choice.
    pub fn reason(&self) -> FinishReason {
        self.finish.first().map_or(FinishReason::None, |&(_, reason)| reason)
    }
}

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

fn split_raw<T: Pod>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (raw, rest) = bytes.split_at_checked(size_of::<T>())?;
    Some((bytemuck::pod_read_unaligned(raw), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    #[test]
    fn kinds_come_back() {
        for n in 1..=10 {
            assert_eq!(Kind::from_number(n).map(|k| k as u8), Some(n));
        }
        assert_eq!(Kind::from_number(0), None);
        assert_eq!(Kind::from_number(11), None);
    }

    #[test]
    fn a_typical_token_takes_one_line() {
        assert_eq!(lines_of(0), 1);
        assert_eq!(lines_of(32), 1);
        assert_eq!(lines_of(33), 2);
    }

    #[test]
    fn payloads_come_back() {
        let tool = ToolFrame { index: 3, id: "call_1", name: "f", arguments: "{\"a\"" };
        assert_eq!(ToolFrame::parse(&bytes(|o| tool.encode(o))), Ok(tool));
        let end = EndFrame {
            bytes: 9,
            finish: vec![(0, FinishReason::Stop), (1, FinishReason::Length)],
            text: "stop",
        };
        assert_eq!(EndFrame::parse(&bytes(|o| end.encode(o))), Ok(end));
        let usage = Usage { input: 1, total: 5, ..Usage::default() };
        assert_eq!(Usage::parse(usage.as_bytes()), Ok(usage));
        let mut error = ErrorFrame::new(Code::UpstreamStatus, Stage::AwaitHead, "no (rm-1)");
        error.http_status = Some(429);
        error.retry_after_ms = Some(0);
        error.provider_code = "rate_limit";
        assert_eq!(ErrorFrame::parse(&bytes(|o| error.encode(o))), Ok(error));
    }

    proptest! {
        #[test]
        fn property_terminal_payloads_always_fit(text in "\\PC{0,900}", choices in 0usize..100) {
            let mut error = ErrorFrame::new(Code::Internal, Stage::Relay, &text);
            error.provider_code = &text;
            let encoded = bytes(|o| error.encode(o));
            prop_assert!(encoded.len() <= TERMINAL_PAYLOAD_MAX);
            let back = ErrorFrame::parse(&encoded).unwrap();
            let kept: String = text.chars().rev().take(8).collect();
            let back_end: String = back.message.chars().rev().take(8).collect();
            prop_assert_eq!(back_end, kept);
            let finish = vec![(1, FinishReason::Other); choices];
            let end = EndFrame { bytes: 0, finish, text: &text };
            let encoded = bytes(|o| end.encode(o));
            prop_assert!(encoded.len() <= TERMINAL_PAYLOAD_MAX);
            prop_assert!(EndFrame::parse(&encoded).is_ok());
        }

        #[test]
        fn property_any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = (ToolFrame::parse(&bytes), EndFrame::parse(&bytes));
            let _ = (ErrorFrame::parse(&bytes), Usage::parse(&bytes));
        }
    }
}
