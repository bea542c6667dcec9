//! Answers that a producer writes as it likes: frames in order and out of order, headers changed
//! and words overwritten behind them, read by copies and judged as the broker does. Bytes choose
//! what happens: those of a property test here, those of the fuzz target `producer_answer`.
//!
//! Whatever is written:
//! - nothing panics, and nothing is delivered behind the end;
//! - HEAD is first and once, USAGE once, each kind in its mode, a rest behind its beginning;
//! - text is UTF-8, a tool call can be read, an event is the sum of its pieces and bounded;
//! - an answer that kept the rules is delivered whole and nobody is accused.

use ringmain_ring::{HeapMemory, LaneReader, LaneWriter, Memory as _, MemoryMut as _, Push};
use ringmain_wire::frame::{EndFrame, FrameHeader, MORE, ToolFrame, Usage};
use ringmain_wire::{
    Code, ErrorFrame, ExchangeId, Geometry, Kind, LaneId, Mode, ResponseHead, Stage,
};

use super::judge::{Judge, Part};

/// Plays the answers that `data` describes, until one is refused.
///
/// # Panics
/// When one of the promises is broken.
pub fn play(data: &[u8]) {
    let mut input = Input(data);
    let mut play = Play::new(&mut input);
    // Bound: every step takes a byte.
    while !input.0.is_empty() {
        if play.step(&mut input).is_err() {
            return;
        }
    }
}

/// Longest piece: three frames of the lane.
const PIECE_BYTES_MAX: usize = 2048;
/// What the judge promises of an event in pieces.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// A lane of a producer, and both of its ends.
struct Play {
    geometry: Geometry,
    lane: LaneId,
    /// What the producer may write.
    memory: HeapMemory,
    writer: LaneWriter<HeapMemory, HeapMemory>,
    reader: LaneReader<HeapMemory, HeapMemory>,
    judge: Judge,
    exchange: ExchangeId,
    /// The payload that was read last.
    buf: Vec<u8>,
    said: Said,
    heard: Heard,
}

/// What the producer has written of the present answer.
#[derive(Default)]
struct Said {
    has_head: bool,
    has_usage: bool,
    content: Vec<u8>,
    /// It broke a rule, in this answer or an earlier one.
    is_odd: bool,
}

/// What was let through of it.
struct Heard {
    mode: Mode,
    has_head: bool,
    has_usage: bool,
    /// Kind and choice of a frame whose rest is due.
    open: Option<(Kind, u16)>,
    /// The pieces of an event or a tool call so far.
    pieces: Vec<u8>,
    content: Vec<u8>,
    is_over: bool,
}

/// The producer's session has ended.
struct Refused;

impl Play {
    fn new(input: &mut Input<'_>) -> Play {
        let geometry = Geometry::new(1, 4096, 65_536).expect("possible sizes");
        let lane = geometry.lane(0).expect("it has one lane");
        let (mode, start) = (input.mode(), input.start());
        let cursors = HeapMemory::new(geometry.caller_bytes());
        let memory = HeapMemory::new(geometry.responder_bytes());
        let reader = LaneReader::new_at(cursors.clone(), memory.clone(), geometry, lane, start);
        let writer = LaneWriter::new_at(memory.clone(), cursors, geometry, lane, start);
        let exchange = ExchangeId(start);
        let mut play = Play {
            geometry,
            lane,
            memory,
            writer,
            reader,
            judge: Judge::new(exchange, mode),
            exchange,
            buf: Vec::new(),
            said: Said::default(),
            heard: Heard::new(mode),
        };
        play.writer.begin(exchange).expect("a fresh lane is free");
        play
    }

    fn step(&mut self, input: &mut Input<'_>) -> Result<(), Refused> {
        let op = input.byte();
        match op & 15 {
            0 => self.head(),
            1..=4 => self.piece(input),
            5 => self.usage(),
            6 => self.finish(op >> 4, input),
            7 => self.odd_frame(op >> 4, input),
            8..=10 => self.retag(input),
            11 => self.scribble(input),
            _ => self.read(usize::from(op >> 4)).map(drop),
        }
    }

    // --- As the rules have it -------------------------------------------------------------------

    fn head(&mut self) -> Result<(), Refused> {
        if std::mem::replace(&mut self.said.has_head, true) {
            return Ok(());
        }
        let mut head = ResponseHead::default();
        (head.status, head.content_type) = (200, "text/event-stream");
        let mut payload = Vec::new();
        head.encode(&mut payload);
        self.push(Kind::Head, 0, &payload)
    }

    fn piece(&mut self, input: &mut Input<'_>) -> Result<(), Refused> {
        self.head()?;
        let (choice, bytes) = (input.byte(), usize::from(input.half()) % PIECE_BYTES_MAX);
        let (kind, payload) = match (self.heard.mode, choice & 3) {
            (Mode::Deltas, 0) => (Kind::Tool, tool(&"{".repeat(bytes))),
            (Mode::Deltas, 1) => (Kind::Reasoning, "ä".repeat(bytes / 2).into_bytes()),
            (Mode::Deltas, _) => (Kind::Delta, "漢".repeat(bytes / 3).into_bytes()),
            (Mode::Events, _) => (Kind::Event, vec![b'e'; bytes]),
            (Mode::Body, _) => (Kind::Body, vec![0xff; bytes]),
        };
        self.said.content.extend_from_slice(&payload);
        self.push(kind, u16::from(choice >> 2), &payload)
    }

    fn usage(&mut self) -> Result<(), Refused> {
        self.head()?;
        if std::mem::replace(&mut self.said.has_usage, true) {
            return Ok(());
        }
        let usage = Usage { output: 1, ..Usage::default() };
        self.push(Kind::Usage, 0, usage.as_bytes())
    }

    /// Writes the terminal frame, lets it be read, and begins the next answer.
    fn finish(&mut self, choice: u8, input: &mut Input<'_>) -> Result<(), Refused> {
        let mut payload = Vec::new();
        let kind = match choice & 1 {
            0 => {
                self.head()?;
                EndFrame::default().encode(&mut payload);
                Kind::End
            }
            _ => {
                ErrorFrame::new(Code::RateLimited, Stage::Relay, "no").encode(&mut payload);
                Kind::Error
            }
        };
        self.writer.finish(kind, &payload, 1).map_err(|_| Refused)?;
        self.read_all()?;
        let is_at_rest = self.heard.is_over && !self.reader.is_ready();
        if !self.said.is_odd {
            assert!(is_at_rest, "the end of an answer was lost");
            assert!(self.heard.content == self.said.content, "content was lost or changed");
        } else if !is_at_rest {
            return Err(Refused);
        }
        let mode = input.mode();
        self.exchange = ExchangeId(self.exchange.0.wrapping_add(1));
        self.writer.begin(self.exchange).map_err(|_| Refused)?;
        self.judge = Judge::new(self.exchange, mode);
        self.said = Said { is_odd: self.said.is_odd, ..Said::default() };
        self.heard = Heard::new(mode);
        Ok(())
    }

    /// Writes a frame, letting the lane be read when it is full.
    fn push(&mut self, kind: Kind, choice: u16, payload: &[u8]) -> Result<(), Refused> {
        let mut rest = payload;
        // Bound: every turn writes or reads something.
        loop {
            match self.writer.push(kind, choice, rest, 1).map_err(|_| Refused)? {
                Push::Written => return Ok(()),
                Push::Partly(taken) => rest = &rest[taken..],
                Push::Full if self.read_all()? > 0 => {}
                Push::Full => {
                    assert!(self.said.is_odd, "a full lane that cannot be read");
                    return Err(Refused);
                }
            }
        }
    }

    // --- And as they do not ---------------------------------------------------------------------

    /// A frame of any kind, with a payload of any bytes.
    fn odd_frame(&mut self, kind: u8, input: &mut Input<'_>) -> Result<(), Refused> {
        self.said.is_odd = true;
        let payload = input.bytes();
        match Kind::from_number(kind % 10 + 1) {
            Some(kind) if !kind.is_terminal() && kind != Kind::Skip => {
                self.push(kind, u16::from(payload.len() as u8 & 3), payload)
            }
            Some(kind) if kind.is_terminal() => {
                self.writer.finish(kind, payload, 1).map_err(|_| Refused)?;
                self.read_all()?;
                Err(Refused)
            }
            _ => Ok(()),
        }
    }

    /// Changes what a header says of its frame: kind, flags, choice or length.
    fn retag(&mut self, input: &mut Input<'_>) -> Result<(), Refused> {
        self.said.is_odd = true;
        let (line, what, value) = (input.byte(), input.byte(), input.byte());
        let offset = self.line_offset(line) + 16;
        let mut tag = self.memory.load(offset).to_ne_bytes();
        tag[usize::from(what) % 8] = value;
        self.memory.store(offset, u64::from_ne_bytes(tag));
        Ok(())
    }

    /// Writes any word of the lane.
    fn scribble(&mut self, input: &mut Input<'_>) -> Result<(), Refused> {
        self.said.is_odd = true;
        let (line, word, value) = (input.byte(), usize::from(input.byte()) % 8, input.byte());
        let offset = self.line_offset(line) + 8 * word;
        let value = match value {
            0..16 => u64::from(value),
            16..32 => u64::MAX - u64::from(value),
            _ => self.memory.load(offset).wrapping_add(u64::from(value)).wrapping_sub(128),
        };
        self.memory.store_release(offset, value);
        Ok(())
    }

    fn line_offset(&self, line: u8) -> usize {
        let lines = self.geometry.lane_lines() as usize;
        self.geometry.lane_offset(self.lane) + 64 * (usize::from(line) % lines)
    }

    // --- The broker's end -----------------------------------------------------------------------

    fn read_all(&mut self) -> Result<usize, Refused> {
        self.read(self.geometry.lane_lines() as usize)
    }

    /// Reads so many frames, fewer when there are no more; tells how many.
    fn read(&mut self, frames: usize) -> Result<usize, Refused> {
        for read in 0..frames {
            if self.heard.is_over {
                return Ok(read);
            }
            let Play { reader, judge, buf, heard, said, .. } = self;
            let header = reader.next_copied(buf).map_err(|error| {
                assert!(said.is_odd, "{error} in a lane that was written by the rules");
                Refused
            })?;
            let Some(header) = header else { return Ok(read) };
            let part = judge.take(&header, buf).map_err(|fault| {
                assert!(said.is_odd, "{fault} in an answer that kept the rules");
                Refused
            })?;
            heard.note(&header, buf, &part);
        }
        Ok(frames)
    }
}

impl Heard {
    fn new(mode: Mode) -> Heard {
        let (pieces, content) = (Vec::new(), Vec::new());
        let (has_head, has_usage, open, is_over) = (false, false, None, false);
        Heard { mode, has_head, has_usage, open, pieces, content, is_over }
    }

    /// Holds a frame that was let through against the rules.
    fn note(&mut self, header: &FrameHeader, frame: &[u8], part: &Part<'_>) {
        let has_more = header.flags & MORE != 0;
        if let Part::Error(_) = part {
            self.is_over = true;
            return;
        }
        let kind = Kind::from_number(header.kind).expect("a kind that was let through");
        if let Some(due) = self.open.take() {
            assert_eq!(due, (kind, header.choice), "the rest of a frame is due");
        }
        self.open = has_more.then_some((kind, header.choice));
        assert!(self.has_head || kind == Kind::Head, "{kind:?} before HEAD");
        match part {
            Part::Head(head) => self.head(head),
            Part::Begun => {
                assert!(matches!(kind, Kind::Event | Kind::Tool) && has_more);
                self.pieces.extend_from_slice(frame);
            }
            Part::Piece { kind: Kind::Usage, payload, .. } => {
                assert!(!std::mem::replace(&mut self.has_usage, true), "a second USAGE");
                Usage::parse(payload).expect("a usage that was let through");
            }
            Part::Piece { kind: told, choice, payload } => {
                assert_eq!((*told, *choice), (kind, header.choice));
                self.pieces.extend_from_slice(frame);
                self.piece(kind, payload);
            }
            Part::End(_) => self.is_over = true,
            Part::Error(_) => unreachable!("noted above"),
        }
    }

    fn head(&mut self, head: &ResponseHead<'_>) {
        assert!(!std::mem::replace(&mut self.has_head, true), "a second HEAD");
        let is_good = (200..300).contains(&head.status);
        let is_bad = (300..600).contains(&head.status) && self.mode != Mode::Deltas;
        assert!(is_good || is_bad, "status {}", head.status);
        let id = head.upstream_request_id.unwrap_or_default();
        let is_line = |text: &str| text.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        assert!(is_line(head.content_type) && is_line(id), "a header field of several lines");
    }

    fn piece(&mut self, kind: Kind, payload: &[u8]) {
        let fits = match self.mode {
            Mode::Deltas => matches!(kind, Kind::Delta | Kind::Reasoning | Kind::Tool),
            Mode::Events => kind == Kind::Event,
            Mode::Body => kind == Kind::Body,
        };
        assert!(fits, "{kind:?} in mode {:?}", self.mode);
        assert!(payload == self.pieces && payload.len() <= EVENT_BYTES_MAX, "not its pieces");
        self.pieces.clear();
        match kind {
            Kind::Delta | Kind::Reasoning => assert!(std::str::from_utf8(payload).is_ok()),
            Kind::Tool => assert!(ToolFrame::parse(payload).is_ok()),
            _ => {}
        }
        self.content.extend_from_slice(payload);
    }
}

/// Bytes that chose what happens, taken from the front. When none is left all numbers are 0.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// As many as the next byte says, of those that are left.
    fn bytes(&mut self) -> &'a [u8] {
        let count = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn mode(&mut self) -> Mode {
        [Mode::Deltas, Mode::Events, Mode::Body][usize::from(self.byte()) % 3]
    }

    /// Where positions begin: at 0, or a little before 32 and 64 bits end. No input is long
    /// enough to use up 2^17 lines.
    fn start(&mut self) -> u64 {
        let choice = self.byte();
        let line = u64::from(choice >> 2);
        [line, (1 << 32) - 40 + line, u64::MAX - (1 << 17) + line][usize::from(choice & 3) % 3]
    }
}

fn tool(arguments: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    ToolFrame { index: 1, id: "i", name: "n", arguments }.encode(&mut payload);
    payload
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn property_any_answer_is_judged_by_the_rules(
            data in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            super::play(&data);
        }

        #[test]
        fn property_an_answer_by_the_rules_is_delivered(
            steps in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 3, 5, 22, 6, 255]), 0..120),
            mode in 0u8..3,
            start in any::<u8>(),
        ) {
            super::play(&[&[mode, start], &steps[..]].concat());
        }
    }
}
