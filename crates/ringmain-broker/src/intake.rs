//! From a judged entry to a request: the head is copied once and the copy is judged; the body
//! stays where it lies until it is known whether anybody must look into it.

use std::sync::Arc;

use bytes::Bytes;
use ringmain_shm::{ReadMap, lend};
use ringmain_wire::{Code, Geometry, Request, RequestHead, Stage};

use crate::failure::Failure;
use crate::loan::Loan;

/// Bodies up to this are copied: cheaper than an owner of their own.
const COPY_BYTES_MAX: usize = 1024;

/// The head of a request, copied out of the arena and not yet judged.
pub(crate) struct HeadCopy(Vec<u8>);

/// The body of a request, in the arena of its session.
pub(crate) struct Body {
    caller: ReadMap,
    offset: usize,
    bytes: usize,
    loan: Option<Arc<Loan>>,
}

impl HeadCopy {
    pub fn of(caller: &ReadMap, geometry: &Geometry, request: &Request) -> HeadCopy {
        let mut bytes = vec![0; request.head_bytes()];
        // Whole lines inside the arena, as the entry was judged against the frozen geometry.
        caller.copy_out(geometry.arena_offset() + request.head_offset() as usize, &mut bytes);
        HeadCopy(bytes)
    }

    pub fn judge(&self) -> Result<RequestHead<'_>, Failure> {
        RequestHead::parse(&self.0)
            .map_err(|error| Failure::new(Code::InvalidHead, Stage::Intake, error.to_string()))
    }
}

impl Body {
    pub fn of(
        caller: &ReadMap,
        geometry: &Geometry,
        request: &Request,
        loan: Option<Arc<Loan>>,
    ) -> Body {
        let offset = geometry.arena_offset() + request.body_offset() as usize;
        Body { caller: caller.clone(), offset, bytes: request.body_bytes(), loan }
    }

    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Bytes for the HTTP client alone: they lie in the arena, where the caller may still change
    /// them, and hold a share of the loan until the last clone is dropped.
    pub fn lent(&self) -> Bytes {
        match self.bytes {
            0 => Bytes::new(),
            small if small <= COPY_BYTES_MAX => self.copied(),
            bytes => lend(&self.caller, self.offset, bytes, self.loan.clone()),
        }
    }

    /// A private copy, for whoever decides something by what it says.
    pub fn copied(&self) -> Bytes {
        let mut bytes = vec![0; self.bytes];
        self.caller.copy_out(self.offset, &mut bytes);
        Bytes::from(bytes)
    }

    /// Lets go of the loan: nothing will be sent from here again.
    pub fn release(&mut self) {
        if let Some(loan) = self.loan.take() {
            loan.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmain_shm::{Compat, PeerSegment, WriteMap};
    use ringmain_wire::{Entry, Flags, Mode, Submission};

    fn arena(head: &[u8], body: &[u8]) -> (ReadMap, Geometry, Request) {
        let geometry = Geometry::new(1, 4096, 1 << 20).unwrap();
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

    #[test]
    fn the_copy_of_a_head_is_what_was_written() {
        let mut head = Vec::new();
        RequestHead::new("tiny", "/embeddings").encode(&mut head).unwrap();
        let (map, geometry, request) = arena(&head, b"");
        let copy = HeadCopy::of(&map, &geometry, &request);
        assert_eq!(copy.judge().unwrap().path, "/embeddings");
        let (map, geometry, request) = arena(b"no head", b"");
        let failure = HeadCopy::of(&map, &geometry, &request).judge().unwrap_err();
        assert_eq!(failure.code, Code::InvalidHead);
    }

    /// What the HTTP client is given of an uninterpreted body are the bytes of the mapping.
    #[test]
    fn zero_copy_a_lent_body_lies_in_the_segment() {
        let text: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let (map, geometry, request) = arena(b"h", &text);
        let body = Body::of(&map, &geometry, &request, None);
        let (lent, copied) = (body.lent(), body.copied());
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
        let body = Body::of(&map, &geometry, &request, None);
        assert_eq!(body.lent(), "{}");
        assert!(!map.address_range().contains(&body.lent().as_ptr().addr()));
        let (map, geometry, request) = arena(b"h", b"");
        assert!(Body::of(&map, &geometry, &request, None).lent().is_empty());
    }
}
