//! Submission ring, lane, arena and doorbell protocol, generic over memory.
//!
//! A session has two segments with one writer each. The **caller** writes the caller segment:
//! submission entries, the cursors of its lanes, its armed word, the arena. The **responder**
//! writes the responder segment: the lanes, their starved and loan words, its armed word. Who is
//! the caller and who the responder is a matter of which map is given to which end; an
//! application calls the broker, the broker calls a producer, and the code is the same.
//!
//! | end of the caller | end of the responder | what passes |
//! |---|---|---|
//! | [`SubmissionWriter`] | [`SubmissionReader`] | entries |
//! | [`LaneReader`] | [`LaneWriter`] | frames one way, the cursor the other |
//! | [`LoanReader`] | [`LoanWriter`] | "the body of exchange n is not needed any more" |
//! | [`Arena`] | | nothing: private bookkeeping |
//! | [`Armed`], [`Ring`] | [`Ring`], [`Armed`] | "wake me", and whether anyone has to |
//!
//! # The protocol
//!
//! Positions and exchange ids are `u64`, begin at 0, only grow and are never reset. Nothing that
//! a peer writes is used as an index, a length or a count before it was judged.
//!
//! 1. **Entry.** A position's entry belongs to the caller until its publish word is position + 1
//!    (Release), then to the responder, which copies it whole (publish word, Acquire fence, seven
//!    words, each once) and judges the copy. The caller uses the slot again a lap later. There is
//!    no cursor: with four entries per lane an honest caller never comes round too early.
//! 2. **Frame.** The lines from the cursor to what is written are the caller's to read; all others
//!    the responder's to write. A frame is published by its publish word, position + 1 (Release);
//!    the reader that finds it fences with Acquire and may then read the frame's lines.
//! 3. **Clear next.** Before a frame is published, the publish word of the line after it is set to
//!    0, because old payload stands there and may look like a header. A reader therefore finds 0
//!    or position + 1 and takes anything else for a broken lane. One line always stays free, or
//!    the word of an unread frame would be cleared.
//! 4. **Skip.** A frame never wraps. A SKIP fills the lap exactly, and clears line 0.
//! 5. **Room for the end.** A frame that is not terminal leaves the reserve and the free line
//!    unused. END and ERROR use the reserve, so they never wait and never look at a cursor.
//! 6. **Cursor.** The caller gives lines back by publishing its cursor (Release) when a quarter of
//!    the lane was consumed, and after a terminal frame: never before the borrow of the last of
//!    those lines ended. The responder reads it (Acquire fence) only when room seems short, and
//!    ends the session when it went back or lies beyond what was written.
//! 7. **Exchange.** A lane carries one exchange at a time, from [`LaneWriter::begin`] to
//!    [`LaneWriter::finish`]. It is free for the next one when the cursor has reached the end of
//!    the terminal frame. A cancel counts only if it names the exchange that is open.
//! 8. **Armed.** The sleeper stores an odd number never used before, fences (SeqCst), looks again
//!    at everything that its bell covers, sleeps, stores an even one. The other side publishes,
//!    fences (SeqCst), reads the number, and rings if it is odd and nobody of this process has
//!    rung for it. One of the two sees the other.
//! 9. **Starved.** The responder stores the cursor value that it needs, fences (SeqCst), reads the
//!    cursor again, and parks if it is not there. The caller, at each publication of its cursor,
//!    fences (SeqCst), reads that value, and rings if the cursor has just passed it, whatever the
//!    armed word says. Whoever wakes the parked task must know it before the value is stored.
//! 10. **Loan.** The chunk of a request belongs to the responder until the lane's loan word names
//!     that very exchange (Release), which may be before or after its terminal frame. Only then
//!     (Acquire fence) does the caller write the chunk again.
//!
//! Loom walks through the interleavings of this code itself, under `cfg(loom)`, and through each
//! of these rules broken: `RUSTFLAGS="--cfg loom" cargo test -p ringmain-ring --release loom`.
//!
//! # Example
//!
//! ```
//! use ringmain_ring::{HeapMemory, LaneReader, LaneWriter, Push};
//! use ringmain_wire::{ExchangeId, Geometry, Kind};
//!
//! let geometry = Geometry::new(1, 4096, 65536)?;
//! let caller = HeapMemory::new(geometry.caller_bytes());
//! let responder = HeapMemory::new(geometry.responder_bytes());
//! let lane = geometry.lane(0).expect("the geometry has one lane");
//! let mut writer = LaneWriter::new(responder.clone(), caller.clone(), geometry, lane);
//! let mut reader = LaneReader::new(caller, responder, geometry, lane);
//!
//! writer.begin(ExchangeId(0))?;
//! assert_eq!(writer.push(Kind::Delta, 0, b"hello", 0)?, Push::Written);
//! writer.finish(Kind::End, b"", 0)?;
//!
//! let frame = reader.next()?.expect("a frame was written");
//! assert_eq!((frame.kind, frame.payload), (Kind::Delta, &b"hello"[..]));
//! assert_eq!(reader.next()?.map(|frame| frame.kind), Some(Kind::End));
//! assert!(!writer.is_free()?);
//! reader.release();
//! assert!(writer.is_free()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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

#[cfg(test)]
#[cfg(loom)]
mod models;

pub use arena::{Arena, Chunk};
pub use bell::{Armed, Ring};
pub use lane::{
    CursorError, FrameError, FrameRef, LaneBusy, LaneError, LaneReader, LaneWriter, Peek, Push,
    TextRef,
};
pub use loan::{LoanReader, LoanWriter};
pub use memory::{HeapMemory, Lend, Memory, MemoryMut};
pub use submission::{SubmissionReader, SubmissionWriter};
