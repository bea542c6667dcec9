//! The written bounds of the protocol. Every queue, record and text has one.

/// Version of everything in this crate. Two sides with different versions do not attach.
pub const ABI_VERSION: u32 = 1;

/// Bytes of one line: the unit in which lanes are counted, and the size of a submission entry.
pub const LINE_BYTES: usize = 64;
/// Bytes of one page; the arena and the lanes begin on a page.
pub const PAGE_BYTES: usize = 4096;
/// Distance that keeps two writers' words out of one prefetched pair of lines.
pub const SEPARATION_BYTES: usize = 128;

/// Lanes of a session unless the peer asks for another number.
pub const LANES_DEFAULT: u32 = 64;
/// Most lanes of a session.
pub const LANES_MAX: u32 = 1024;
/// Bytes of a lane unless the peer asks for another size: room for about 1,000 tokens, more
/// than a broker gathers before it rings, so that a burst neither fills the lane nor has to be
/// rung for by its consumer.
pub const LANE_BYTES_DEFAULT: u32 = 64 * 1024;
/// Least bytes of a lane: a quarter must hold a terminal frame.
pub const LANE_BYTES_MIN: u32 = 4 * 1024;
/// Most bytes of a lane.
pub const LANE_BYTES_MAX: u32 = 1024 * 1024;
/// Bytes of the arena unless the peer asks for another size.
pub const ARENA_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;
/// Least bytes of an arena.
pub const ARENA_BYTES_MIN: u64 = 64 * 1024;
/// Most bytes of an arena.
pub const ARENA_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Submission entries per lane: request k, cancel k, request k + 1, cancel k + 1. With these an
/// honest caller never overruns the ring and needs no consumed cursor.
pub const ENTRIES_PER_LANE: u32 = 4;
/// Most entries that a responder takes from one session before it yields.
pub const SUBMISSIONS_PER_TURN: usize = 64;

/// Lines of the longest terminal frame, header included.
pub const TERMINAL_LINES: u64 = 8;
/// Lines that every frame but a terminal one leaves unused (besides the one free line).
pub const RESERVE_LINES: u64 = 16;
/// Most payload bytes of a terminal frame.
pub const TERMINAL_PAYLOAD_MAX: usize = TERMINAL_LINES as usize * LINE_BYTES - 32;

/// Most bytes of a request head.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of a response head: it is one frame, so it must fit a quarter of the least lane.
pub const RESPONSE_HEAD_BYTES_MAX: usize = LANE_BYTES_MIN as usize / 4 - 32;
/// Most bytes of a route name.
pub const ROUTE_BYTES_MAX: usize = 256;
/// Most bytes of an API path.
pub const PATH_BYTES_MAX: usize = 512;
/// Most header fields in a head.
pub const HEADERS_MAX: usize = 32;
/// Most bytes of one header value.
pub const HEADER_VALUE_BYTES_MAX: usize = 4 * 1024;
/// Most bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Most bytes of one control datagram.
pub const CONTROL_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of the credential (a JWT) in a Hello.
pub const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;
/// Most descriptors in one control datagram.
pub const CONTROL_FDS_MAX: usize = 4;

/// Milliseconds within which a client turns a dead broker into a terminal error.
pub const BROKER_GONE_MS_MAX: u64 = 1000;
/// Most bytes that may be populated over both segments at attach.
pub const POPULATE_BYTES_MAX: usize = 48 * 1024;
/// A returned chunk above this many bytes is punched by its owner.
pub const PUNCH_CHUNK_BYTES: u64 = 1024 * 1024;
/// A difference between the two clocks above this becomes the session's fixed offset.
pub const CLOCK_OFFSET_NS_MIN: u64 = 1_000_000_000;
