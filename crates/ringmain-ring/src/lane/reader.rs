//! The caller's end of a lane.

use std::sync::atomic::Ordering;

use ringmain_wire::frame::{FrameHeader, MORE, lines_of};
use ringmain_wire::{ExchangeId, Geometry, Kind, LaneId};

use super::{
    FrameError, FrameRef, choice_of, flags_of, has_more, kind_of, length_of, pack, unpack,
};
use crate::memory::{Lend, Memory, MemoryMut};
use crate::mutant::{self, Mutant};
use crate::shape::{LaneShape, payload_of};

/// Reads the frames of one lane, exchange after exchange.
///
/// `W` is the caller segment, into which only this lane's cursor is written, `R` the responder
/// segment. Two ways of reading, with the same checks:
/// - [`next`](Self::next) borrows the payload where it stands, for a caller that trusts its
///   responder not to touch it;
/// - [`next_copied`](Self::next_copied) takes a private copy by words, for a caller that does not.
///
/// The cursor is published when a quarter of the lane is consumed and after a terminal frame.
/// After each call [`take_ring`](Self::take_ring) tells whether the responder waits for it.
#[derive(Debug)]
pub struct LaneReader<W, R> {
    own: W,
    peer: R,
    shape: LaneShape,
    /// Line of the next frame. Everything before it is consumed, except the frame on loan.
    position: u64,
    /// Cursor as published.
    published: u64,
    /// The frame handed out last was a terminal one, whose lines are not published yet.
    terminal: bool,
    ring: bool,
    /// The frame at `position`, once it was found and judged: its header is read only once.
    found: Option<Found>,
    /// Frames found since none was there.
    run: u32,
    /// Stays empty where the memory lends in place.
    scratch: Vec<u8>,
}

/// Lines that are fetched ahead of the frame that is read, while frames stand there: the line of a
/// frame was written by another CPU and costs a transfer of some 100 ns when it is waited for.
const AHEAD_LINES: u64 = 8;
/// Frames found in a row before lines are fetched ahead. A line fetched before it is written costs
/// its writer a transfer more.
const AHEAD_RUN: u32 = 4;

/// Longest text that stands in one line with its header.
const SHORT_TEXT_BYTES: u64 = payload_of(1) as u64;
/// Word 2 of the header of a whole text of the first choice, but for its length.
const TEXT_TAG: u64 = pack(0, Kind::Delta, 0, 0);

/// A private copy of a header, judged.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Where it stands, in the responder segment.
    at: usize,
    exchange: u64,
    tag: u64,
    time_ns: u64,
    kind: Kind,
    lines: u64,
}

/// What a header says that was looked at and stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// What the frame is; never SKIP.
    pub kind: Kind,
    /// Whether the payload goes on in the next frame.
    pub more: bool,
    /// Choice that the payload belongs to.
    pub choice: u16,
}

/// One frame whose payload is text, borrowed where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRef<'a> {
    /// Exchange that it belongs to.
    pub exchange: ExchangeId,
    /// When it was published, on the broker's clock.
    pub time_ns: u64,
    /// The text; `None` when it is not UTF-8.
    pub text: Option<&'a str>,
}

impl<W: MemoryMut, R: Memory> LaneReader<W, R> {
    /// The reader of a lane of a fresh session.
    pub fn new(own: W, peer: R, geometry: Geometry, lane: LaneId) -> Self {
        Self::with_shape(own, peer, LaneShape::new(&geometry, lane), 0)
    }

    /// A reader that goes on at `position`; both ends of a lane must agree on it. For tests.
    #[doc(hidden)]
    pub fn new_at(own: W, peer: R, geometry: Geometry, lane: LaneId, position: u64) -> Self {
        let shape = LaneShape::new(&geometry, lane);
        own.store_release(shape.cursor_offset, position);
        Self::with_shape(own, peer, shape, position)
    }

    pub(crate) fn with_shape(own: W, peer: R, shape: LaneShape, position: u64) -> Self {
        let (terminal, ring) = (false, false);
        let (found, run, scratch) = (None, 0, Vec::new());
        let published = position;
        LaneReader { own, peer, shape, position, published, terminal, ring, found, run, scratch }
    }

    /// The next frame, borrowed in place; `None` when there is none yet.
    ///
    /// The frame before is released: its lines may be written over from now on. The last frame
    /// of an exchange is released by the following call, or by [`release`](Self::release).
    ///
    /// # Errors
    /// [`FrameError`] when the lane holds what no responder writes; the lane is useless then.
    #[inline(always)]
    #[expect(clippy::should_implement_trait, reason = "a lending iterator is no Iterator")]
    pub fn next(&mut self) -> Result<Option<FrameRef<'_>>, FrameError>
    where
        R: Lend,
    {
        self.release();
        let Some(found) = self.consume()? else { return Ok(None) };
        if mutant::is(Mutant::EarlyRelease) {
            self.publish();
        }
        let payload = self.peer.lend(found.at + 32, length_of(found.tag), &mut self.scratch);
        Ok(Some(FrameRef {
            exchange: ExchangeId(found.exchange),
            kind: found.kind,
            more: has_more(found.tag),
            choice: choice_of(found.tag),
            time_ns: found.time_ns,
            payload,
        }))
    }

    /// The next frame as [`next`](Self::next) gives it, with its payload as text.
    ///
    /// # Errors
    /// [`FrameError`] when the lane holds what no responder writes.
    #[inline(always)]
    pub fn next_text(&mut self) -> Result<Option<TextRef<'_>>, FrameError>
    where
        R: Lend,
    {
        self.release();
        let Some(found) = self.consume()? else { return Ok(None) };
        let text = self.peer.lend_text(found.at + 32, length_of(found.tag), &mut self.scratch);
        Ok(Some(TextRef { exchange: ExchangeId(found.exchange), time_ns: found.time_ns, text }))
    }

    /// Whether the next frame is what nearly all of an answer are: a whole text of the first choice,
    /// of this exchange, in one line. It is judged then and stands for
    /// [`take_short_text`](Self::take_short_text). False says nothing about what there is, or what
    /// is to be done before it: the longer way does.
    #[inline(always)]
    pub fn has_short_text(&mut self, exchange: ExchangeId) -> bool {
        let unpublished = self.position.wrapping_sub(self.published);
        let is_plain = self.found.is_none() && !self.terminal && unpublished < self.shape.quarter;
        let at = self.shape.line_offset(self.position);
        if !is_plain || self.await_word(at).is_err() {
            return false;
        }
        let [id, tag, time_ns] = self.peer.words(at + 8);
        // Kind, flags and choice as they should be, and no line of the lap is left: one comparison.
        if tag.wrapping_sub(TEXT_TAG) > SHORT_TEXT_BYTES || id != exchange.0 {
            return false;
        }
        self.found = Some(Found { at, exchange: id, tag, time_ns, kind: Kind::Delta, lines: 1 });
        true
    }

    /// The text that [`has_short_text`](Self::has_short_text) found, as
    /// [`next_text`](Self::next_text) gives it.
    #[inline(always)]
    pub fn take_short_text(&mut self) -> Option<TextRef<'_>>
    where
        R: Lend,
    {
        let found = self.found.take()?;
        self.position = self.position.wrapping_add(found.lines);
        let text = self.peer.lend_text(found.at + 32, length_of(found.tag), &mut self.scratch);
        Some(TextRef { exchange: ExchangeId(found.exchange), time_ns: found.time_ns, text })
    }

    /// The next frame, its payload copied to `buf` and released at once; `None` when there is
    /// none yet. The header returned is the copy that was judged: kind and flags are known.
    ///
    /// # Errors
    /// [`FrameError`] when the lane holds what no honest responder writes.
    #[inline]
    pub fn next_copied(&mut self, buf: &mut Vec<u8>) -> Result<Option<FrameHeader>, FrameError> {
        let Some(found) = self.consume()? else { return Ok(None) };
        let publish = self.position.wrapping_sub(found.lines).wrapping_add(1);
        if mutant::is(Mutant::EarlyRelease) {
            self.publish();
        }
        // Bound: the length was judged to be less than a quarter of the lane.
        buf.resize(length_of(found.tag), 0);
        self.peer.copy_out(found.at + 32, buf);
        self.release();
        Ok(Some(unpack(publish, found.exchange, found.tag, found.time_ns)))
    }

    /// Publishes what was consumed since the cursor was published last, before its reader sleeps:
    /// the responder has the whole lane for what comes meanwhile.
    #[inline]
    pub fn settle(&mut self) {
        if self.position != self.published {
            self.publish();
        }
    }

    /// Gives back the frame that was borrowed last. After a terminal frame this makes the lane
    /// free for the next exchange: call it before the next request names the lane.
    #[inline]
    pub fn release(&mut self) {
        let whole = mutant::is(Mutant::PublishOnlyWholeLane);
        let step = if whole { self.shape.lines } else { self.shape.quarter };
        let terminal = self.terminal && !mutant::is(Mutant::TerminalCursorKept);
        if terminal || self.position.wrapping_sub(self.published) >= step {
            self.publish();
        }
    }

    /// Whether the responder waits for the cursor that was published since the last call. The
    /// bell is rung then, whatever the responder's armed word says.
    #[inline]
    #[must_use = "a responder that waits for room sleeps until it is rung"]
    pub fn take_ring(&mut self) -> bool {
        std::mem::take(&mut self.ring)
    }

    /// Whether a frame stands ready: what a caller looks at between arming and sleeping. True
    /// also for a lane that holds nonsense, so that the following read reports it.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.peer.load(self.shape.line_offset(self.position)) != 0
    }

    /// What the next frame is, which stays where it is; `None` when there is none yet. Its header
    /// is read once: what was judged here is what [`next`](Self::next) goes by.
    ///
    /// # Errors
    /// [`FrameError`] when the lane holds what no responder writes.
    #[inline(always)]
    pub fn peek(&mut self) -> Result<Option<Peek>, FrameError> {
        if self.found.is_none() && !self.find()? {
            return Ok(None);
        }
        Ok(self.found.as_ref().map(|found| Peek {
            kind: found.kind,
            more: has_more(found.tag),
            choice: choice_of(found.tag),
        }))
    }

    /// Byte offset, in the responder segment, of the word that stops being 0 when the next frame
    /// is published: for one who watches many lanes without holding their readers.
    #[inline]
    pub fn watched_offset(&self) -> usize {
        self.shape.line_offset(self.position)
    }

    /// Finds the next frame that is not a SKIP and keeps a judged copy of its header.
    #[inline(always)]
    fn find(&mut self) -> Result<bool, FrameError> {
        // Bound: two turns. A SKIP ends with the lane, and on line 0 none is valid.
        loop {
            let at = self.shape.line_offset(self.position);
            if let Err(word) = self.await_word(at) {
                return self.not_published(word);
            }
            let [exchange, tag, time_ns] = self.peer.words(at + 8);
            let lines = lines_of(length_of(tag));
            match self.judge(tag, lines)? {
                Kind::Skip => self.position = self.position.wrapping_add(lines),
                kind => {
                    self.found = Some(Found { at, exchange, tag, time_ns, kind, lines });
                    return Ok(true);
                }
            }
        }
    }

    /// Whether the frame at the present position, which is `at`, is published, or else the word that
    /// stands there.
    /// What is loaded after this is not older than the frame.
    #[inline(always)]
    fn await_word(&mut self, at: usize) -> Result<(), u64> {
        let word = self.peer.load(at);
        if word != self.position.wrapping_add(1) {
            self.run = 0;
            return Err(word);
        }
        if self.run < AHEAD_RUN {
            self.run += 1;
        } else {
            let ahead = self.position.wrapping_add(AHEAD_LINES);
            self.peer.prefetch(self.shape.line_offset(ahead));
        }
        // Pairs with: the Release store in `LaneWriter::publish`.
        if !mutant::is(Mutant::NoAcquireFence) {
            R::fence(Ordering::Acquire);
        }
        Ok(())
    }

    #[inline(always)]
    fn not_published(&self, word: u64) -> Result<bool, FrameError> {
        // The writer cleared this line before it published the one before, so the word is 0.
        match word {
            0 => Ok(false),
            word => Err(FrameError::Publish { word, position: self.position }),
        }
    }

    /// Whether the header can be that of a frame at the present position.
    #[inline(always)]
    fn judge(&self, tag: u64, lines: u64) -> Result<Kind, FrameError> {
        let kind = Kind::from_number(kind_of(tag));
        let inside = lines <= self.shape.quarter && lines <= self.shape.lines_to_end(self.position);
        match kind {
            Some(kind) if inside && flags_of(tag) & !MORE == 0 && kind != Kind::Skip => Ok(kind),
            _ => self.judge_rest(tag, lines),
        }
    }

    /// A SKIP, or what is wrong.
    #[cold]
    fn judge_rest(&self, tag: u64, lines: u64) -> Result<Kind, FrameError> {
        let number = kind_of(tag);
        let kind = Kind::from_number(number).ok_or(FrameError::Kind(number))?;
        let length = length_of(tag);
        let to_end = self.shape.lines_to_end(self.position);
        let inside = lines <= self.shape.quarter && lines <= to_end;
        let exact = kind != Kind::Skip || length == payload_of(to_end);
        let flags = flags_of(tag);
        if inside && exact && flags & !MORE == 0 {
            return Ok(kind);
        }
        let (length, line) = (length as u32, self.shape.lines - to_end);
        Err(match kind {
            Kind::Skip => FrameError::Skip { length, line },
            _ if !inside => FrameError::Length { length, line },
            _ => FrameError::Flags(flags),
        })
    }

    /// Steps over the next frame; gives its header as it was judged.
    #[inline(always)]
    fn consume(&mut self) -> Result<Option<Found>, FrameError> {
        if self.found.is_none() && !self.find()? {
            return Ok(None);
        }
        let Some(found) = self.found.take() else { return Ok(None) };
        self.position = self.position.wrapping_add(found.lines);
        self.terminal = found.kind.is_terminal();
        Ok(Some(found))
    }

    /// Publishes the cursor and finds out whether the responder waits for it.
    #[cold]
    fn publish(&mut self) {
        let old = std::mem::replace(&mut self.published, self.position);
        let is_over = std::mem::take(&mut self.terminal);
        // Pairs with: the Acquire fence in `LaneWriter::load_cursor`. All reads of the lines up
        // to here come before it.
        if mutant::is(Mutant::RelaxedCursor) {
            self.own.store(self.shape.cursor_offset, self.position);
        } else {
            self.own.store_release(self.shape.cursor_offset, self.position);
        }
        if is_over {
            // A terminal frame waits for no room, and nothing of its exchange does any more: there
            // is nobody to ring. The writer finds this cursor by the entry that follows it.
            return;
        }
        // Pairs with: the fence in `LaneWriter::starve`. Either the target is seen here, or the
        // writer sees this cursor.
        if !mutant::is(Mutant::NoStarvedConsumerFence) {
            R::fence(Ordering::SeqCst);
        }
        let target = self.peer.load(self.shape.starved_offset);
        self.ring |= lies_in(target, old, self.position);
    }
}

/// Whether `old < target <= new`, by distance.
fn lies_in(target: u64, old: u64, new: u64) -> bool {
    target.wrapping_sub(old).wrapping_sub(1) < new.wrapping_sub(old)
}
