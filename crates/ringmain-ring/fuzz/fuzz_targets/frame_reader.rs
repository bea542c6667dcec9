//! Both ways of reading a lane over a responder segment that holds anything, and that changes
//! between two reads.
//!
//! The two ways tell the same story, which is that of a plain reading of the same memory. A frame
//! is at most a quarter of the lane, an error stays as long as the memory does, and nothing but
//! the reader's own cursor is written, which only goes forward.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmain_ring::{FrameError, HeapMemory, LaneReader, Memory, MemoryMut};
use ringmain_wire::frame::MORE;
use ringmain_wire::{Geometry, LaneId};

#[path = "../../tests/session/input.rs"]
mod input;
use input::Input;

type Reader = LaneReader<HeapMemory, HeapMemory>;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let start = input.start();
    let mut world = World::new(start);
    // Bound: every step takes a byte.
    while !input.is_empty() {
        let op = input.byte();
        match op & 3 {
            0 => world.scribble(&mut input),
            1 | 2 => world.put_header(op, &mut input),
            _ => world.read(usize::from(op >> 2)),
        }
    }
    world.read(LINES * 2);
    world.check_cursors();
});

const LINES: usize = 64;

struct World {
    geometry: Geometry,
    lane: LaneId,
    start: u64,
    responder: HeapMemory,
    borrowing: Reader,
    copying: Reader,
    cursors: [HeapMemory; 2],
    /// Where the header that is written next stands.
    position: u64,
    /// Where the plain reading stands.
    plain: u64,
    buffer: Vec<u8>,
}

impl World {
    fn new(start: u64) -> World {
        let geometry = Geometry::new(1, 4096, 65_536).expect("possible sizes");
        let lane = geometry.lane(0).expect("the first lane");
        let responder = HeapMemory::new(geometry.responder_bytes());
        // A reader writes one word of the caller segment, the last one of these.
        let cursors = [(); 2].map(|()| HeapMemory::new(geometry.cursor_offset(lane) + 8));
        let [borrowing, copying] = cursors
            .clone()
            .map(|own| LaneReader::new_at(own, responder.clone(), geometry, lane, start));
        let (position, plain, buffer) = (start, start, Vec::new());
        World {
            geometry,
            lane,
            start,
            responder,
            borrowing,
            copying,
            cursors,
            position,
            plain,
            buffer,
        }
    }

    /// Any word of the lane, or its starved word.
    fn scribble(&self, input: &mut Input<'_>) {
        let at = usize::from(input.half()) % (LINES * 8 + 1);
        let offset = match at.checked_sub(LINES * 8) {
            Some(_) => self.geometry.starved_offset(self.lane),
            None => self.geometry.lane_offset(self.lane) + at * 8,
        };
        self.responder.store(offset, input.near(&[self.position, self.position.wrapping_add(1)]));
    }

    /// A header at the next position, valid or nearly so.
    fn put_header(&mut self, op: u8, input: &mut Input<'_>) {
        let to_end = LINES - (self.position % LINES as u64) as usize;
        let length = match op >> 6 {
            0 => input.below(100),
            1 => to_end * 64 - 32,
            2 => usize::from(input.half()) % 1100,
            _ => input.near(&[960, 992]) as u32 as usize,
        };
        let kind = if op >> 6 == 1 { 10 } else { u64::from(op >> 2 & 15) };
        let flags = input.byte();
        let flags = if flags < 240 { u64::from(flags & MORE) } else { u64::from(flags) };
        let line = self.position % LINES as u64 * 64;
        let at = self.geometry.lane_offset(self.lane) + line as usize;
        self.responder.store(at + 8, u64::from(op));
        self.responder.store(at + 16, length as u64 | kind << 32 | flags << 40);
        self.responder.store(at, self.position.wrapping_add(1));
        self.position = self.position.wrapping_add((length as u64 + 32).div_ceil(64).min(64));
        let next = self.position % LINES as u64 * 64;
        self.responder.store(self.geometry.lane_offset(self.lane) + next as usize, 0);
    }

    fn read(&mut self, frames: usize) {
        let quarter = self.geometry.frame_payload_max();
        // Bound: `frames`; memory at rest holds no more than one frame per line.
        for frame in 0..frames {
            let before = self.cursors();
            let verdict = self.read_both(quarter);
            let Ok(true) = verdict else {
                self.stays(&verdict.map(|_| ()));
                break;
            };
            assert!(frame < LINES);
            let after = self.cursors();
            assert!(before[0] <= after[0] && before[1] <= after[1]);
        }
        let _ = (self.borrowing.take_ring(), self.copying.take_ring());
    }

    /// Whether there is a frame: both ways say the same and give the same.
    fn read_both(&mut self, quarter: usize) -> Result<bool, FrameError> {
        let plain = self.read_plainly();
        let borrowed = self.borrowing.next();
        let copied = self.copying.next_copied(&mut self.buffer);
        match (borrowed, copied) {
            (Ok(Some(frame)), Ok(Some(header))) => {
                assert_eq!(plain, Ok(Some((header.kind, header.length))));
                assert_eq!((frame.exchange.0, frame.choice), (header.exchange, header.choice));
                assert_eq!((frame.kind as u8, frame.more), (header.kind, header.flags == MORE));
                assert_eq!(frame.payload, self.buffer);
                assert!(frame.payload.len() <= quarter);
                Ok(true)
            }
            (Ok(None), Ok(None)) => {
                assert_eq!(plain, Ok(None));
                Ok(false)
            }
            (Err(borrowed), Err(copied)) => {
                assert_eq!((plain, borrowed), (Err(()), copied));
                Err(copied)
            }
            (borrowed, copied) => panic!("{borrowed:?} in place, {copied:?} as a copy"),
        }
    }

    /// Kind and bytes of the next frame, by the rules and nothing else.
    fn read_plainly(&mut self) -> Result<Option<(u8, u32)>, ()> {
        // Bound: a valid SKIP ends with the lane, and at its start none is short enough.
        loop {
            let line = self.plain % LINES as u64;
            let at = self.geometry.lane_offset(self.lane) + line as usize * 64;
            match self.responder.load(at) {
                0 => return Ok(None),
                word if word != self.plain + 1 => return Err(()),
                _ => {}
            }
            let tag = self.responder.load(at + 16);
            let (bytes, kind, flags) = (tag as u32, (tag >> 32) as u8, (tag >> 40) as u8);
            let lines = (u64::from(bytes) + 32).div_ceil(64);
            let is_exact = u64::from(bytes) + 32 == (LINES as u64 - line) * 64;
            let is_valid = (1..=10).contains(&kind)
                && flags <= MORE
                && lines <= LINES as u64 / 4
                && line + lines <= LINES as u64
                && (kind != 10 || is_exact);
            if !is_valid {
                return Err(());
            }
            self.plain += lines;
            if kind != 10 {
                return Ok(Some((kind, bytes)));
            }
        }
    }

    /// What ended the reading is still there.
    fn stays(&mut self, verdict: &Result<(), FrameError>) {
        assert_eq!(self.copying.is_ready(), verdict.is_err());
        assert_eq!(&self.copying.peek().map(|_| ()), verdict);
        assert_eq!(&self.borrowing.next().map(|_| ()), verdict);
    }

    /// Lines from the start, as published.
    fn cursors(&self) -> [u64; 2] {
        let cursor = self.geometry.cursor_offset(self.lane);
        self.cursors.each_ref().map(|own| own.load(cursor).wrapping_sub(self.start))
    }

    fn check_cursors(&self) {
        let cursor = self.geometry.cursor_offset(self.lane);
        for own in &self.cursors {
            let mut others = (0..cursor).step_by(8);
            assert!(others.all(|at| own.load(at) == 0), "a store beside the cursor");
        }
    }
}
