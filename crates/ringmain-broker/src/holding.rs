//! The memory of an answer that is read as a whole before it goes on: a long event, a plain answer
//! that is read for its meaning. It is charged to the uid of the caller while it grows.

use ringmain_wire::{Sent, Stage};

use crate::account::Charge;
use crate::failure::Failure;
use crate::intake::Copies;

/// What goes free. With the most exchanges of a uid it is as much as they may copy.
const FREE_BYTES: usize = 64 * 1024;

/// What one answer was charged for. It is given back with the answer: memory that was needed once
/// is kept for the next long event.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    bytes: usize,
    /// Bound: memory grows by doubling.
    charges: Vec<Charge>,
}

impl Holding {
    /// Charges for what is held by now.
    ///
    /// # Errors
    /// [`Failure`] with [`Code::QuotaExceeded`](ringmain_wire::Code::QuotaExceeded).
    pub fn grows_to(&mut self, bytes: usize, copies: &Copies) -> Result<(), Failure> {
        match bytes > FREE_BYTES && bytes > self.bytes {
            true => self.charge(bytes, copies),
            false => Ok(()),
        }
    }

    #[cold]
    fn charge(&mut self, bytes: usize, copies: &Copies) -> Result<(), Failure> {
        // A little that goes free each time is not to become much.
        let step = (bytes - self.bytes).max(FREE_BYTES);
        let charged = copies.charge(step as u64).map_err(|failure| Failure {
            stage: Stage::Relay,
            sent: Sent::Yes,
            ..failure
        });
        self.charges.extend(charged?);
        self.bytes += step;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ringmain_policy::{Quotas, Slot};
    use ringmain_wire::Code;

    use super::*;
    use crate::account::Ledger;

    #[test]
    fn what_grows_is_charged_once_and_given_back() {
        let ledger = Ledger::new(Quotas { copy_bytes: 1 << 20, ..Quotas::default() });
        let copies = Copies { ledger: ledger.clone(), uid: 7 };
        let mut holding = Holding::default();
        let held = || ledger.held(7, Slot::CopyBytes);
        holding.grows_to(FREE_BYTES, &copies).unwrap();
        assert_eq!(held(), 0);
        holding.grows_to(200_000, &copies).unwrap();
        holding.grows_to(100_000, &copies).unwrap();
        assert_eq!(held(), 200_000);
        holding.grows_to(200_001, &copies).unwrap();
        assert_eq!(held(), 200_000 + FREE_BYTES as u64);
        let refused = holding.grows_to(2 << 20, &copies).unwrap_err();
        assert_eq!((refused.code, refused.sent), (Code::QuotaExceeded, Sent::Yes));
        drop(holding);
        assert!(ledger.is_at_zero());
    }
}
