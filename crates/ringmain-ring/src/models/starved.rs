//! A writer without room parks and is rung by the cursor that it waits for.

use loom::thread;
use ringmain_wire::Kind;

use super::*;
use crate::mutant::Mutant;
use crate::{Armed, Ring};

const SIZES: Sizes = Sizes { lines: 4, quarter: 2, reserve: 0, terminal: 1 };
/// Payloads of one line each but the second, so that a target falls between two cursors.
const LINES: [u64; 4] = [1, 2, 1, 2];

fn frame(index: usize) -> (Kind, Vec<u8>) {
    let kind = if index + 1 == LINES.len() { Kind::Event } else { Kind::Body };
    (kind, payload(LINES[index], index as u8 + 1))
}

/// Reads all frames and rings the writer's bell when that is due. It never waits but yields.
fn read_all(mut reader: Reader, bell: &Doorbell) {
    for index in 0..LINES.len() {
        let (kind, payload) = frame(index);
        loop {
            let got = read(&mut reader, Reading::Borrowed, 0, kind, &payload);
            if reader.take_ring() {
                bell.ring();
            }
            if got {
                break;
            }
            thread::yield_now();
        }
    }
}

#[test]
fn loom_starved() {
    check("starved", 50_000, None, || {
        let small = Small::new(SIZES);
        let bell = Doorbell::new();
        let (mut writer, reader, rung) = (small.writer(0), small.reader(0), bell.clone());
        let write_all = move || {
            writer.begin(ExchangeId(0)).unwrap();
            for (index, lines) in LINES.into_iter().enumerate() {
                let (kind, payload) = frame(index);
                while !write(&mut writer, kind, &payload) {
                    if writer.starve(lines).unwrap() {
                        bell.sleep();
                    }
                }
            }
        };
        run(vec![Box::new(write_all), Box::new(move || read_all(reader, &rung))]);
    });
}

/// What a session keeps for its bell task: who waits for room, and whom to wake then.
#[derive(Clone)]
struct Waiting(Arc<Mutex<Option<Doorbell>>>);

/// Waits for the session's bell and wakes the writer that waits for room, until `done`.
fn bell_task(responder: LoomMemory, bell: &Doorbell, waiting: &Waiting, done: &Mutex<bool>) {
    let mut armed = Armed::new(responder, 0);
    // Bound: one turn per ring.
    while !*done.lock().unwrap() {
        let blind = mutant::is(Mutant::BellOmitsStarved);
        let waker = if blind { None } else { waiting.0.lock().unwrap().take() };
        if let Some(waker) = waker {
            waker.ring();
        }
        armed.park(|| *done.lock().unwrap(), || bell.sleep());
    }
}

#[test]
fn loom_starved_bell_task() {
    check("starved, through a bell task", 55_000, Some(2), || {
        let small = Small::new(SIZES);
        let (bell, own) = (Doorbell::new(), Doorbell::new());
        let waiting = Waiting(Arc::new(Mutex::new(None)));
        let done = Arc::new(Mutex::new(false));
        let (mut writer, reader) = (small.writer(0), small.reader(0));
        let (rung, registry, ended, ends) = (bell.clone(), waiting.clone(), done.clone(), done);
        let write_all = move || {
            writer.begin(ExchangeId(0)).unwrap();
            for (index, lines) in LINES.into_iter().enumerate() {
                let (kind, payload) = frame(index);
                while !write(&mut writer, kind, &payload) {
                    let late = mutant::is(Mutant::LateWaker);
                    if !late {
                        *waiting.0.lock().unwrap() = Some(own.clone());
                    }
                    let park = writer.starve(lines).unwrap();
                    if late {
                        *waiting.0.lock().unwrap() = Some(own.clone());
                    }
                    if park {
                        own.sleep();
                    }
                }
            }
        };
        let ring = Ring::new(small.responder.clone(), 0);
        let consume = move || {
            read_all(reader, &rung);
            *ended.lock().unwrap() = true;
            if ring.due() {
                rung.ring();
            }
        };
        let responder = small.responder.clone();
        let serve = move || bell_task(responder, &bell, &registry, &ends);
        run(vec![Box::new(write_all), Box::new(consume), Box::new(serve)]);
    });
}
