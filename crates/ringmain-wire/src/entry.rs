//! The 64-byte submission entry.
//!
//! ```text
//! word 0  publish word: position + 1, stored last with Release
//! word 1  op (8 bits) | mode (8) | flags (16) | lane (32)
//! word 2  deadline, ns of the broker's CLOCK_MONOTONIC; 0 = the broker's own limit
//! word 3  offset of the chunk in the arena, a multiple of 64
//! word 4  bytes of the head (32) | bytes of the body (32); the body begins on the next line
//! word 5  exchange id that a cancel names
//! word 6  0
//! word 7  0
//! ```
//! The position of an entry is the id of its exchange.

use bytemuck::{Pod, Zeroable};
use thiserror::Error;

use crate::geometry::{Geometry, LaneId};
use crate::limits::{HEAD_BYTES_MAX, LINE_BYTES};

/// A submission entry as it stands in the ring. Private until [`Submission::parse`] judged it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Entry {
    /// Position + 1 when published.
    pub publish: u64,
    /// 1 request, 2 cancel, 3 ping.
    pub op: u8,
    /// A [`Mode`] by number.
    pub mode: u8,
    /// [`Flags`] bits.
    pub flags: u16,
    /// Lane that the frames come back on.
    pub lane: u32,
    /// Absolute deadline, ns; 0 for none.
    pub deadline_ns: u64,
    /// Offset of the chunk in the arena.
    pub offset: u64,
    /// Bytes of the head.
    pub head_bytes: u32,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Exchange that a cancel names.
    pub target: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

const _: () = assert!(size_of::<Entry>() == LINE_BYTES);

/// Id of an exchange: the position of its entry in the submission ring of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);

/// What the frames of an answer carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Typed pieces: text, reasoning, tool calls, usage. No JSON for the consumer.
    #[default]
    Deltas = 1,
    /// Upstream events byte for byte.
    Events = 2,
    /// The bytes of the answer's body.
    Body = 3,
}

impl Mode {
    /// The mode with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Mode> {
        match number {
            1 => Some(Mode::Deltas),
            2 => Some(Mode::Events),
            3 => Some(Mode::Body),
            _ => None,
        }
    }
}

/// What the caller says about its request, a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// Nothing said.
    pub const NONE: Flags = Flags(0);
    /// Doing it twice does no harm: it may be retried after an ambiguous failure.
    pub const IDEMPOTENT: Flags = Flags(1);
    /// Doing it twice does harm, even where its API path would count as idempotent.
    pub const ONCE: Flags = Flags(1 << 1);
    /// Do not answer from a cache.
    pub const BYPASS_CACHE: Flags = Flags(1 << 2);
    /// The body already asks for usage, so the broker need not look.
    pub const USAGE_REQUESTED: Flags = Flags(1 << 3);
    const ALL: u16 = 0b1111;

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The set with these bits, if all of them are known.
    pub const fn from_bits(bits: u16) -> Option<Flags> {
        if bits & !Flags::ALL == 0 { Some(Flags(bits)) } else { None }
    }
}

/// A request whose entry was judged: its ranges lie in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Lane that the frames come back on.
    pub lane: LaneId,
    /// What the frames carry.
    pub mode: Mode,
    /// What the caller said.
    pub flags: Flags,
    /// Absolute deadline, ns of the broker's clock, before capping; `None`: not given.
    pub deadline_ns: Option<u64>,
    offset: u64,
    head_bytes: u32,
    body_bytes: u32,
}

impl Request {
    /// Byte offset of the head in the arena, a multiple of 64.
    pub fn head_offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the head, 1 to [`HEAD_BYTES_MAX`].
    pub fn head_bytes(&self) -> usize {
        self.head_bytes as usize
    }

    /// Byte offset of the body in the arena, a multiple of 64.
    pub fn body_offset(&self) -> u64 {
        self.offset + body_distance(self.head_bytes)
    }

    /// Bytes of the body.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes as usize
    }
}

/// An entry that was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Submission {
    /// Give up an exchange.
    Cancel {
        /// Lane that carries it.
        lane: LaneId,
        /// Its id; another than the lane's present one is ignored.
        target: ExchangeId,
    },
    /// Answer with END at once.
    Ping {
        /// Lane that the END comes back on.
        lane: LaneId,
    },
    /// Start an exchange.
    Request(Request),
}

/// Why an entry was refused. Each ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Bits that this version does not know.
    #[error("flags {0:#06x} are not known")]
    Flags(u16),
    /// The head is empty or too long.
    #[error("a head of {0} bytes, 1 to {HEAD_BYTES_MAX} are possible")]
    HeadBytes(u32),
    /// No such lane.
    #[error("lane {0} does not exist")]
    Lane(u32),
    /// No such delivery mode.
    #[error("delivery mode {0} does not exist")]
    Mode(u8),
    /// No such op.
    #[error("op {0} does not exist")]
    Op(u8),
    /// The chunk is not aligned or leaves the arena.
    #[error("a chunk at {offset} with {head_bytes} + {body_bytes} bytes does not lie in the arena")]
    Range {
        /// Offset given.
        offset: u64,
        /// Head bytes given.
        head_bytes: u32,
        /// Body bytes given.
        body_bytes: u32,
    },
    /// Reserved words are not zero.
    #[error("reserved words are not zero")]
    Reserved,
}

/// Bytes from the start of a chunk to its body: the head, padded to lines.
pub fn body_distance(head_bytes: u32) -> u64 {
    u64::from(head_bytes).next_multiple_of(LINE_BYTES as u64)
}

const OP_REQUEST: u8 = 1;
const OP_CANCEL: u8 = 2;
const OP_PING: u8 = 3;

impl Entry {
    /// The entry of a request; `publish` is left 0 for the ring to fill.
    pub fn request(
        lane: LaneId,
        mode: Mode,
        flags: Flags,
        deadline_ns: Option<u64>,
        offset: u64,
        head_bytes: u32,
        body_bytes: u32,
    ) -> Entry {
        Entry {
            op: OP_REQUEST,
            mode: mode as u8,
            flags: flags.bits(),
            lane: lane.number(),
            deadline_ns: deadline_ns.unwrap_or(0),
            offset,
            head_bytes,
            body_bytes,
            ..Entry::default()
        }
    }

    /// The entry of a cancel.
    pub fn cancel(lane: LaneId, target: ExchangeId) -> Entry {
        Entry { op: OP_CANCEL, lane: lane.number(), target: target.0, ..Entry::default() }
    }

    /// The entry of a ping.
    pub fn ping(lane: LaneId) -> Entry {
        Entry { op: OP_PING, lane: lane.number(), ..Entry::default() }
    }
}

impl Submission {
    /// Judges a private copy of an entry against the frozen geometry. The publish word is the
    /// ring's business and not looked at.
    ///
    /// # Errors
    /// [`EntryError`]; whatever the bytes are, nothing panics and nothing overflows.
    pub fn parse(entry: &Entry, geometry: &Geometry) -> Result<Submission, EntryError> {
        if entry.reserved != [0, 0] {
            return Err(EntryError::Reserved);
        }
        let lane = geometry.lane(entry.lane).ok_or(EntryError::Lane(entry.lane))?;
        match entry.op {
            OP_REQUEST => parse_request(entry, lane, geometry).map(Submission::Request),
            OP_CANCEL => Ok(Submission::Cancel { lane, target: ExchangeId(entry.target) }),
            OP_PING => Ok(Submission::Ping { lane }),
            op => Err(EntryError::Op(op)),
        }
    }
}

fn parse_request(entry: &Entry, lane: LaneId, geometry: &Geometry) -> Result<Request, EntryError> {
    let mode = Mode::from_number(entry.mode).ok_or(EntryError::Mode(entry.mode))?;
    let flags = Flags::from_bits(entry.flags).ok_or(EntryError::Flags(entry.flags))?;
    if entry.head_bytes == 0 || entry.head_bytes as usize > HEAD_BYTES_MAX {
        return Err(EntryError::HeadBytes(entry.head_bytes));
    }
    let Entry { offset, head_bytes, body_bytes, .. } = *entry;
    let end = offset
        .checked_add(body_distance(head_bytes))
        .and_then(|body| body.checked_add(u64::from(body_bytes)));
    let inside = end.is_some_and(|end| end <= geometry.arena_bytes());
    if !offset.is_multiple_of(LINE_BYTES as u64) || !inside {
        return Err(EntryError::Range { offset, head_bytes, body_bytes });
    }
    let deadline_ns = (entry.deadline_ns != 0).then_some(entry.deadline_ns);
    Ok(Request { lane, mode, flags, deadline_ns, offset, head_bytes, body_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry() -> Geometry {
        Geometry::new(4, 4096, 65536).unwrap()
    }

    #[test]
    fn a_request_comes_back() {
        let lane = geometry().lane(3).unwrap();
        let flags = Flags::IDEMPOTENT.with(Flags::USAGE_REQUESTED);
        let entry = Entry::request(lane, Mode::Events, flags, Some(7), 128, 65, 10);
        let Ok(Submission::Request(request)) = Submission::parse(&entry, &geometry()) else {
            panic!("refused")
        };
        assert_eq!((request.head_offset(), request.head_bytes()), (128, 65));
        assert_eq!((request.body_offset(), request.body_bytes()), (256, 10));
        assert_eq!(request.deadline_ns, Some(7));
        assert!(request.flags.has(Flags::USAGE_REQUESTED) && !request.flags.has(Flags::ONCE));
    }

    #[test]
    fn an_all_zero_entry_is_invalid() {
        let verdict = Submission::parse(&Entry::default(), &geometry());
        assert_eq!(verdict, Err(EntryError::Op(0)));
    }

    #[test]
    fn a_chunk_may_end_with_the_arena_and_not_one_byte_later() {
        let lane = geometry().lane(0).unwrap();
        let at = |bytes| Entry::request(lane, Mode::Body, Flags::NONE, None, 65536 - 128, 1, bytes);
        assert!(Submission::parse(&at(64), &geometry()).is_ok());
        assert!(matches!(
            Submission::parse(&at(65), &geometry()),
            Err(EntryError::Range { body_bytes: 65, .. })
        ));
    }

    proptest! {
        /// Whatever stands in the entry, a request that is accepted lies in the arena.
        #[test]
        fn property_accepted_ranges_lie_in_the_arena(words in any::<[u64; 8]>(), op in 0u8..5, small in any::<bool>()) {
            let mut entry: Entry = bytemuck::cast(words);
            entry.op = op;
            if small {
                entry.lane %= 5;
                entry.mode %= 4;
                entry.flags %= 32;
                entry.head_bytes %= 20_000;
                entry.offset = entry.offset % 70_000 / 64 * 64;
                entry.body_bytes %= 70_000;
                entry.reserved = [0, 0];
            }
            if let Ok(Submission::Request(request)) = Submission::parse(&entry, &geometry()) {
                let end = request.body_offset() + request.body_bytes() as u64;
                prop_assert!(end <= geometry().arena_bytes());
                prop_assert!(request.head_offset() + request.head_bytes() as u64 <= request.body_offset());
            }
        }
    }
}
