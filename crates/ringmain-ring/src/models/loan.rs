//! A chunk is written again only when the very exchange it was lent to has given it back.
//!
//! The body is with whichever thread drops it last, after the exchange ended, as after a cancel:
//! no frame tells the caller anything. Loom fails the model when the chunk is written too early.

use loom::thread;
use ringmain_wire::Geometry;

use super::*;
use crate::memory::{Memory, MemoryMut};
use crate::mutant::Mutant;
use crate::{LoanReader, LoanWriter};

const REQUESTS: u64 = 3;
/// The chunk: a line of the caller segment that nothing else uses.
const CHUNK: usize = (CALLER_LINES - 1) * LINE_BYTES + 8;
/// Stands for the submission entry: the number of requests made.
const REQUESTED: usize = LINE_BYTES;

#[test]
fn loom_loan() {
    check("loan", 140_000, None, || {
        let geometry = Geometry::new(2, 4096, 65536).unwrap();
        let lane = geometry.lane(0).unwrap();
        let caller = LoomMemory::new(CALLER_LINES);
        let responder = LoomMemory::new(CONTROL_LINES);
        let loan = LoanReader::new(responder.clone(), geometry, lane);
        let memory = caller.clone();
        let lend = move || {
            for exchange in 0..REQUESTS {
                memory.store(CHUNK, 100 + exchange);
                memory.store_release(REQUESTED, exchange + 1);
                while !loan.is_back(ExchangeId(exchange)) {
                    thread::yield_now();
                }
            }
        };
        let give = LoanWriter::new(responder, geometry, lane);
        let use_body = move || {
            for exchange in 0..REQUESTS {
                while caller.load(REQUESTED) != exchange + 1 {
                    thread::yield_now();
                }
                LoomMemory::fence(Ordering::Acquire);
                let late = mutant::is(Mutant::EarlyReturn);
                if late {
                    give.give_back(ExchangeId(exchange));
                }
                assert_eq!(caller.load(CHUNK), 100 + exchange);
                if !late {
                    give.give_back(ExchangeId(exchange));
                }
            }
        };
        run(vec![Box::new(lend), Box::new(use_body)]);
    });
}
