//! A cancel that races with the end of its exchange, and with the lane's next one; and the room
//! that the end of an exchange always has.

use loom::thread;
use ringmain_wire::{Entry, Geometry, Submission};

use super::*;
use crate::{SubmissionReader, SubmissionWriter};

const SIZES: Sizes = Sizes { lines: 8, quarter: 2, reserve: 0, terminal: 1 };

/// Pings a lane, cancels the ping at once, uses the lane again as soon as it is free, and cancels
/// the first ping once more.
fn call(small: &Small, geometry: Geometry) {
    let lane = geometry.lane(0).unwrap();
    let mut submissions = SubmissionWriter::new(small.caller.clone(), geometry);
    let mut reader = small.reader(0);
    let mut end_of = |id: ExchangeId| loop {
        if let Some(frame) = reader.next().unwrap() {
            assert_eq!(frame.exchange, id);
            let kind = frame.kind;
            reader.release();
            return kind;
        }
        thread::yield_now();
    };
    let first = submissions.push(Entry::ping(lane));
    submissions.push(Entry::cancel(lane, first));
    assert!(end_of(first).is_terminal());
    let second = submissions.push(Entry::ping(lane));
    submissions.push(Entry::cancel(lane, first));
    assert_eq!(end_of(second), Kind::End, "an exchange that nobody cancelled");
}

/// Takes four entries; ends an exchange when nothing is left to take, or on its cancel.
fn answer(small: &Small, geometry: Geometry) {
    let mut submissions = SubmissionReader::new(small.caller.clone(), geometry);
    let mut writer = small.writer(0);
    let mut taken = 0;
    while taken < 4 || writer.open().is_some() {
        let Some((id, entry)) = submissions.next() else {
            if writer.open().is_some() {
                writer.finish(Kind::End, &[], 0).unwrap();
            }
            thread::yield_now();
            continue;
        };
        taken += 1;
        match Submission::parse(&entry, &geometry).unwrap() {
            Submission::Cancel { target, .. } if writer.carries(target) => {
                writer.finish(Kind::Error, &[], 0).unwrap();
            }
            Submission::Ping { .. } => writer.begin(id).unwrap(),
            _ => (),
        }
    }
}

#[test]
fn loom_cancel_and_lane_reuse() {
    check("cancel against terminal and lane reuse", 65_000, None, || {
        let geometry = Geometry::new(2, 4096, 65536).unwrap();
        let small = Small::new(SIZES);
        let responder = small.clone();
        let call = move || call(&small, geometry);
        let answer = move || answer(&responder, geometry);
        run(vec![Box::new(call), Box::new(answer)]);
    });
}

/// A reserve as the real one: a terminal of two lines, a skip of one, the free line.
const RESERVED: Sizes = Sizes { lines: 8, quarter: 2, reserve: 3, terminal: 2 };

/// A writer that fills its lane and ends, without ever waiting for its reader.
#[test]
fn loom_terminal_reserve() {
    check("terminal reserve", 22_000, Some(4), || {
        let small = Small::new(RESERVED);
        let (mut writer, mut reader) = (small.writer(0), small.reader(0));
        let write_all = move || {
            writer.begin(ExchangeId(0)).unwrap();
            let mut mark = 1;
            // Bound: with nobody reading, the lane is full after 8 frames.
            while mark < 7 && write(&mut writer, Kind::Body, &[mark]) {
                mark += 1;
            }
            let mut last = payload(2, 7);
            last[0] = mark;
            writer.finish(Kind::End, &last, 0).unwrap();
        };
        let read_all = move || {
            let mut awaited = 1;
            loop {
                let Some(frame) = reader.next().unwrap() else {
                    thread::yield_now();
                    continue;
                };
                assert_eq!(frame.payload[0], awaited);
                if frame.kind == Kind::End {
                    assert_eq!(frame.payload[1..], payload(2, 7)[1..]);
                    return reader.release();
                }
                awaited += 1;
            }
        };
        run(vec![Box::new(write_all), Box::new(read_all)]);
    });
}
