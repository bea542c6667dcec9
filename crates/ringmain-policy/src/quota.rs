//! What each uid holds of the broker, and how much it may hold.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use crate::rate::RateBucket;

/// How much one uid may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Sessions, attached or about to be.
    pub sessions: u64,
    /// Bytes of sparse segments, charged whole.
    pub segment_bytes: u64,
    /// Exchanges in flight.
    pub exchanges: u64,
    /// Bytes of private copies of what its requests in flight say.
    pub copy_bytes: u64,
    /// Connections to the control socket per second.
    pub connects_per_s: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Quotas {
            sessions: 1024,
            segment_bytes: 24 << 30,
            exchanges: 16_384,
            copy_bytes: 1 << 30,
            connects_per_s: 500,
        }
    }
}

/// What is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Slot {
    /// Connections per second.
    Connects,
    /// Bytes of private copies.
    CopyBytes,
    /// Exchanges in flight.
    Exchanges,
    /// Bytes of segments.
    SegmentBytes,
    /// Sessions.
    Sessions,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Slot::Connects => "connections per second",
            Slot::CopyBytes => "bytes of copied requests",
            Slot::Exchanges => "exchanges in flight",
            Slot::SegmentBytes => "segment bytes",
            Slot::Sessions => "sessions",
        })
    }
}

/// A charge that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("quota of uid {uid} exceeded: {slot}, the limit is {limit}")]
pub struct QuotaExceeded {
    /// Whose quota.
    pub uid: u32,
    /// What is used up.
    pub slot: Slot,
    /// How much there is.
    pub limit: u64,
}

/// The charges of all uids, as plain numbers. The one who charged gives back the same amount
/// exactly once; the broker does it by guards.
#[derive(Debug)]
pub struct QuotaLedger {
    quotas: Quotas,
    // A tree: few uids, looked up twice per exchange, and no hash to compute.
    rows: BTreeMap<u32, Row>,
}

#[derive(Debug)]
struct Row {
    held: [u64; HELD_SLOTS],
    connects: RateBucket,
}

const HELD_SLOTS: usize = 4;
/// Rows kept for uids that hold nothing, beyond which those at rest are removed.
const ROWS_KEPT: usize = 1024;

impl QuotaLedger {
    /// A ledger in which nobody holds anything.
    pub fn new(quotas: Quotas) -> QuotaLedger {
        QuotaLedger { quotas, rows: BTreeMap::new() }
    }

    /// Counts one connection against the rate of its uid.
    ///
    /// # Errors
    /// [`QuotaExceeded`] when it comes too early.
    pub fn connect(&mut self, uid: u32, now_ns: u64) -> Result<(), QuotaExceeded> {
        if self.rows.len() >= ROWS_KEPT && !self.rows.contains_key(&uid) {
            self.rows.retain(|_, row| !row.is_at_rest(now_ns));
        }
        let limit = u64::from(self.quotas.connects_per_s);
        match self.row(uid, now_ns).connects.take(now_ns) {
            true => Ok(()),
            false => Err(QuotaExceeded { uid, slot: Slot::Connects, limit }),
        }
    }

    /// Charges an amount of something that is held until [`QuotaLedger::give_back`].
    ///
    /// # Errors
    /// [`QuotaExceeded`]; nothing is charged then.
    pub fn charge(&mut self, uid: u32, slot: Slot, amount: u64) -> Result<(), QuotaExceeded> {
        let limit = self.limit(slot);
        let exceeded = QuotaExceeded { uid, slot, limit };
        let index = held_index(slot).ok_or(exceeded)?;
        let held = &mut self.row(uid, 0).held[index];
        let sum = held.checked_add(amount).filter(|sum| *sum <= limit).ok_or(exceeded)?;
        *held = sum;
        Ok(())
    }

    /// Gives back what was charged.
    pub fn give_back(&mut self, uid: u32, slot: Slot, amount: u64) {
        let (Some(index), Some(row)) = (held_index(slot), self.rows.get_mut(&uid)) else {
            return;
        };
        debug_assert!(row.held[index] >= amount, "{slot} of uid {uid} given back twice");
        row.held[index] = row.held[index].saturating_sub(amount);
    }

    /// How much a uid holds now.
    pub fn held(&self, uid: u32, slot: Slot) -> u64 {
        let row = self.rows.get(&uid);
        held_index(slot).zip(row).map_or(0, |(index, row)| row.held[index])
    }

    /// Whether nobody holds anything: what must be true after the last session.
    pub fn is_at_zero(&self) -> bool {
        self.rows.values().all(|row| row.held == [0; HELD_SLOTS])
    }

    fn limit(&self, slot: Slot) -> u64 {
        match slot {
            Slot::Connects => u64::from(self.quotas.connects_per_s),
            Slot::CopyBytes => self.quotas.copy_bytes,
            Slot::Exchanges => self.quotas.exchanges,
            Slot::SegmentBytes => self.quotas.segment_bytes,
            Slot::Sessions => self.quotas.sessions,
        }
    }

    fn row(&mut self, uid: u32, now_ns: u64) -> &mut Row {
        let per_s = self.quotas.connects_per_s;
        self.rows.entry(uid).or_insert_with(|| Row {
            held: [0; HELD_SLOTS],
            connects: RateBucket::new(per_s, now_ns),
        })
    }
}

impl Row {
    fn is_at_rest(&self, now_ns: u64) -> bool {
        self.held == [0; HELD_SLOTS] && self.connects.is_full(now_ns)
    }
}

fn held_index(slot: Slot) -> Option<usize> {
    match slot {
        Slot::Connects => None,
        Slot::Exchanges => Some(0),
        Slot::SegmentBytes => Some(1),
        Slot::Sessions => Some(2),
        Slot::CopyBytes => Some(3),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::clock::NS_PER_S;
    use proptest::prelude::*;

    const HELD: [Slot; HELD_SLOTS] =
        [Slot::Exchanges, Slot::SegmentBytes, Slot::Sessions, Slot::CopyBytes];

    #[derive(Clone, Debug)]
    enum Step {
        Charge(u32, usize, u64),
        GiveBack(usize),
        Connect(u32, u64),
    }

    /// Limits where numbers are small, and where 32 and 64 bits end.
    fn limits() -> impl Strategy<Value = u64> {
        let end_of_32 = u64::from(u32::MAX);
        prop_oneof![0u64..30, end_of_32 - 15..end_of_32 + 15, u64::MAX - 15..=u64::MAX]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let amounts = prop_oneof![4 => 0u64..8, 2 => limits()];
        let charge = (0u32..3, 0..HELD_SLOTS, amounts).prop_map(|(u, s, a)| Step::Charge(u, s, a));
        let pauses = prop_oneof![Just(0), 0u64..2 * NS_PER_S];
        let connect = (0u32..3, pauses).prop_map(|(u, p)| Step::Connect(u, p));
        let give_back = any::<usize>().prop_map(Step::GiveBack);
        prop::collection::vec(prop_oneof![3 => charge, 3 => give_back, 1 => connect], 0..200)
    }

    /// The plain model: the list of what is held, and the times of the connections that passed.
    #[derive(Default)]
    struct Model {
        held: Vec<(u32, Slot, u64)>,
        connects: HashMap<u32, Vec<u64>>,
    }

    impl Model {
        fn sum(&self, uid: u32, slot: Slot) -> u128 {
            let of_both = |charge: &&(u32, Slot, u64)| (charge.0, charge.1) == (uid, slot);
            self.held.iter().filter(of_both).map(|charge| u128::from(charge.2)).sum()
        }

        /// Whether a connection fits: in no time since any earlier one, itself included, come
        /// more than one second and that time carry.
        fn may_connect(&self, uid: u32, per_s: u32, now_ns: u64) -> bool {
            let passed = self.connects.get(&uid).map_or(&[][..], Vec::as_slice);
            let (per_s, second) = (u128::from(per_s), u128::from(NS_PER_S));
            let fits = |(index, &at_ns): (usize, &u64)| {
                let count = (passed.len() - index + 1) as u128;
                count * second <= per_s * (second + u128::from(now_ns - at_ns))
            };
            per_s > 0 && passed.iter().enumerate().all(fits)
        }
    }

    proptest! {
        /// A charge passes exactly when the sum of its uid and slot stays within the limit, a
        /// connection exactly when its rate allows it, and all that was held comes back to zero.
        #[test]
        fn property_the_ledger_is_the_list_of_charges(
            steps in steps(),
            limit in limits(),
            per_s in 0u32..6,
            mut now_ns in prop_oneof![Just(0), Just(u64::MAX - 400 * NS_PER_S)],
        ) {
            let quotas = Quotas {
                sessions: limit,
                segment_bytes: limit,
                exchanges: limit,
                copy_bytes: limit,
                connects_per_s: per_s,
            };
            let mut ledger = QuotaLedger::new(quotas);
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Charge(uid, slot, amount) => {
                        let slot = HELD[slot];
                        let fits = model.sum(uid, slot) + u128::from(amount) <= limit.into();
                        let verdict = ledger.charge(uid, slot, amount);
                        prop_assert_eq!(verdict.is_ok(), fits);
                        match verdict {
                            Ok(()) => model.held.push((uid, slot, amount)),
                            Err(e) => prop_assert_eq!(e, QuotaExceeded { uid, slot, limit }),
                        }
                    }
                    Step::GiveBack(at) if !model.held.is_empty() => {
                        let (uid, slot, amount) = model.held.swap_remove(at % model.held.len());
                        ledger.give_back(uid, slot, amount);
                    }
                    Step::GiveBack(_) => {}
                    Step::Connect(uid, pause_ns) => {
                        now_ns += pause_ns;
                        let fits = model.may_connect(uid, per_s, now_ns);
                        prop_assert_eq!(ledger.connect(uid, now_ns).is_ok(), fits);
                        if fits {
                            model.connects.entry(uid).or_default().push(now_ns);
                        }
                    }
                }
                for uid in 0..3 {
                    for slot in HELD {
                        prop_assert_eq!(u128::from(ledger.held(uid, slot)), model.sum(uid, slot));
                    }
                }
            }
            for (uid, slot, amount) in model.held {
                ledger.give_back(uid, slot, amount);
            }
            prop_assert!(ledger.is_at_zero());
        }
    }

    #[test]
    fn a_refusal_names_slot_and_limit() {
        let quotas = Quotas { sessions: 1, ..Quotas::default() };
        let mut ledger = QuotaLedger::new(quotas);
        assert!(ledger.charge(7, Slot::Sessions, 1).is_ok());
        let refused = ledger.charge(7, Slot::Sessions, 1).unwrap_err();
        assert_eq!(refused.to_string(), "quota of uid 7 exceeded: sessions, the limit is 1");
        assert!(ledger.charge(7, Slot::SegmentBytes, u64::MAX).is_err());
        assert!(ledger.charge(8, Slot::Sessions, 1).is_ok(), "another uid has its own");
    }

    #[test]
    fn connects_are_limited_per_uid_and_rows_at_rest_go() {
        let mut ledger = QuotaLedger::new(Quotas { connects_per_s: 1, ..Quotas::default() });
        assert!(ledger.connect(1, 0).is_ok());
        assert_eq!(ledger.connect(1, 0).unwrap_err().slot, Slot::Connects);
        assert!(ledger.connect(2, 0).is_ok());
        for uid in 0..5000 {
            let _ = ledger.connect(uid, 10_000_000_000 * u64::from(uid));
        }
        assert!(ledger.rows.len() <= ROWS_KEPT);
    }
}
