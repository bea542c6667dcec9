//! The submission ring: what the responder copies is what the caller wrote, also when the ring is
//! used a second time.

use loom::thread;
use ringmain_wire::{Entry, Geometry, Submission};

use super::*;
use crate::{SubmissionReader, SubmissionWriter};

#[test]
fn loom_submission() {
    check("submission", 700, None, || {
        let geometry = Geometry::new(1, 4096, 65536).unwrap();
        let lane = geometry.lane(0).unwrap();
        let memory = LoomMemory::new(CALLER_LINES);
        let mut writer = SubmissionWriter::new(memory.clone(), geometry);
        let mut reader = SubmissionReader::new(memory, geometry);
        let submit = move || {
            for target in 0..3 {
                writer.push(Entry::cancel(lane, ExchangeId(target)));
            }
        };
        let take = move || {
            for target in 0..3 {
                let (id, entry) = loop {
                    match reader.next() {
                        Some(taken) => break taken,
                        None => thread::yield_now(),
                    }
                };
                assert!(!reader.is_overrun());
                let target = ExchangeId(target);
                assert_eq!(id, target);
                let wanted = Submission::Cancel { lane, target };
                assert_eq!(Submission::parse(&entry, &geometry), Ok(wanted));
            }
        };
        run(vec![Box::new(submit), Box::new(take)]);
    });
}
