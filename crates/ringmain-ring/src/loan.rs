//! The loan word: when a chunk of the arena may be written again.
//!
//! The body of a request is lent to the responder where it stands. The terminal frame does not
//! end the loan: the body may still be on its way out. The loan word of the lane names the last
//! exchange whose loan came back, and only then is the chunk used again; otherwise the next
//! prompt could leave on the connection of a cancelled one.

use std::sync::atomic::Ordering;

use ringmain_wire::{ExchangeId, Geometry, LaneId};

use crate::memory::{Memory, MemoryMut};
use crate::mutant::{self, Mutant};

/// The responder's side of a lane's loan word. `W` is the responder segment.
///
/// A lane is lent to one exchange at a time, so there is one give-back at a time, on whatever
/// thread dropped the body last.
#[derive(Clone, Debug)]
pub struct LoanWriter<W> {
    own: W,
    offset: usize,
}

/// The caller's side of a lane's loan word. `R` is the responder segment.
#[derive(Clone, Debug)]
pub struct LoanReader<R> {
    peer: R,
    offset: usize,
}

impl<W: MemoryMut> LoanWriter<W> {
    /// The loan word of a lane.
    pub fn new(own: W, geometry: Geometry, lane: LaneId) -> Self {
        LoanWriter { own, offset: geometry.loan_offset(lane) }
    }

    /// Gives the exchange's loan back: the body will not be read again. The caller may sleep, so
    /// [`Ring::due`](crate::Ring::due) follows.
    pub fn give_back(&self, exchange: ExchangeId) {
        // Pairs with: the Acquire fence in `LoanReader::returned`. All reads of the body come
        // before it.
        let word = exchange.0.wrapping_add(1);
        if mutant::is(Mutant::RelaxedLoan) {
            self.own.store(self.offset, word);
        } else {
            self.own.store_release(self.offset, word);
        }
    }
}

impl<R: Memory> LoanReader<R> {
    /// The loan word of a lane.
    pub fn new(peer: R, geometry: Geometry, lane: LaneId) -> Self {
        LoanReader { peer, offset: geometry.loan_offset(lane) }
    }

    /// The last exchange of the lane whose loan came back.
    pub fn returned(&self) -> Option<ExchangeId> {
        let word = self.peer.load(self.offset);
        // Pairs with: the Release store in `LoanWriter::give_back`.
        if !mutant::is(Mutant::NoLoanFence) {
            R::fence(Ordering::Acquire);
        }
        word.checked_sub(1).map(ExchangeId)
    }

    /// Whether the loan of this exchange, the last one of the lane, came back.
    pub fn is_back(&self, exchange: ExchangeId) -> bool {
        let returned = self.returned();
        if mutant::is(Mutant::AnyLoan) {
            return returned.is_some();
        }
        returned == Some(exchange)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::HeapMemory;

    #[test]
    fn only_the_exchange_that_was_given_back_is_back() {
        let geometry = Geometry::new(2, 4096, 65536).unwrap();
        let memory = HeapMemory::new(geometry.responder_bytes());
        let ends = |index| {
            let lane = geometry.lane(index).unwrap();
            let writer = LoanWriter::new(memory.clone(), geometry, lane);
            (writer, LoanReader::new(memory.clone(), geometry, lane))
        };
        let ((writer, reader), (_, other)) = (ends(0), ends(1));
        assert_eq!(reader.returned(), None);
        assert!(!reader.is_back(ExchangeId(0)));
        writer.give_back(ExchangeId(0));
        assert!(reader.is_back(ExchangeId(0)) && !reader.is_back(ExchangeId(4)));
        writer.give_back(ExchangeId(4));
        assert_eq!(reader.returned(), Some(ExchangeId(4)));
        assert_eq!(other.returned(), None);
    }
}
