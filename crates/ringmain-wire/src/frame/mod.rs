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

use bytemuck::{Pod, Zeroable};
use thiserror::Error;

use crate::limits::LINE_BYTES;

pub use end::{EndFrame, FinishReason};
pub use error::ErrorFrame;
pub use tool::ToolFrame;
pub use usage::Usage;

mod end;
mod error;
#[cfg(test)]
mod tests;
mod tool;
mod usage;

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

fn split_raw<T: Pod>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (raw, rest) = bytes.split_at_checked(size_of::<T>())?;
    Some((bytemuck::pod_read_unaligned(raw), rest))
}
