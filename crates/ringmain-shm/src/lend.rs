//! The one fenced type that lends peer-writable bytes: a request body on its way to a socket.
//!
//! A body that nobody interprets goes to the HTTP client from the peer's own arena, without a copy.
//! The client library wants a byte slice, and here is the only place of the project where one
//! stands over memory that a hostile process may change. Why that is sound enough:
//!
//! * The bytes only become the input of an opaque system call (`write`, `sendmsg`) or of a cipher.
//!   Both take any bytes; neither reads a byte twice in order to believe it.
//! * The length is fixed and checked here; the framing around the body was made from that length,
//!   not from the bytes. A peer that writes while its body leaves gets what it wrote, or a mix, in
//!   its own request and nowhere else.
//! * No decision depends on the bytes. Whoever needs one (JSON, a cache key, compression, a digest)
//!   works on a private copy.
//! * Every value of a byte is a valid `u8`, and the sealed size keeps the pages in place, so no
//!   access can fault. What remains is that the compiler may load a byte twice and see two values;
//!   the uses above do not compare.
//!
//! The returned handle must therefore go to the HTTP client alone.
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
