//! Everything together: both sides asleep whenever they have nothing to do, a lane too short for
//! the answer; and two sessions in which the same two parties have swapped roles.

use ringmain_wire::{Entry, Geometry, Submission};

use super::*;
use crate::{Armed, Ring, SubmissionReader, SubmissionWriter};

const SIZES: Sizes = Sizes { lines: 4, quarter: 2, reserve: 0, terminal: 1 };
/// Frames of an answer, of two lines each but the last, which is END.
const LINES: [u64; 3] = [2, 2, 1];

fn geometry() -> Geometry {
    Geometry::new(2, 4096, 65536).unwrap()
}

fn frame(index: usize) -> (Kind, Vec<u8>) {
    let kind = if index + 1 == LINES.len() { Kind::End } else { Kind::Body };
    (kind, payload(LINES[index], index as u8 + 1))
}

/// Submits a request, then sleeps and reads until its end.
fn call(small: &Small, reading: Reading, own: &Doorbell, peer: &Doorbell) {
    let mut submissions = SubmissionWriter::new(small.caller.clone(), geometry());
    let mut armed = Armed::new(small.caller.clone(), 0);
    let ring = Ring::new(small.responder.clone(), 0);
    let mut reader = small.reader(0);
    let id = submissions.push(Entry::ping(geometry().lane(0).unwrap()));
    if ring.due() {
        peer.ring();
    }
    for index in 0..LINES.len() {
        let (kind, payload) = frame(index);
        loop {
            let got = read(&mut reader, reading, id.0, kind, &payload);
            if reader.take_ring() {
                peer.ring();
            }
            if got {
                break;
            }
            armed.park(|| reader.is_ready(), || own.sleep());
        }
    }
    reader.release();
}

/// Sleeps until a request comes and answers it, asleep while the lane is full.
fn answer(small: &Small, own: &Doorbell, peer: &Doorbell) {
    let mut submissions = SubmissionReader::new(small.caller.clone(), geometry());
    let mut armed = Armed::new(small.responder.clone(), 0);
    let ring = Ring::new(small.caller.clone(), 0);
    let mut writer = small.writer(0);
    let (id, entry) = loop {
        match submissions.next() {
            Some(taken) => break taken,
            None => _ = armed.park(|| submissions.is_ready(), || own.sleep()),
        }
    };
    assert!(matches!(Submission::parse(&entry, &geometry()), Ok(Submission::Ping { .. })));
    writer.begin(id).unwrap();
    for (index, lines) in LINES.into_iter().enumerate() {
        let (kind, payload) = frame(index);
        // In so small a lane the terminal waits for room like the others.
        while !writer.has_room(lines).unwrap() {
            if ring.due() {
                peer.ring();
            }
            if writer.starve(lines).unwrap() {
                own.sleep();
            }
        }
        assert!(write(&mut writer, kind, &payload));
    }
    if ring.due() {
        peer.ring();
    }
}

fn end_to_end(name: &str, floor: usize, reading: Reading) {
    check(name, floor, Some(4), move || {
        let small = Small::new(SIZES);
        let (bell, other) = (Doorbell::new(), Doorbell::new());
        let (far, far_bell, far_other) = (small.clone(), bell.clone(), other.clone());
        let call = move || call(&small, reading, &bell, &other);
        let answer = move || answer(&far, &far_other, &far_bell);
        run(vec![Box::new(call), Box::new(answer)]);
    });
}

#[test]
fn loom_end_to_end() {
    end_to_end("end to end, both asleep", 35_000, Reading::Borrowed);
}

#[test]
fn loom_end_to_end_copied() {
    end_to_end("end to end, copied", 40_000, Reading::Copied);
}

/// One party in two sessions: it calls in one and answers in the other, and has one bell for both.
struct Party {
    submissions: SubmissionWriter<LoomMemory>,
    reader: Reader,
    requests: SubmissionReader<LoomMemory>,
    writer: Writer,
    armed: [Armed<LoomMemory>; 2],
    rings: [Ring<LoomMemory>; 2],
    reading: Reading,
}

impl Party {
    fn new(calls: &Small, answers: &Small, reading: Reading) -> Party {
        Party {
            submissions: SubmissionWriter::new(calls.caller.clone(), geometry()),
            reader: calls.reader(0),
            requests: SubmissionReader::new(answers.caller.clone(), geometry()),
            writer: answers.writer(0),
            armed: [Armed::new(calls.caller.clone(), 0), Armed::new(answers.responder.clone(), 0)],
            rings: [Ring::new(calls.responder.clone(), 0), Ring::new(answers.caller.clone(), 0)],
            reading,
        }
    }

    /// Pings the other, answers the other's ping, and sleeps in between.
    fn play(mut self, own: &Doorbell, peer: &Doorbell) {
        self.submissions.push(Entry::ping(geometry().lane(0).unwrap()));
        self.ring_if_due(0, peer);
        let (mut called, mut answered) = (false, false);
        while !(called && answered) {
            let mut idle = true;
            if !called && read(&mut self.reader, self.reading, 0, Kind::End, b"pong") {
                (called, idle) = (true, false);
                self.reader.release();
            }
            if !answered && let Some((id, _)) = self.requests.next() {
                (answered, idle) = (true, false);
                self.writer.begin(id).unwrap();
                self.writer.finish(Kind::End, b"pong", 0).unwrap();
                self.ring_if_due(1, peer);
            }
            if idle {
                self.armed.iter_mut().for_each(Armed::arm);
                let ready = !called && self.reader.is_ready();
                if !ready && (answered || !self.requests.is_ready()) {
                    own.sleep();
                }
                self.armed.iter_mut().for_each(Armed::disarm);
            }
        }
    }

    fn ring_if_due(&self, session: usize, peer: &Doorbell) {
        if self.rings[session].due() {
            peer.ring();
        }
    }
}

#[test]
fn loom_role_swap() {
    check("role swap", 5_000, Some(3), || {
        let (one, two) = (Small::new(SIZES), Small::new(SIZES));
        let (bell, other) = (Doorbell::new(), Doorbell::new());
        let application = Party::new(&one, &two, Reading::Borrowed);
        let broker = Party::new(&two, &one, Reading::Copied);
        let (far_bell, far_other) = (bell.clone(), other.clone());
        let first = move || application.play(&bell, &other);
        let second = move || broker.play(&far_other, &far_bell);
        run(vec![Box::new(first), Box::new(second)]);
    });
}
