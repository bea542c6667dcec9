use proptest::prelude::*;
use ringmain_wire::Submission;

use super::*;
use crate::HeapMemory;

/// Positions where 32 and 64 bits end. The last ring of all positions is not used: the publish
/// word of position `u64::MAX` would be 0, and no session lives that long.
fn starts() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..50u64, (1u64 << 32) - 20..1 << 32, u64::MAX - 5000..u64::MAX - 4000]
}

fn geometry() -> Geometry {
    Geometry::new(2, 4096, 65536).unwrap()
}

proptest! {
    #[test]
    fn property_entries_come_back_in_order(
        start in starts(),
        bursts in prop::collection::vec(0usize..=8, 0..40),
    ) {
        let memory = HeapMemory::new(geometry().caller_bytes());
        let mut writer = SubmissionWriter::new_at(memory.clone(), geometry(), start);
        let mut reader = SubmissionReader::new_at(memory, geometry(), start);
        let mut position = start;
        for burst in bursts {
            for at in 0..burst as u64 {
                let target = ExchangeId(position + at * 7);
                let entry = Entry::cancel(geometry().lane(1).unwrap(), target);
                prop_assert_eq!(writer.push(entry), ExchangeId(position + at));
            }
            for at in 0..burst as u64 {
                prop_assert!(reader.is_ready());
                let (id, entry) = reader.next().unwrap();
                prop_assert_eq!(id, ExchangeId(position + at));
                let lane = geometry().lane(1).unwrap();
                let target = ExchangeId(position + at * 7);
                prop_assert_eq!(
                    Submission::parse(&entry, &geometry()),
                    Ok(Submission::Cancel { lane, target })
                );
            }
            position += burst as u64;
            prop_assert!(reader.next().is_none() && !reader.is_ready() && !reader.is_overrun());
        }
    }

    /// Whatever stands in the ring, at most one lap of entries comes out of it.
    #[test]
    fn property_garbage_ends(words in prop::collection::vec(any::<u64>(), 64), lap in any::<bool>()) {
        let memory = HeapMemory::new(geometry().caller_bytes());
        for (index, word) in words.iter().enumerate() {
            let at = geometry().entry_offset(0) + index * 8;
            let forged = lap && index.is_multiple_of(8);
            memory.store(at, if forged { index as u64 / 8 + 1 } else { *word });
        }
        let mut reader = SubmissionReader::new(memory, geometry());
        let mut taken = 0;
        while let Some((_, entry)) = reader.next() {
            taken += 1;
            let _ = Submission::parse(&entry, &geometry());
        }
        prop_assert!(taken <= geometry().entries());
        if lap {
            prop_assert_eq!(taken, geometry().entries());
        }
    }
}

#[test]
fn a_caller_that_skips_ahead_is_not_followed() {
    let memory = HeapMemory::new(geometry().caller_bytes());
    let mut reader = SubmissionReader::new(memory.clone(), geometry());
    let mut honest = SubmissionWriter::new(memory.clone(), geometry());
    let entry = Entry::ping(geometry().lane(0).unwrap());
    // One position is left out: the next one is not looked at.
    SubmissionWriter::new_at(memory.clone(), geometry(), 1).push(entry);
    assert!(reader.next().is_none() && !reader.is_overrun());
    // The caller laps the responder.
    for _ in 0..=geometry().entries() {
        honest.push(entry);
    }
    assert!(reader.next().is_none() && reader.is_overrun());
}
