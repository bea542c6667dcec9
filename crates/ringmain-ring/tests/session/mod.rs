//! A hostile session, driven by bytes: its caller writes what it likes into the segment that it
//! shares with the responder, between the responder's steps and in the middle of them.
//!
//! Whatever it writes:
//! - nothing panics and no position overflows;
//! - the responder writes nowhere but in its own segment, in the lane that it has in hand, and
//!   reads nowhere outside the caller's;
//! - every exchange has exactly one terminal, published last;
//! - what was charged is back when the session has ended;
//! - a lane whose cursor was left alone carries its frames as if nothing had happened.

mod caller;
mod input;
mod memory;
mod responder;

use ringmain_ring::HeapMemory;
use ringmain_wire::limits::TERMINAL_PAYLOAD_MAX;
use ringmain_wire::{Geometry, Kind};

use self::caller::Caller;
use self::input::Input;
use self::memory::Raced;
use self::responder::{Responder, Stepped};

const LANES: u32 = 3;
/// Kinds that are no terminal.
const KINDS: [Kind; 4] = [Kind::Head, Kind::Delta, Kind::Event, Kind::Body];

/// Plays the session that `data` describes.
///
/// # Panics
/// When one of the promises is broken.
pub fn play(data: &[u8]) {
    let mut input = Input(data);
    let geometry = Geometry::new(LANES, 4096, 65_536).expect("possible sizes");
    let start = input.start();
    let own = HeapMemory::new(geometry.caller_bytes());
    let answers = HeapMemory::new(geometry.responder_bytes());
    let seen = Raced::new(own.clone());
    let mut caller = Caller::new(own, answers.clone(), seen.clone(), geometry, start);
    let mut responder = Responder::new(seen, answers, geometry, start);
    // Bound: every step takes a byte.
    while !input.is_empty() {
        if step(&mut input, &mut caller, &mut responder).is_err() {
            break;
        }
    }
    responder.end();
    caller.read_rest(&mut responder);
}

fn step(input: &mut Input<'_>, caller: &mut Caller, responder: &mut Responder) -> Stepped {
    let op = input.byte();
    let lane = usize::from(op >> 4) % LANES as usize;
    match op & 15 {
        0..=2 => caller.submit(input),
        3 => caller.scribble(input),
        4 => caller.race(input),
        5 | 6 => caller.read(lane, input.below(32), op & 64 == 0, responder),
        7 => responder.give_back(lane),
        8 => responder.finish(lane, Kind::End, input.below(TERMINAL_PAYLOAD_MAX + 1)),
        9 => responder.finish(lane, Kind::Error, TERMINAL_PAYLOAD_MAX),
        10 => {
            let bytes = usize::from(input.half()) % 5000;
            return responder.step(lane, KINDS[input.below(KINDS.len())], 1, bytes);
        }
        11 | 12 => {
            let (kind, bytes) = (KINDS[input.below(KINDS.len())], input.below(100));
            return responder.step(lane, kind, bytes as u16, bytes);
        }
        _ => return responder.turn(),
    }
    Ok(())
}
