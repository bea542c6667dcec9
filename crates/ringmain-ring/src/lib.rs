//! Submission ring, lane, arena and doorbell protocol, generic over memory.
#![forbid(unsafe_code)]

mod arena;
mod bell;
mod cell;
mod lane;
mod loan;
mod memory;
mod mutant;
mod shape;
mod submission;

#[cfg(all(test, loom))]
mod models;

pub use arena::{Arena, Chunk};
pub use bell::{Armed, Ring};
pub use lane::{
    CursorError, FrameError, FrameRef, LaneBusy, LaneError, LaneReader, LaneWriter, Push,
};
pub use loan::{LoanReader, LoanWriter};
pub use memory::{HeapMemory, Lend, Memory, MemoryMut};
pub use submission::{SubmissionReader, SubmissionWriter};
