//! Lanes against a plain queue, from every kind of start position, in all ways of reading, and
//! against a peer that writes what it likes.

use std::collections::VecDeque;

use proptest::prelude::*;
use ringmain_wire::frame::HEADER_BYTES;
use ringmain_wire::limits::TERMINAL_PAYLOAD_MAX;
use ringmain_wire::{Geometry, LaneId};

use super::*;
use crate::HeapMemory;
use crate::memory::{Memory, MemoryMut};

type Writer = LaneWriter<HeapMemory, HeapMemory>;
type Reader = LaneReader<HeapMemory, HeapMemory>;

struct World {
    geometry: Geometry,
    lane: LaneId,
    caller: HeapMemory,
    responder: HeapMemory,
    writer: Writer,
    reader: Reader,
}

/// How frames are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Borrowed,
    Copied,
    /// Short texts of the present exchange the short way, all else borrowed; the cursor is
    /// published whenever nothing is there.
    Texts,
}

fn ways() -> impl Strategy<Value = Way> {
    prop::sample::select(vec![Way::Borrowed, Way::Copied, Way::Texts])
}

impl World {
    fn new(start: u64) -> World {
        let geometry = Geometry::new(3, 4096, 65536).unwrap();
        let lane = geometry.lane(1).unwrap();
        let caller = HeapMemory::new(geometry.caller_bytes());
        let responder = HeapMemory::new(geometry.responder_bytes());
        let (c, r) = (caller.clone(), responder.clone());
        let reader = LaneReader::new_at(c.clone(), r.clone(), geometry, lane, start);
        let writer = LaneWriter::new_at(r, c, geometry, lane, start);
        World { geometry, lane, caller, responder, writer, reader }
    }

    fn open(start: u64) -> World {
        let mut world = World::new(start);
        world.writer.begin(ExchangeId(7)).unwrap();
        world
    }

    fn read(&mut self, way: Way, exchange: u64) -> Option<Frame> {
        if way == Way::Texts && self.reader.has_short_text(ExchangeId(exchange)) {
            let found = self.reader.take_short_text().unwrap();
            let payload = found.text.unwrap().as_bytes().to_vec();
            let (exchange, time_ns) = (found.exchange.0, found.time_ns);
            let (kind, more, choice) = (Kind::Delta, false, 0);
            return Some(Frame { exchange, kind, more, choice, time_ns, payload });
        }
        if way == Way::Copied {
            let mut payload = vec![9; 3];
            let header = self.reader.next_copied(&mut payload).unwrap()?;
            let kind = Kind::from_number(header.kind).unwrap();
            return Some(Frame {
                exchange: header.exchange,
                kind,
                more: header.flags == MORE,
                choice: header.choice,
                time_ns: header.time_ns,
                payload,
            });
        }
        let found = self.reader.next().unwrap().map(|frame| Frame {
            exchange: frame.exchange.0,
            kind: frame.kind,
            more: frame.more,
            choice: frame.choice,
            time_ns: frame.time_ns,
            payload: frame.payload.to_vec(),
        });
        if found.is_none() && way == Way::Texts {
            self.reader.settle();
        }
        found
    }

    fn fill(&mut self) -> usize {
        let mut frames = 0;
        while self.writer.push(Kind::Delta, 0, b"word", 0).unwrap() == Push::Written {
            frames += 1;
        }
        frames
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    exchange: u64,
    kind: Kind,
    more: bool,
    choice: u16,
    time_ns: u64,
    payload: Vec<u8>,
}

/// Where 32 and 64 bits end. Position `u64::MAX` itself is out of reach of any session.
fn starts() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        0..200u64,
        (1u64 << 32) - 300..(1 << 32) + 100,
        u64::MAX - 11_000..u64::MAX - 10_000
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Push(Kind, u16, usize),
    Finish(Kind, usize),
    Read(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = prop::sample::select(vec![Kind::Head, Kind::Body, Kind::Event, Kind::Usage]);
    let sizes = prop_oneof![4 => 0usize..100, 2 => 0usize..993, 1 => 900usize..5000];
    let texts = (prop_oneof![3 => Just(0u16), 1 => any::<u16>()], 0usize..50);
    let ends = prop::sample::select(vec![Kind::End, Kind::Error]);
    prop_oneof![
        6 => (kinds, any::<u16>(), sizes).prop_map(|(k, c, n)| Step::Push(k, c, n)),
        6 => texts.prop_map(|(c, n)| Step::Push(Kind::Delta, c, n)),
        1 => (ends, 0..=TERMINAL_PAYLOAD_MAX).prop_map(|(k, n)| Step::Finish(k, n)),
        5 => (0usize..12).prop_map(Step::Read),
    ]
}

proptest! {
    /// Whatever is written comes back, once, in order, and MORE puts the pieces together.
    #[test]
    fn property_it_is_a_queue(
        start in starts(),
        way in ways(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(start);
        let mut queue: VecDeque<Frame> = VecDeque::new();
        let mut exchange = 0u64;
        for (time_ns, step) in steps.into_iter().enumerate() {
            let time_ns = time_ns as u64;
            if world.writer.is_free().unwrap() {
                exchange += 1;
                world.writer.begin(ExchangeId(exchange)).unwrap();
            }
            match step {
                Step::Push(kind, choice, bytes) => {
                    let mask = if kind == Kind::Delta { 0x7f } else { 0xff };
                    let byte = |at| (at as u8 ^ time_ns as u8) & mask;
                    let payload: Vec<u8> = (0..bytes).map(byte).collect();
                    let max = world.geometry.frame_payload_max();
                    let taken = match world.writer.push(kind, choice, &payload, time_ns) {
                        Ok(Push::Written) => bytes,
                        Ok(Push::Partly(taken)) => taken,
                        Ok(Push::Full) => continue,
                        Err(error) => {
                            prop_assert_eq!(error, LaneError::Closed);
                            prop_assert!(world.writer.open().is_none());
                            continue;
                        }
                    };
                    prop_assert!(taken == bytes || (taken > 0 && taken % max == 0));
                    let mut at = 0;
                    loop {
                        let piece = (taken - at).min(max);
                        let payload = payload[at..at + piece].to_vec();
                        at += piece;
                        let more = at < bytes;
                        queue.push_back(Frame { exchange, kind, more, choice, time_ns, payload });
                        if at >= taken {
                            break;
                        }
                    }
                }
                Step::Finish(kind, bytes) => {
                    let payload = vec![time_ns as u8; bytes];
                    if world.writer.open().is_some() {
                        world.writer.finish(kind, &payload, time_ns).unwrap();
                        let (more, choice) = (false, 0);
                        queue.push_back(Frame { exchange, kind, more, choice, time_ns, payload });
                    }
                }
                Step::Read(frames) => {
                    for _ in 0..frames {
                        let read = world.read(way, exchange);
                        prop_assert_eq!(&read, &queue.pop_front());
                        if read.is_none() {
                            break;
                        }
                    }
                }
            }
        }
        while let Some(frame) = queue.pop_front() {
            prop_assert_eq!(world.read(way, exchange), Some(frame));
        }
        prop_assert_eq!(world.read(way, exchange), None);
        prop_assert!(world.writer.open().is_some() || world.writer.is_free().unwrap());
    }

    /// A full lane always takes the longest terminal frame, wherever it is full.
    #[test]
    fn property_a_terminal_always_has_room(
        start in starts(),
        sizes in prop::collection::vec(0usize..993, 1..90),
    ) {
        let mut world = World::open(start);
        let mut frames = 0;
        for bytes in sizes {
            frames += usize::from(
                world.writer.push(Kind::Body, 0, &vec![1; bytes], 0).unwrap() == Push::Written,
            );
        }
        world.writer.finish(Kind::Error, &[2; TERMINAL_PAYLOAD_MAX], 0).unwrap();
        for _ in 0..frames {
            prop_assert_eq!(world.read(Way::Borrowed, 7).unwrap().kind, Kind::Body);
        }
        let last = world.read(Way::Borrowed, 7).unwrap();
        prop_assert_eq!(last.payload, vec![2; TERMINAL_PAYLOAD_MAX]);
        world.reader.release();
        prop_assert!(world.writer.is_free().unwrap());
    }

    /// A writer that is told to park is rung by a consumer that reads everything, and has room
    /// then.
    #[test]
    fn property_a_starved_writer_is_rung(start in starts(), bytes in 0usize..993, way in ways()) {
        let mut world = World::open(start);
        let payload = vec![3; bytes];
        for _ in 0..20 {
            while world.writer.push(Kind::Body, 0, &payload, 0).unwrap() == Push::Written {}
            prop_assert!(world.writer.starve(ringmain_wire::frame::lines_of(bytes)).unwrap());
            let mut rung = false;
            while world.read(way, 7).is_some() {
                rung |= world.reader.take_ring();
            }
            rung |= world.reader.take_ring();
            prop_assert!(rung);
            prop_assert!(!world.writer.starve(ringmain_wire::frame::lines_of(bytes)).unwrap());
            prop_assert_eq!(world.writer.push(Kind::Body, 0, &payload, 0), Ok(Push::Written));
        }
    }

    /// A reader that settles before it sleeps leaves the whole lane free, and is asked for a ring by
    /// a writer that waits for what it gave.
    #[test]
    fn property_a_settled_reader_holds_no_lines(start in starts(), frames in 1usize..40) {
        let mut world = World::open(start);
        for _ in 0..frames {
            prop_assert_eq!(world.writer.push(Kind::Delta, 0, b"word", 0), Ok(Push::Written));
            prop_assert!(world.read(Way::Borrowed, 7).is_some());
        }
        prop_assert!(world.reader.next().unwrap().is_none());
        world.reader.settle();
        let _ = world.reader.take_ring();
        let cursor = world.caller.load(world.geometry.cursor_offset(world.lane));
        prop_assert_eq!(cursor, start + frames as u64);
    }

    /// A lane is filling from the frame on that leaves less than a quarter, until it is read.
    #[test]
    fn property_a_lane_says_in_time_that_it_fills(start in starts()) {
        let mut world = World::open(start);
        let lines = world.geometry.lane_lines();
        for written in 0..lines - 17 {
            prop_assert_eq!(world.writer.is_filling(), Ok(lines - written < lines / 4));
            prop_assert_eq!(world.writer.push(Kind::Delta, 0, b"word", 0), Ok(Push::Written));
        }
        while world.read(Way::Borrowed, 7).is_some() {}
        world.reader.settle();
        prop_assert_eq!(world.writer.is_filling(), Ok(false));
    }

    /// Text in pieces is text in every piece.
    #[test]
    fn property_text_is_split_between_characters(text in "[aß漢😀]{900,1600}") {
        let mut world = World::open(0);
        let (mut rest, mut read) = (text.as_bytes(), String::new());
        while !rest.is_empty() {
            match world.writer.push(Kind::Delta, 0, rest, 0).unwrap() {
                Push::Written => rest = &[],
                Push::Partly(bytes) => rest = &rest[bytes..],
                Push::Full => (),
            }
            while let Some(frame) = world.read(Way::Copied, 7) {
                read += &String::from_utf8(frame.payload).unwrap();
            }
        }
        prop_assert_eq!(read, text);
    }

    /// Garbage in the responder segment is an error or nothing, never a panic, and never a frame
    /// longer than a quarter.
    #[test]
    fn property_garbage_in_a_lane_is_an_error(
        start in starts(),
        way in ways(),
        words in prop::collection::vec((0usize..512, any::<u64>()), 0..200),
        header in any::<[u64; 3]>(),
        small in any::<bool>(),
    ) {
        let mut world = World::new(start);
        let offset = world.geometry.lane_offset(world.lane);
        for (index, word) in words {
            world.responder.store(offset + index * 8, word);
        }
        for line in 0..64 {
            let position = start + line;
            let at = offset + (position % 64) as usize * 64;
            let length = if small { header[1] % 2000 } else { header[1] };
            let kind = (header[0] % 12) << 32;
            world.responder.store(at, position + 1);
            world.responder.store(at + 16, if small { length | kind } else { header[2] });
        }
        world.responder.store(world.geometry.starved_offset(world.lane), header[2]);
        let mut buf = Vec::new();
        // Bound: positions go up, and no line of the next lap is published.
        for _ in 0..65 {
            let length = if way == Way::Texts && world.reader.has_short_text(ExchangeId(header[0])) {
                Ok(world.reader.take_short_text().map(|found| found.text.map_or(0, str::len)))
            } else if way == Way::Copied {
                world.reader.next_copied(&mut buf).map(|frame| frame.map(|_| buf.len()))
            } else {
                world.reader.next().map(|frame| frame.map(|frame| frame.payload.len()))
            };
            let _ = world.reader.take_ring();
            let Ok(Some(length)) = length else { return Ok(()) };
            prop_assert!(length <= world.geometry.frame_payload_max());
        }
        prop_assert!(false, "more frames than lines");
    }

    /// A cursor is believed only between the last one and what is written.
    #[test]
    fn property_a_lying_cursor_is_an_error(start in starts(), lie in any::<u64>(), near in -200i64..200) {
        for cursor in [lie, start.wrapping_add_signed(near)] {
            let mut world = World::open(start);
            let written = start + world.fill() as u64;
            world.caller.store(world.geometry.cursor_offset(world.lane), cursor);
            let honest = (start..=written).contains(&cursor);
            let verdict = world.writer.push(Kind::Delta, 0, b"word", 0);
            prop_assert_eq!(verdict.is_ok(), honest);
            prop_assert_eq!(world.writer.is_free().is_ok(), honest);
            prop_assert_eq!(world.writer.starve(1).is_ok(), honest);
            // The end needs no cursor.
            prop_assert_eq!(world.writer.finish(Kind::End, &[], 0), Ok(()));
        }
    }
}

#[test]
fn a_cursor_does_not_go_back() {
    let mut world = World::open(0);
    let frames = world.fill() as u64;
    let offset = world.geometry.cursor_offset(world.lane);
    world.caller.store(offset, frames);
    assert_eq!(world.writer.push(Kind::Delta, 0, b"word", 0), Ok(Push::Written));
    world.fill();
    world.caller.store(offset, frames - 1);
    let error = CursorError { cursor: frames - 1, last: frames, written: 2 * frames };
    assert_eq!(world.writer.starve(1), Err(error));
}

#[test]
fn a_lane_is_free_when_its_terminal_is_consumed() {
    let mut world = World::open(0);
    let busy = |written| LaneBusy { lane: 1, cursor: 0, written };
    assert_eq!(world.writer.begin(ExchangeId(8)), Err(busy(0)));
    assert!(world.writer.carries(ExchangeId(7)) && !world.writer.carries(ExchangeId(6)));
    world.writer.finish(Kind::End, b"", 0).unwrap();
    assert!(!world.writer.carries(ExchangeId(7)));
    assert_eq!(world.writer.begin(ExchangeId(8)), Err(busy(1)));
    assert_eq!(world.reader.next().unwrap().unwrap().kind, Kind::End);
    assert_eq!(world.writer.is_free(), Ok(false), "still borrowed");
    world.reader.release();
    assert_eq!(world.writer.is_free(), Ok(true));
    world.writer.begin(ExchangeId(8)).unwrap();
}

#[test]
fn the_cursor_is_published_by_quarters() {
    let mut world = World::open(0);
    world.fill();
    let offset = world.geometry.cursor_offset(world.lane);
    for read in 1..=40u64 {
        assert!(world.reader.next().unwrap().is_some());
        let released = read - 1;
        assert_eq!(world.caller.load(offset), released - released % 16, "after frame {read}");
    }
}

#[test]
fn misuse_is_named() {
    let mut world = World::new(0);
    assert_eq!(world.writer.push(Kind::Delta, 0, b"", 0), Err(LaneError::Closed));
    assert_eq!(world.writer.finish(Kind::End, b"", 0), Err(LaneError::Closed));
    world.writer.begin(ExchangeId(0)).unwrap();
    for kind in [Kind::End, Kind::Error, Kind::Skip] {
        assert_eq!(world.writer.push(kind, 0, b"", 0), Err(LaneError::Kind(kind)));
    }
    assert_eq!(world.writer.finish(Kind::Delta, b"", 0), Err(LaneError::Kind(Kind::Delta)));
    world.writer.finish(Kind::Error, &[1; 4096], 0).unwrap();
    assert_eq!(world.read(Way::Copied, 7).unwrap().payload.len(), TERMINAL_PAYLOAD_MAX);
}

#[test]
fn each_wrong_header_has_its_error() {
    let max = Geometry::new(1, 4096, 65536).unwrap().frame_payload_max() as u32;
    let cases = [
        (0, 0, Kind::Delta as u8, 2u8, FrameError::Flags(2)),
        (0, 0, 0, 0, FrameError::Kind(0)),
        (0, 0, 11, 0, FrameError::Kind(11)),
        (0, max + 1, Kind::Body as u8, 0, FrameError::Length { length: max + 1, line: 0 }),
        (0, u32::MAX, Kind::Body as u8, 0, FrameError::Length { length: u32::MAX, line: 0 }),
        (63, 33, Kind::Body as u8, 0, FrameError::Length { length: 33, line: 63 }),
        (62, 32, Kind::Skip as u8, 0, FrameError::Skip { length: 32, line: 62 }),
        (62, 95, Kind::Skip as u8, 0, FrameError::Skip { length: 95, line: 62 }),
        (0, 4064, Kind::Skip as u8, 0, FrameError::Skip { length: 4064, line: 0 }),
    ];
    for (line, length, kind, flags, error) in cases {
        let mut world = World::new(line);
        let at = world.geometry.lane_offset(world.lane) + line as usize * 64;
        let word = u64::from(length) | u64::from(kind) << 32 | u64::from(flags) << 40;
        world.responder.store(at + 16, word);
        world.responder.store(at, line + 1);
        assert_eq!(world.reader.next().map(|_| ()), Err(error));
        assert_eq!(world.reader.next_copied(&mut Vec::new()), Err(error), "an error stays");
        assert!(world.reader.is_ready());
        world.responder.store(at, 666);
        let stray = FrameError::Publish { word: 666, position: line };
        assert_eq!(world.reader.next().map(|_| ()), Err(stray));
    }
    assert_eq!(HEADER_BYTES, 32);
}
