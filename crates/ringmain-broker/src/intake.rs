//! From a judged entry to a request: the head is copied once and the copy is judged; the body
//! stays where it lies until it is known whether anybody must look into it.

use std::sync::Arc;

use bytes::Bytes;
use ringmain_policy::Slot;
use ringmain_shm::{ReadMap, lend};
use ringmain_upstream::{UpstreamError, memory};
use ringmain_wire::limits::LINE_BYTES;
use ringmain_wire::{Code, Geometry, Request, RequestHead, Stage};

use crate::account::{Charge, Ledger};
use crate::failure::Failure;
use crate::loan::Loan;

/// Bodies up to this are copied: cheaper than an owner of their own. Copies up to this are not
/// charged: with the most exchanges of a uid they are a few megabytes.
const COPY_BYTES_MAX: usize = 1024;
/// Bytes of a body that are copied before others run.
const COPY_STEP: usize = 1 << 20;

/// Whom private copies are charged to, and what is made of them.
#[derive(Debug)]
pub(crate) struct Copies {
    pub ledger: Ledger,
    pub uid: u32,
}

/// A private copy and its charge, which go together.
struct Copied {
    bytes: Vec<u8>,
    _charge: Option<Charge>,
}

/// The charge of what a body was compressed or translated into.
struct Made(Option<Charge>);

/// The head of a request, copied out of the arena and not yet judged.
pub(crate) struct HeadCopy(Copied);

/// The body of a request.
pub(crate) enum Body {
    /// In the arena of its session, where its writer may still change it.
    Lent(Lent),
    /// In private memory, as another face than a session's took it.
    Own(Bytes),
}

/// A body in the arena of its session.
pub(crate) struct Lent {
    caller: ReadMap,
    offset: usize,
    bytes: usize,
    loan: Option<Arc<Loan>>,
}

/// What a request takes of the arena: its head and its body, each to the end of its last line.
pub(crate) fn chunk_bytes(request: &Request) -> u64 {
    let line = LINE_BYTES as u64;
    let body_bytes = (request.body_bytes() as u64).next_multiple_of(line);
    (request.head_bytes() as u64).next_multiple_of(line) + body_bytes
}

impl Copies {
    /// Charges memory that a request takes; what is small goes free.
    pub fn charge(&self, bytes: u64) -> Result<Option<Charge>, Failure> {
        if bytes <= COPY_BYTES_MAX as u64 {
            return Ok(None);
        }
        let charge = self.ledger.charge(self.uid, Slot::CopyBytes, bytes);
        charge.map(Some).map_err(|exceeded| Failure::quota(&exceeded))
    }

    fn copy(&self, bytes: usize) -> Result<Copied, Failure> {
        let charge = self.charge(bytes as u64)?;
        Ok(Copied { bytes: memory(bytes), _charge: charge })
    }
}

impl memory::Account for Copies {
    fn charge(&self, bytes: u64) -> Result<Box<dyn memory::Charge>, UpstreamError> {
        let made = Copies::charge(self, bytes).map(Made);
        made.map(|made| Box::new(made) as Box<dyn memory::Charge>).map_err(|failure| {
            UpstreamError::new(failure.code, failure.stage, failure.sent, failure.message)
        })
    }
}

impl memory::Charge for Made {
    fn shrink_to(&mut self, bytes: u64) {
        if let Some(charge) = &mut self.0 {
            charge.shrink_to(bytes);
        }
    }
}

impl AsRef<[u8]> for Copied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HeadCopy {
    pub fn of(
        caller: &ReadMap,
        geometry: &Geometry,
        request: &Request,
        copies: &Copies,
    ) -> Result<HeadCopy, Failure> {
        let mut copied = copies.copy(request.head_bytes())?;
        // Whole lines inside the arena, as the entry was judged against the frozen geometry.
        let offset = geometry.arena_offset() + request.head_offset() as usize;
        caller.copy_out(offset, &mut copied.bytes);
        Ok(HeadCopy(copied))
    }

    pub fn judge(&self) -> Result<RequestHead<'_>, Failure> {
        RequestHead::parse(&self.0.bytes)
            .map_err(|error| Failure::new(Code::InvalidHead, Stage::Intake, error.to_string()))
    }
}

/// Memory for a copy. What is large comes zeroed from the system; a small piece is at hand in the
/// allocator's cache, of which it gives none that has to be zeroed.
#[expect(clippy::slow_vector_initialization, reason = "it is the faster one where it is small")]
fn memory(bytes: usize) -> Vec<u8> {
    if bytes > COPY_BYTES_MAX {
        return vec![0; bytes];
    }
    let mut memory = Vec::with_capacity(bytes);
    memory.resize(bytes, 0);
    memory
}

impl Body {
    pub fn lent_by(
        caller: &ReadMap,
        geometry: &Geometry,
        request: &Request,
        loan: Option<Arc<Loan>>,
    ) -> Body {
        let offset = geometry.arena_offset() + request.body_offset() as usize;
        Body::Lent(Lent { caller: caller.clone(), offset, bytes: request.body_bytes(), loan })
    }

    pub fn len(&self) -> usize {
        match self {
            Body::Lent(lent) => lent.bytes,
            Body::Own(bytes) => bytes.len(),
        }
    }

    /// Bytes for the HTTP client alone. Those of an arena hold a share of the loan until the last
    /// clone is dropped.
    pub fn lent(&self) -> Bytes {
        match self {
            Body::Lent(lent) => lent.lend(),
            Body::Own(bytes) => bytes.clone(),
        }
    }

    /// A private copy, for whoever decides something by what it says; charged until its last clone
    /// is dropped. Others run between two steps of a large one.
    pub async fn copied(&self, copies: &Copies) -> Result<Bytes, Failure> {
        match self {
            Body::Lent(lent) => lent.copied(copies).await,
            Body::Own(bytes) => Ok(bytes.clone()),
        }
    }

    /// Copies a piece of the body into memory of our own, `out.len()` bytes from `at`, which is a
    /// multiple of 8.
    pub fn copy_piece(&self, at: usize, out: &mut [u8]) {
        match self {
            Body::Lent(lent) => lent.caller.copy_out(lent.offset + at, out),
            Body::Own(bytes) => out.copy_from_slice(&bytes[at..at + out.len()]),
        }
    }

    /// Lets go of the body: nothing will be sent from here again.
    pub fn release(&mut self) {
        match self {
            Body::Lent(lent) => {
                if let Some(loan) = lent.loan.take() {
                    loan.settle();
                }
            }
            Body::Own(bytes) => *bytes = Bytes::new(),
        }
    }
}

impl Lent {
    /// What lies in the arena may still be changed by its writer.
    fn lend(&self) -> Bytes {
        match self.bytes {
            0 => Bytes::new(),
            small if small <= COPY_BYTES_MAX => {
                let mut bytes = memory(small);
                self.caller.copy_out(self.offset, &mut bytes);
                Bytes::from(bytes)
            }
            bytes => lend(&self.caller, self.offset, bytes, self.loan.clone()),
        }
    }

    async fn copied(&self, copies: &Copies) -> Result<Bytes, Failure> {
        let mut copied = copies.copy(self.bytes)?;
        for (step, part) in copied.bytes.chunks_mut(COPY_STEP).enumerate() {
            if step > 0 {
                tokio::task::yield_now().await;
            }
            self.caller.copy_out(self.offset + step * COPY_STEP, part);
        }
        Ok(Bytes::from_owner(copied))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;

    use super::*;
    use ringmain_policy::Quotas;
    use ringmain_shm::{Compat, PeerSegment, WriteMap};
    use ringmain_wire::{Entry, Flags, Mode, Submission};

    fn arena(head: &[u8], body: &[u8]) -> (ReadMap, Geometry, Request) {
        let geometry = Geometry::new(1, 4096, 4 << 20).unwrap();
        let bytes = geometry.caller_bytes();
        let segment = PeerSegment::create("test", bytes, &Compat::default()).unwrap();
        let caller = WriteMap::attach(segment.fd, bytes).unwrap();
        let (lane, sizes) = (geometry.lane(0).unwrap(), (head.len() as u32, body.len() as u32));
        let entry = Entry::request(lane, Mode::Body, Flags::NONE, None, 640, sizes.0, sizes.1);
        let Ok(Submission::Request(request)) = Submission::parse(&entry, &geometry) else {
            panic!("refused")
        };
        caller.copy_in(geometry.arena_offset() + request.head_offset() as usize, head);
        caller.copy_in(geometry.arena_offset() + request.body_offset() as usize, body);
        (segment.map, geometry, request)
    }

    fn copies(copy_bytes: u64) -> Copies {
        let quotas = Quotas { copy_bytes, ..Quotas::default() };
        Copies { ledger: Ledger::new(quotas), uid: 7 }
    }

    #[test]
    fn the_copy_of_a_head_is_what_was_written() {
        let mut head = Vec::new();
        RequestHead::new("tiny", "/embeddings").encode(&mut head).unwrap();
        let (map, geometry, request) = arena(&head, b"");
        let copy = HeadCopy::of(&map, &geometry, &request, &copies(0)).unwrap();
        assert_eq!(copy.judge().unwrap().path, "/embeddings");
        let (map, geometry, request) = arena(b"no head", b"");
        let copy = HeadCopy::of(&map, &geometry, &request, &copies(0)).unwrap();
        assert_eq!(copy.judge().unwrap_err().code, Code::InvalidHead);
        let (map, geometry, request) = arena(&[b'x'; 1025], b"");
        let refused = HeadCopy::of(&map, &geometry, &request, &copies(1024)).err().unwrap();
        assert_eq!(refused.code, Code::QuotaExceeded);
    }

    #[test]
    fn a_chunk_is_counted_in_whole_lines() {
        for (head, body, bytes) in [(1, 0, 64), (64, 1, 128), (65, 64, 192), (128, 65, 256)] {
            let (_, _, request) = arena(&vec![b'h'; head], &vec![b'b'; body]);
            assert_eq!(chunk_bytes(&request), bytes, "{head} and {body}");
        }
    }

    /// A copy is charged for as long as anybody holds a piece of it.
    #[tokio::test]
    async fn copies_are_charged_until_their_last_clone_is_dropped() {
        let (map, geometry, request) = arena(b"h", &[b'x'; 3000]);
        let body = Body::lent_by(&map, &geometry, &request, None);
        let copies = copies(5999);
        let first = body.copied(&copies).await.unwrap();
        let piece = first.slice(2990..);
        drop(first);
        let refused = body.copied(&copies).await.unwrap_err();
        assert_eq!(refused.code, Code::QuotaExceeded);
        let text = "bytes of copied requests, the limit is 5999";
        assert!(refused.message.contains(text), "{}", refused.message);
        drop(piece);
        assert_eq!(body.copied(&copies).await.unwrap(), [b'x'; 3000][..]);
        assert!(copies.ledger.is_at_zero());
    }

    /// Every megabyte of a copy is a poll of its own.
    #[tokio::test]
    async fn others_run_while_a_large_body_is_copied() {
        let text: Vec<u8> = (0..5 * COPY_STEP / 2).map(|n| (n % 251) as u8).collect();
        let (map, geometry, request) = arena(b"h", &text);
        let body = Body::lent_by(&map, &geometry, &request, None);
        let copies = copies(1 << 30);
        let mut copy = pin!(body.copied(&copies));
        let mut polls = 0;
        let copied = poll_fn(|cx| {
            polls += 1;
            copy.as_mut().poll(cx)
        })
        .await;
        assert!(copied.unwrap() == text);
        assert_eq!(polls, 3);
    }

    /// What the HTTP client is given of an uninterpreted body are the bytes of the mapping.
    #[tokio::test]
    async fn zero_copy_a_lent_body_lies_in_the_segment() {
        let text: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let (map, geometry, request) = arena(b"h", &text);
        let body = Body::lent_by(&map, &geometry, &request, None);
        let (lent, copied) = (body.lent(), body.copied(&copies(1 << 20)).await.unwrap());
        assert!(lent == text && copied == text);
        let range = map.address_range();
        assert!(range.contains(&lent.as_ptr().addr()));
        assert!(range.contains(&(lent.as_ptr().addr() + lent.len() - 1)));
        assert!(!range.contains(&copied.as_ptr().addr()));
        assert!(range.contains(&lent.slice(5..).as_ptr().addr()), "pieces too");
    }

    #[test]
    fn small_bodies_are_cheaper_to_copy() {
        let (map, geometry, request) = arena(b"h", b"{}");
        let body = Body::lent_by(&map, &geometry, &request, None);
        assert_eq!(body.lent(), "{}");
        assert!(!map.address_range().contains(&body.lent().as_ptr().addr()));
        let (map, geometry, request) = arena(b"h", b"");
        assert!(Body::lent_by(&map, &geometry, &request, None).lent().is_empty());
    }
}
