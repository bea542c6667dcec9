//! The one fenced type that lends peer-writable bytes: a request body on its way to a socket.
//!
//! A body that nobody interprets goes to the HTTP client from the peer's own arena, without a copy.
//! The client library wants a byte slice, and here is the only place of the project where one
//! stands over memory that a hostile process may change.
//!
//! # Why a changing byte can do no harm
//! The language knows writes of another process to plain memory no better than those of a device:
//! what it promises of a slice is used by the compiler in one way, namely that a byte may be loaded
//! early, late, or twice, and be taken for the same. Harm needs code that acts on one load and
//! relies on another: a length, an index, a branch that a check has opened. Of such there is none
//! behind this handle:
//!
//! 1. The bytes are copied (into a buffer of the client) or are the input of opaque code: a system
//!    call (`write`, `sendmsg`), or a cipher in assembly. These take any bytes, and what comes of
//!    them in memory has its place and length from elsewhere.
//! 2. The length is fixed and checked here; the framing around the body was made from that length,
//!    not from the bytes. A peer that writes while its body leaves gets what it wrote, or a mix, in
//!    its own request and nowhere else.
//! 3. No decision depends on the bytes. Whoever needs one (JSON, a cache key, compression, a
//!    digest) works on a private copy.
//! 4. Every value of a byte is a valid `u8`, no text is made of it, and the sealed size keeps the
//!    pages in place, so no access can fault.
//!
//! So the handle goes to the HTTP client alone. The first three are facts about its users, which no
//! type can carry (the client takes a `Bytes` like any other), so they are kept few: one function
//! of the broker calls [`lend`], and a test of the project fails when another does.
use bytes::Bytes;

use crate::map::ReadMap;

struct Lent<G> {
    map: ReadMap,
    offset: usize,
    len: usize,
    /// Tells the lender, by its own drop, that the last clone is gone.
    _guard: G,
}

impl<G> AsRef<[u8]> for Lent<G> {
    fn as_ref(&self) -> &[u8] {
        let start = self.map.checked_ptr(self.offset, self.len);
        // SAFETY: inside the mapping, which `self.map` keeps for as long as the slice lives, and
        // whose size is sealed. That the peer may write meanwhile is answered in the module docs.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }
}

/// Lends `len` bytes at `offset` to the HTTP client. The guard is dropped with the last clone, on
/// whatever thread that happens.
///
/// # Panics
/// When the range is not inside the segment.
#[must_use]
pub fn lend<G: Send + Sync + 'static>(map: &ReadMap, offset: usize, len: usize, guard: G) -> Bytes {
    Bytes::from_owner(Lent { map: map.clone(), offset, len, _guard: guard })
}
