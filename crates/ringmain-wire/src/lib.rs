//! What the bytes mean: the layouts, tags, codes, limits and control messages that a Ringmain
//! broker and its peers share. No I/O, no memory, no clock.
//!
//! Every record that crosses a process border is defined here once. A record is read in two
//! steps: its bytes are copied out of the segment, then a `parse` function judges the copy and
//! returns a type that cannot be built unchecked. Nothing here ever looks at shared memory.
//!
//! | module | what it holds |
//! |---|---|
//! | [`geometry`] | where everything stands in the two segments of a session |
//! | [`entry`] | the 64-byte submission entry |
//! | [`frame`] | the 32-byte frame header and the payloads of each frame kind |
//! | [`head`] | the head of a request and of a response (tagged fields) |
//! | [`control`] | the datagrams of the control socket |
//! | [`code`] | every error code: number, sentence, HTTP status, retryable |
//! | [`limits`] | the written bounds |
#![forbid(unsafe_code)]

pub mod code;
pub mod control;
pub mod entry;
pub mod field;
pub mod frame;
pub mod geometry;
pub mod head;
pub mod limits;

pub use code::{Code, Sent, Stage};
pub use entry::{Entry, EntryError, ExchangeId, Flags, Mode, Request, Submission};
pub use frame::{ErrorFrame, FinishReason, FrameHeader, Kind};
pub use geometry::{Geometry, GeometryError, LaneId};
pub use head::{RequestHead, ResponseHead};
