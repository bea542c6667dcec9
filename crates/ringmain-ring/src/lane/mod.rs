//! A lane: the ring that carries the frames of one exchange after another back to the caller.
//!
//! One [`LaneWriter`] (responder) and one [`LaneReader`] (caller) per lane, for as long as the
//! segments live. Positions go on across exchanges; nothing is ever reset.

mod reader;
mod split;
mod writer;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use ringmain_wire::frame::{FrameHeader, MORE};
use ringmain_wire::{ExchangeId, Kind};
use thiserror::Error;

pub use reader::{LaneReader, Peek, TextRef};
pub use writer::LaneWriter;

/// How much of a payload was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a payload that was not wholly written must be pushed again"]
pub enum Push {
    /// Nothing: the lane has no room for the next frame.
    Full,
    /// The first bytes, in frames that carry MORE. Push the rest, with the same kind and choice
    /// and before anything else, when there is room.
    Partly(usize),
    /// All of it.
    Written,
}

/// A cursor that no honest caller publishes. Ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("cursor {cursor} does not lie between {last}, published before, and {written}, written")]
pub struct CursorError {
    /// The cursor read.
    pub cursor: u64,
    /// The last valid one.
    pub last: u64,
    /// Lines written.
    pub written: u64,
}

/// A request came for a lane whose last exchange is not consumed. A violation of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("lane {lane} is not free: its caller consumed {cursor} of {written} lines")]
pub struct LaneBusy {
    /// Index of the lane.
    pub lane: u32,
    /// The caller's cursor.
    pub cursor: u64,
    /// Lines written.
    pub written: u64,
}

/// Why a frame was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LaneError {
    /// No exchange is open on the lane.
    #[error("no exchange is open on the lane")]
    Closed,
    /// The peer's cursor is impossible.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// A terminal kind was pushed or another one was given to `finish`.
    #[error("a frame of kind {0:?} cannot be written this way")]
    Kind(Kind),
}

/// Bytes in a lane that no honest responder writes. Ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A flag that this version does not know.
    #[error("frame flags {0:#04x} are not known")]
    Flags(u8),
    /// No such kind.
    #[error("frame kind {0} does not exist")]
    Kind(u8),
    /// The frame is longer than a quarter of the lane or leaves it.
    #[error("a frame of {length} bytes at line {line} leaves its quarter or the lane")]
    Length {
        /// Payload bytes given.
        length: u32,
        /// Line within the lane.
        line: u64,
    },
    /// The publish word is neither 0 nor that of this position.
    #[error("publish word {word} at position {position}")]
    Publish {
        /// Word read.
        word: u64,
        /// Position awaited.
        position: u64,
    },
    /// A SKIP that does not end with the lane.
    #[error("a skip of {length} bytes at line {line} does not end with the lane")]
    Skip {
        /// Payload bytes given.
        length: u32,
        /// Line within the lane.
        line: u64,
    },
}

/// One frame, borrowed where it stands. The borrow ends at the next call on its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef<'a> {
    /// Exchange that it belongs to.
    pub exchange: ExchangeId,
    /// What it is; never SKIP.
    pub kind: Kind,
    /// Whether the payload goes on in the next frame.
    pub more: bool,
    /// Choice that the payload belongs to.
    pub choice: u16,
    /// When it was published, on the broker's clock.
    pub time_ns: u64,
    /// The payload.
    pub payload: &'a [u8],
}

/// Word 2 of a header.
#[inline(always)]
const fn pack(length: usize, kind: Kind, flags: u8, choice: u16) -> u64 {
    // The length is at most a quarter of the longest lane, far below 2^32.
    length as u64 | (kind as u64) << 32 | (flags as u64) << 40 | (choice as u64) << 48
}

/// Payload bytes, of word 2.
#[inline(always)]
fn length_of(tag: u64) -> usize {
    tag as u32 as usize
}

/// Number of the kind, of word 2.
#[inline(always)]
fn kind_of(tag: u64) -> u8 {
    (tag >> 32) as u8
}

/// Flags, of word 2.
#[inline(always)]
fn flags_of(tag: u64) -> u8 {
    (tag >> 40) as u8
}

/// Choice, of word 2.
#[inline(always)]
fn choice_of(tag: u64) -> u16 {
    (tag >> 48) as u16
}

/// Whether the payload goes on in the next frame.
#[inline(always)]
fn has_more(tag: u64) -> bool {
    flags_of(tag) & MORE != 0
}

/// The header that these words are.
#[inline(always)]
fn unpack(publish: u64, exchange: u64, tag: u64, time_ns: u64) -> FrameHeader {
    FrameHeader {
        publish,
        exchange,
        length: tag as u32,
        kind: kind_of(tag),
        flags: flags_of(tag),
        choice: choice_of(tag),
        time_ns,
    }
}
