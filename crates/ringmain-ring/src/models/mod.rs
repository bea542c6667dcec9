//! Model checks: loom walks through every interleaving of the protocol's own code.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p ringmain-ring --release loom`. Each model says how
//! many interleavings it went through and fails below a floor: a party that is not spawned is not
//! interleaved, and such a model is green whatever the code does. `mutants` breaks one rule of
//! the protocol after the other, each in a process of its own (a deadlock found by loom aborts),
//! and each must be seen.

mod bell;
mod cancel;
mod held;
mod lane;
mod loan;
mod mutants;
mod session;
mod starved;
mod submission;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::model::Builder;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use ringmain_wire::limits::LINE_BYTES;
use ringmain_wire::{ExchangeId, Kind};

use crate::memory::model::LoomMemory;
use crate::mutant;
use crate::shape::{LaneShape, payload_of};
use crate::{LaneReader, LaneWriter, Push};

type Writer = LaneWriter<LoomMemory, LoomMemory>;
type Reader = LaneReader<LoomMemory, LoomMemory>;

/// Walks through a model and asserts that there was something to walk through.
fn check(
    name: &str,
    floor: usize,
    preemptions: Option<usize>,
    model: impl Fn() + Sync + Send + 'static,
) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let count = count.load(Ordering::Relaxed);
    println!("loom {name}: {count} interleavings");
    // A mutant is judged by what it does, not by the number of ways it does it.
    if mutant::chosen().is_none() {
        assert!(count >= floor, "{name} went through {count} interleavings, {floor} expected");
    }
}

/// Runs the parties side by side, each in a thread of its own.
fn run(parties: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = parties.into_iter().map(thread::spawn).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A doorbell: a ring stays until the sleeper takes it.
#[derive(Clone)]
struct Doorbell(Arc<(Mutex<bool>, Condvar)>);

impl Doorbell {
    fn new() -> Doorbell {
        Doorbell(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn ring(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.0.0.lock().unwrap();
        while !*rung {
            rung = self.0.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// The two segments of a small session: control words as in the real layout of two lanes, lanes
/// of a few lines behind them.
#[derive(Clone)]
struct Small {
    caller: LoomMemory,
    responder: LoomMemory,
    shapes: [LaneShape; 2],
}

/// Sizes of a small lane, in lines.
#[derive(Clone, Copy)]
struct Sizes {
    lines: u64,
    quarter: u64,
    reserve: u64,
    terminal: u64,
}

const CONTROL_LINES: usize = 6;

impl Small {
    fn new(sizes: Sizes) -> Small {
        let shape = |lane: usize| LaneShape {
            cursor_offset: (2 + lane) * LINE_BYTES,
            starved_offset: (2 + 2 * lane) * LINE_BYTES,
            lane_offset: (CONTROL_LINES + lane * sizes.lines as usize) * LINE_BYTES,
            lines: sizes.lines,
            quarter: sizes.quarter,
            reserve: sizes.reserve,
            terminal: sizes.terminal,
        };
        let caller = LoomMemory::new(CALLER_LINES);
        let responder = LoomMemory::new(CONTROL_LINES + 2 * sizes.lines as usize);
        Small { caller, responder, shapes: [shape(0), shape(1)] }
    }

    fn writer(&self, lane: usize) -> Writer {
        let (own, peer) = (self.responder.clone(), self.caller.clone());
        LaneWriter::with_shape(own, peer, self.shapes[lane], lane as u32, 0)
    }

    fn reader(&self, lane: usize) -> Reader {
        let (own, peer) = (self.caller.clone(), self.responder.clone());
        LaneReader::with_shape(own, peer, self.shapes[lane], 0)
    }
}

/// Armed word, cursors, and eight entries; the real layout of a session with two lanes.
const CALLER_LINES: usize = 12;

/// How the caller reads.
#[derive(Clone, Copy)]
enum Reading {
    Borrowed,
    Copied,
    /// Short texts the short way, all else borrowed.
    Texts,
}

/// Reads one frame if there is one and checks that it is the one awaited.
fn read(reader: &mut Reader, reading: Reading, exchange: u64, kind: Kind, payload: &[u8]) -> bool {
    match reading {
        Reading::Texts if reader.has_short_text(ExchangeId(exchange)) => {
            let found = reader.take_short_text().unwrap();
            assert_eq!((found.exchange, Kind::Delta), (ExchangeId(exchange), kind));
            assert_eq!(found.text.unwrap().as_bytes(), payload);
            true
        }
        Reading::Borrowed | Reading::Texts => match reader.next().unwrap() {
            None => false,
            Some(frame) => {
                assert_eq!((frame.exchange, frame.kind), (ExchangeId(exchange), kind));
                assert_eq!(frame.payload, payload);
                true
            }
        },
        Reading::Copied => {
            let mut copy = Vec::new();
            match reader.next_copied(&mut copy).unwrap() {
                None => false,
                Some(header) => {
                    assert_eq!((header.exchange, header.kind), (exchange, kind as u8));
                    assert_eq!(copy, payload);
                    true
                }
            }
        }
    }
}

/// Writes one frame if there is room.
fn write(writer: &mut Writer, kind: Kind, payload: &[u8]) -> bool {
    if kind.is_terminal() {
        writer.finish(kind, payload, 0).unwrap();
        return true;
    }
    match writer.push(kind, 0, payload, 0).unwrap() {
        Push::Written => true,
        Push::Full => false,
        Push::Partly(bytes) => panic!("{bytes} bytes taken of a short payload"),
    }
}

/// A payload that fills `lines` lines and differs from frame to frame.
fn payload(lines: u64, mark: u8) -> Vec<u8> {
    vec![mark; payload_of(lines)]
}
