//! The armed word: nobody sleeps on what is ready. A lost wake-up is a deadlock to loom.

use ringmain_wire::Kind;

use super::*;
use crate::mutant::Mutant;
use crate::{Armed, Ring};

const SIZES: Sizes = Sizes { lines: 8, quarter: 2, reserve: 0, terminal: 1 };

/// Writers with `frames` frames each on a lane of its own, one bell for all of them.
fn armed(name: &str, floor: usize, preemptions: Option<usize>, writers: usize, frames: u8) {
    check(name, floor, preemptions, move || {
        let small = Small::new(SIZES);
        let bell = Doorbell::new();
        let ring = Arc::new(Ring::new(small.caller.clone(), 0));
        let mut parties: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        for lane in 0..writers {
            let (mut writer, ring, bell) = (small.writer(lane), ring.clone(), bell.clone());
            parties.push(Box::new(move || {
                writer.begin(ExchangeId(lane as u64)).unwrap();
                for mark in 1..=frames {
                    let kind = if mark == frames { Kind::End } else { Kind::Body };
                    assert!(write(&mut writer, kind, &[mark]));
                    if ring.due() {
                        bell.ring();
                    }
                }
            }));
        }
        parties.push(Box::new(move || sleep_and_read(&small, writers, frames, &bell)));
        run(parties);
    });
}

pub(super) fn sleep_and_read(small: &Small, writers: usize, frames: u8, bell: &Doorbell) {
    let mut armed = Armed::new(small.caller.clone(), 0);
    let mut readers: Vec<_> = (0..writers).map(|lane| (small.reader(lane), 1)).collect();
    while readers.iter().any(|(_, next)| *next <= frames) {
        let mut idle = true;
        for (lane, (reader, next)) in readers.iter_mut().enumerate() {
            let kind = if *next == frames { Kind::End } else { Kind::Body };
            if *next <= frames && read(reader, Reading::Borrowed, lane as u64, kind, &[*next]) {
                *next += 1;
                idle = false;
            }
        }
        if idle {
            let looked = if mutant::is(Mutant::OneLaneLook) { 1 } else { writers };
            armed.park(
                || readers[..looked].iter().any(|(reader, _)| reader.is_ready()),
                || bell.sleep(),
            );
        }
    }
}

#[test]
fn loom_armed_one_writer() {
    armed("armed, 1 writer", 100_000, None, 1, 2);
}

#[test]
fn loom_armed_two_writers() {
    armed("armed, 2 writers, 2 lanes, 1 bell", 100_000, Some(4), 2, 1);
}
