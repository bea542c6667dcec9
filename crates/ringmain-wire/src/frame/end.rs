//! The payload of END.

use std::str;

use bytemuck::{Pod, Zeroable};

use super::{Kind, PayloadError, split_raw};
use crate::head::cut;
use crate::limits::TERMINAL_PAYLOAD_MAX;

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
