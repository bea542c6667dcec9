//! The caller of a hostile session: now it keeps the protocol, now it writes what it likes.

use ringmain_ring::{HeapMemory, LaneReader, LoanReader, Memory, MemoryMut, SubmissionWriter};
use ringmain_wire::frame::MORE;
use ringmain_wire::{Entry, ExchangeId, Flags, Geometry, Kind, LaneId, Mode, RequestHead};

use super::input::Input;
use super::memory::Raced;
use super::responder::{Message, Responder};

pub struct Caller {
    geometry: Geometry,
    own: HeapMemory,
    seen: Raced,
    submissions: SubmissionWriter<HeapMemory>,
    lanes: Vec<Lane>,
    /// Position of the next entry.
    position: u64,
}

struct Lane {
    id: LaneId,
    reader: LaneReader<HeapMemory, HeapMemory>,
    loan: LoanReader<HeapMemory>,
    /// The cursor never held anything but what the reader published.
    is_honest: bool,
    /// The message that is being read, and how much of it has come.
    partly: Option<(Message, usize)>,
    buffer: Vec<u8>,
}

impl Caller {
    pub fn new(
        own: HeapMemory,
        responder: HeapMemory,
        seen: Raced,
        geometry: Geometry,
        start: u64,
    ) -> Caller {
        let lane = |id| Lane {
            id,
            reader: LaneReader::new_at(own.clone(), responder.clone(), geometry, id, start),
            loan: LoanReader::new(responder.clone(), geometry, id),
            is_honest: true,
            partly: None,
            buffer: Vec::new(),
        };
        let mut head = Vec::new();
        RequestHead::new("tiny", "/x").encode(&mut head).expect("a valid head");
        own.copy_in(geometry.arena_offset(), &head);
        Caller {
            geometry,
            submissions: SubmissionWriter::new_at(own.clone(), geometry, start),
            lanes: geometry.all_lanes().map(lane).collect(),
            position: start,
            own,
            seen,
        }
    }

    /// Publishes an entry as an honest caller would, except for what it asks.
    pub fn submit(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        let lane = self.lanes[usize::from(choice >> 6) % self.lanes.len()].id;
        let entry = match choice & 7 {
            0 => Entry::ping(lane),
            1 => Entry::cancel(lane, ExchangeId(self.position.wrapping_sub(1))),
            2 => Entry::cancel(lane, ExchangeId(input.near(&[self.position]))),
            3 => self.odd_entry(input),
            // A head of the length that stands at the start of the arena, and any body.
            4 => Entry::request(lane, Mode::Body, Flags::NONE, None, 0, 14, input.half().into()),
            _ => Entry::request(lane, Mode::Deltas, Flags::NONE, None, 0, 14, 2),
        };
        self.position = self.submissions.push(entry).0.wrapping_add(1);
    }

    /// Writes any word of the segment that the responder ever looks at.
    pub fn scribble(&mut self, input: &mut Input<'_>) {
        let (offset, value) = self.any_store(input);
        self.own.store(offset, value);
    }

    /// Plans the same for the middle of what the responder does next.
    pub fn race(&mut self, input: &mut Input<'_>) {
        let loads = u64::from(input.byte()) % 40 + 1;
        let (offset, value) = self.any_store(input);
        self.seen.plan(loads, offset, value);
    }

    /// Reads frames of a lane. As long as its cursor was honest they are what was sent.
    pub fn read(&mut self, index: usize, frames: usize, copied: bool, responder: &mut Responder) {
        for _ in 0..frames {
            if !self.read_one(index, copied, responder) {
                break;
            }
        }
        let _ = self.lanes[index].reader.take_ring();
        let _ = self.lanes[index].loan.returned();
    }

    /// After the session: every lane with an honest cursor is read to its end.
    pub fn read_rest(&mut self, responder: &mut Responder) {
        for index in 0..self.lanes.len() {
            while self.read_one(index, true, responder) {}
            let lane = &self.lanes[index];
            if lane.is_honest {
                assert_eq!(lane.partly, None, "a message without an end");
                assert_eq!(responder.take_sent(index), None, "a frame was lost");
            }
        }
    }

    fn odd_entry(&self, input: &mut Input<'_>) -> Entry {
        let arena_bytes = self.geometry.arena_bytes();
        let kinds = input.half();
        Entry {
            publish: 0,
            op: (kinds & 3) as u8,
            mode: (kinds >> 2 & 3) as u8,
            flags: kinds >> 4 & 31,
            lane: u32::from(kinds >> 9 & 3),
            deadline_ns: u64::from(kinds >> 12),
            offset: input.near(&[arena_bytes]) & !63 | u64::from(kinds >> 15),
            head_bytes: input.near(&[14, 16 * 1024]) as u32,
            body_bytes: input.near(&[arena_bytes, arena_bytes - 64]) as u32,
            target: self.position,
            reserved: [0; 2],
        }
    }

    fn any_store(&mut self, input: &mut Input<'_>) -> (usize, u64) {
        let choice = input.byte();
        let index = usize::from(choice >> 5) % self.lanes.len();
        let entry = self.geometry.entry_offset(self.position.wrapping_add(index as u64));
        let lane = &mut self.lanes[index];
        let cursor = self.geometry.cursor_offset(lane.id);
        let offset = match choice & 7 {
            0 => Geometry::CALLER_ARMED,
            1 | 2 => cursor,
            3 => entry,
            4 => entry + 8 * input.below(8),
            5 => self.geometry.entry_offset(0) + 8 * usize::from(input.byte()),
            _ => self.geometry.arena_offset() + 8 * input.below(8),
        };
        if offset == cursor {
            lane.is_honest = false;
        }
        let marks = [self.own.load(cursor), self.position, self.position.wrapping_add(1)];
        (offset, input.near(&marks))
    }

    fn read_one(&mut self, index: usize, copied: bool, responder: &mut Responder) -> bool {
        let lane = &mut self.lanes[index];
        let frame = match copied {
            true => lane.next_copied(),
            false => lane.next_borrowed(),
        };
        match frame {
            Ok(Some(frame)) if lane.is_honest => lane.check(&frame, || responder.take_sent(index)),
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(error) => {
                assert!(!lane.is_honest, "{error} on an honest lane");
                return false;
            }
        }
        true
    }
}

/// A frame without its payload, which lies in the lane's buffer.
struct Frame {
    exchange: ExchangeId,
    kind: Kind,
    choice: u16,
    more: bool,
}

impl Lane {
    fn next_copied(&mut self) -> Result<Option<Frame>, ringmain_ring::FrameError> {
        let header = self.reader.next_copied(&mut self.buffer)?;
        Ok(header.map(|header| Frame {
            exchange: ExchangeId(header.exchange),
            kind: Kind::from_number(header.kind).expect("the kind was judged"),
            choice: header.choice,
            more: header.flags & MORE != 0,
        }))
    }

    fn next_borrowed(&mut self) -> Result<Option<Frame>, ringmain_ring::FrameError> {
        let Some(frame) = self.reader.next()? else { return Ok(None) };
        self.buffer.clear();
        self.buffer.extend_from_slice(frame.payload);
        let (exchange, kind, choice, more) = (frame.exchange, frame.kind, frame.choice, frame.more);
        Ok(Some(Frame { exchange, kind, choice, more }))
    }

    /// Holds a frame against what the responder meant to send.
    fn check(&mut self, frame: &Frame, mut sent: impl FnMut() -> Option<Message>) {
        let Frame { exchange, kind, choice, more } = *frame;
        if kind.is_terminal() {
            // It may stand behind a message that has no end: nothing else may.
            self.partly = None;
        }
        let (message, read) =
            self.partly.take().unwrap_or_else(|| (sent().expect("a frame that was never sent"), 0));
        let expected = (message.exchange, message.kind, message.choice);
        assert_eq!((exchange, kind, choice), expected);
        let all = read + self.buffer.len();
        assert!((read..all).zip(&self.buffer).all(|(at, &byte)| byte == message.letter(at)));
        if more {
            assert!(all < message.bytes);
            self.partly = Some((message, all));
        } else {
            assert_eq!(all, message.bytes);
        }
    }
}
