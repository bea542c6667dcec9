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
