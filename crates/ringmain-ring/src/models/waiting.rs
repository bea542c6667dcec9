//! Many tasks, one bell: each task of an exchange reads its own lane, and the task of the session
//! sleeps on the bell for all of them.
//!
//! The step that decides belongs to the broker's producer sessions, where it is woven into wakers,
//! locks and the end of a session, so it is not their code that is checked here but the same steps
//! in the same order over this crate's own lanes and bell: locks and bits where the broker has
//! them, a [`Doorbell`] for each waker and one for the descriptor that the session's task sleeps
//! on. What the model leaves out is the end of a session, given-up exchanges and lanes without
//! room.
//!
//! A task that finds nothing leaves its waker and its bit, arms the bell if nobody has, looks once
//! more, and parks, all under the lock of its lane. The session's task disarms when it wakes,
//! looks at every lane that has its bit set, and arms again only while such a bit is left.

use ringmain_wire::Kind;

use super::*;
use crate::cell::AtomicU64;
use crate::mutant::Mutant;
use crate::{Armed, Ring};

const SIZES: Sizes = Sizes { lines: 8, quarter: 2, reserve: 0, terminal: 1 };

/// What the tasks of a session share.
struct Room {
    lanes: [Mutex<Lane>; 2],
    /// One bit per lane that the session's task has to look at.
    watched: AtomicU64,
    armed: Mutex<BellWord>,
    /// What the session's task sleeps on.
    bell: Doorbell,
    /// Tasks that have frames to wait for.
    left: Mutex<usize>,
}

/// The reading end of a lane and the task that waits for it.
struct Lane {
    reader: Reader,
    waker: Option<Doorbell>,
}

/// The armed word, stored by whoever is the first to wait.
struct BellWord {
    word: Armed<LoomMemory>,
    is_armed: bool,
}

/// What the session's task found in a lane.
enum Look {
    /// Nobody waits.
    Idle,
    /// Somebody waits and nothing came.
    Silent,
    /// Something came: the task was woken.
    Woken,
}

impl Lane {
    fn look(&mut self) -> Look {
        if self.waker.is_none() {
            return Look::Idle;
        }
        if !self.reader.is_ready() {
            return Look::Silent;
        }
        if let Some(waker) = self.waker.take() {
            waker.ring();
        }
        Look::Woken
    }
}

impl Room {
    fn new(small: &Small) -> Room {
        let lane = |lane| Mutex::new(Lane { reader: small.reader(lane), waker: None });
        let word = Armed::new(small.caller.clone(), 0);
        Room {
            lanes: [lane(0), lane(1)],
            watched: AtomicU64::new(0),
            armed: Mutex::new(BellWord { word, is_armed: false }),
            bell: Doorbell::new(),
            left: Mutex::new(2),
        }
    }

    /// The task of an exchange: reads its frames, asleep while there is none.
    fn consume(&self, index: usize, frames: u8) {
        let waker = Doorbell::new();
        for mark in 1..=frames {
            // Bound: one turn per wake-up.
            while !self.poll_frame(index, mark, frames, &waker) {
                waker.sleep();
            }
        }
        let mut left = self.left.lock().unwrap();
        *left -= 1;
        // Only the last one to leave ends the session, so that this wakes nobody who still waits.
        if *left == 0 {
            self.bell.ring();
        }
    }

    /// Reads the next frame. False: there is none, and the waker will be rung.
    fn poll_frame(&self, index: usize, mark: u8, frames: u8, waker: &Doorbell) -> bool {
        let mut lane = self.lanes[index].lock().unwrap();
        // Bound: two turns, as a look that finds something is followed by its reading.
        loop {
            let kind = kind(mark, frames);
            if read(&mut lane.reader, Reading::Copied, index as u64, kind, &[mark]) {
                return true;
            }
            let late_waker = mutant::is(Mutant::LateRegistration);
            let late_arm = mutant::is(Mutant::ArmAfterLook);
            if !late_waker {
                self.register(index, &mut lane, waker);
            }
            if !late_arm {
                self.arm_once();
            }
            let is_ready = lane.reader.is_ready();
            if late_waker {
                self.register(index, &mut lane, waker);
            }
            if late_arm {
                self.arm_once();
            }
            if !is_ready {
                return false;
            }
            lane.waker = None;
        }
    }

    fn register(&self, index: usize, lane: &mut Lane, waker: &Doorbell) {
        lane.waker = Some(waker.clone());
        self.watched.fetch_or(1 << index, Ordering::SeqCst);
    }

    fn arm_once(&self) {
        let mut armed = self.armed.lock().unwrap();
        if !armed.is_armed {
            armed.word.arm();
            armed.is_armed = true;
        }
    }

    fn arm(&self) {
        let mut armed = self.armed.lock().unwrap();
        armed.word.arm();
        armed.is_armed = true;
    }

    fn disarm(&self) {
        let mut armed = self.armed.lock().unwrap();
        armed.word.disarm();
        armed.is_armed = false;
    }

    /// The session's task: sleeps on the bell for everybody who waits.
    fn serve(&self) {
        // Bound: one turn per ring and per frame found.
        while *self.left.lock().unwrap() > 0 {
            if self.look() {
                continue;
            }
            let mut is_ready = false;
            let is_watched = self.watched.load(Ordering::SeqCst) != 0;
            if is_watched && !mutant::is(Mutant::UnarmedWhileWatched) {
                self.arm();
                is_ready = !mutant::is(Mutant::NoLookOnceArmed) && self.look();
            }
            if !is_ready {
                self.bell.sleep();
            }
            self.disarm();
        }
    }

    /// Looks at every lane that somebody waits for; true if one of them had something.
    fn look(&self) -> bool {
        let mut found = false;
        let mut bits = self.watched.load(Ordering::SeqCst);
        // Bound: one turn per lane.
        while bits != 0 {
            let bit = bits & bits.wrapping_neg();
            bits &= !bit;
            let late = mutant::is(Mutant::BitClearedLate);
            if !late {
                self.watched.fetch_and(!bit, Ordering::SeqCst);
            }
            let look = self.lanes[bit.trailing_zeros() as usize].lock().unwrap().look();
            if late {
                self.watched.fetch_and(!bit, Ordering::SeqCst);
            }
            match look {
                Look::Idle => {}
                Look::Silent => _ = self.watched.fetch_or(bit, Ordering::SeqCst),
                Look::Woken => found = true,
            }
            if found && mutant::is(Mutant::OneLaneWoken) {
                self.watched.fetch_and(!bits, Ordering::SeqCst);
                break;
            }
        }
        found
    }
}

fn kind(mark: u8, frames: u8) -> Kind {
    if mark == frames { Kind::End } else { Kind::Body }
}

/// The producer: frames for both lanes in turn, a ring after each if one is due.
fn produce(mut writers: [Writer; 2], frames: [u8; 2], ring: &Ring<LoomMemory>, bell: &Doorbell) {
    for (lane, writer) in writers.iter_mut().enumerate() {
        writer.begin(ExchangeId(lane as u64)).unwrap();
    }
    for mark in 1..=frames[0].max(frames[1]) {
        for (writer, frames) in writers.iter_mut().zip(frames) {
            if mark <= frames {
                assert!(write(writer, kind(mark, frames), &[mark]));
                if ring.due() {
                    bell.ring();
                }
            }
        }
    }
}

/// Two tasks with `frames` to wait for, the session's task, and the producer.
fn waiting(name: &str, floor: usize, preemptions: usize, frames: [u8; 2]) {
    check(name, floor, Some(preemptions), move || {
        let small = Small::new(SIZES);
        let room = Arc::new(Room::new(&small));
        let mut parties: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        let (writers, bell) = ([small.writer(0), small.writer(1)], room.bell.clone());
        let ring = Ring::new(small.caller.clone(), 0);
        parties.push(Box::new(move || produce(writers, frames, &ring, &bell)));
        for (lane, frames) in frames.into_iter().enumerate() {
            let room = room.clone();
            parties.push(Box::new(move || room.consume(lane, frames)));
        }
        parties.push(Box::new(move || room.serve()));
        run(parties);
    });
}

#[test]
fn loom_waiting_one_frame_each() {
    waiting("waiting, 2 tasks, 1 bell", 20_000, 2, [1, 1]);
}

#[test]
fn loom_waiting_again() {
    waiting("waiting again, 2 tasks, 1 bell", 90_000, 2, [2, 1]);
}
