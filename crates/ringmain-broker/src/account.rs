//! Charges against the quotas of a uid, each a guard that gives back once.

use std::sync::Arc;

use parking_lot::Mutex;
use ringmain_policy::{QuotaExceeded, QuotaLedger, Quotas, Slot};

/// The ledger of all uids, shared by everything that charges.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(Arc<Mutex<QuotaLedger>>);

/// An amount that a uid holds until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    ledger: Ledger,
    uid: u32,
    slot: Slot,
    amount: u64,
}

impl Ledger {
    pub fn new(quotas: Quotas) -> Ledger {
        Ledger(Arc::new(Mutex::new(QuotaLedger::new(quotas))))
    }

    /// Counts a connection.
    pub fn connect(&self, uid: u32, now_ns: u64) -> Result<(), QuotaExceeded> {
        self.0.lock().connect(uid, now_ns)
    }

    /// Charges until the guard is dropped.
    pub fn charge(&self, uid: u32, slot: Slot, amount: u64) -> Result<Charge, QuotaExceeded> {
        self.0.lock().charge(uid, slot, amount)?;
        Ok(Charge { ledger: self.clone(), uid, slot, amount })
    }

    /// How much a uid holds.
    #[cfg(test)]
    pub fn held(&self, uid: u32, slot: Slot) -> u64 {
        self.0.lock().held(uid, slot)
    }

    /// Whether nobody holds anything.
    pub fn is_at_zero(&self) -> bool {
        self.0.lock().is_at_zero()
    }
}

impl Charge {
    /// Gives back what goes beyond this amount.
    pub fn shrink_to(&mut self, amount: u64) {
        let kept = self.amount.min(amount);
        self.ledger.0.lock().give_back(self.uid, self.slot, self.amount - kept);
        self.amount = kept;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.0.lock().give_back(self.uid, self.slot, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_guard_gives_back_once() {
        let ledger = Ledger::new(Quotas { exchanges: 2, ..Quotas::default() });
        let held = ledger.charge(1, Slot::Exchanges, 2).unwrap();
        assert!(ledger.charge(1, Slot::Exchanges, 1).is_err());
        drop(held);
        assert!(ledger.is_at_zero());
        let mut held = ledger.charge(1, Slot::Exchanges, 2).unwrap();
        held.shrink_to(3);
        assert_eq!(ledger.held(1, Slot::Exchanges), 2, "it never grows");
        held.shrink_to(1);
        assert_eq!(ledger.held(1, Slot::Exchanges), 1);
        drop(held);
        assert!(ledger.is_at_zero());
    }
}
