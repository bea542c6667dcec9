//! The responder's end of a lane.

use std::sync::atomic::Ordering;

use ringmain_wire::frame::{MORE, lines_of};
use ringmain_wire::limits::RESERVE_LINES;
use ringmain_wire::{ExchangeId, Geometry, Kind, LaneId};

use super::split::first_piece;
use super::{CursorError, LaneBusy, LaneError, Push, pack};
use crate::memory::{Memory, MemoryMut};
use crate::mutant::{self, Mutant};
use crate::shape::{LaneShape, payload_of};

/// The one line that stays free, so that the line after a frame can be cleared before the frame
/// is published.
const FREE_LINE: u64 = 1;

/// How far ahead of a frame the line is that is fetched for writing: the reader's CPU has it from the
/// lap before, and a store that waits for it holds up those behind it. As many lines as a frame that
/// is no terminal leaves free, so none is taken from a reader that has still to read it.
const AHEAD_LINES: u64 = RESERVE_LINES;

/// Writes the frames of one lane, exchange after exchange.
///
/// `W` is the responder segment, `R` the caller segment, of which only this lane's cursor is read.
/// Publishing rings no bell: after a batch of frames, and always before the writer waits for
/// anything, [`Ring::due`](crate::Ring::due) tells whether the caller sleeps.
#[derive(Debug)]
pub struct LaneWriter<W, R> {
    own: W,
    peer: R,
    shape: LaneShape,
    lane: u32,
    /// Lines written.
    written: u64,
    /// Last valid cursor seen. Read again only when room seems short.
    cursor: u64,
    open: Option<ExchangeId>,
}

impl<W: MemoryMut, R: Memory> LaneWriter<W, R> {
    /// The writer of a lane of a fresh session.
    pub fn new(own: W, peer: R, geometry: Geometry, lane: LaneId) -> Self {
        Self::with_shape(own, peer, LaneShape::new(&geometry, lane), lane.number(), 0)
    }

    /// A writer that goes on at `position`; both ends of a lane must agree on it. For tests.
    #[doc(hidden)]
    pub fn new_at(own: W, peer: R, geometry: Geometry, lane: LaneId, position: u64) -> Self {
        Self::with_shape(own, peer, LaneShape::new(&geometry, lane), lane.number(), position)
    }

    pub(crate) fn with_shape(own: W, peer: R, shape: LaneShape, lane: u32, position: u64) -> Self {
        LaneWriter { own, peer, shape, lane, written: position, cursor: position, open: None }
    }

    /// Opens an exchange.
    ///
    /// # Errors
    /// [`LaneBusy`] when the terminal frame of the lane's last exchange is not consumed. An honest
    /// caller never lets that happen.
    pub fn begin(&mut self, exchange: ExchangeId) -> Result<(), LaneBusy> {
        let cursor = self.load_cursor();
        if self.open.is_some() || cursor != self.written {
            return Err(LaneBusy { lane: self.lane, cursor, written: self.written });
        }
        self.cursor = cursor;
        self.open = Some(exchange);
        Ok(())
    }

    /// Writes a frame, or several with MORE when the payload exceeds a quarter of the lane.
    ///
    /// Text is cut between characters. The room that a terminal frame needs is left.
    ///
    /// # Errors
    /// [`LaneError::Cursor`] is a violation of the peer, the others are misuse.
    #[inline]
    pub fn push(
        &mut self,
        kind: Kind,
        choice: u16,
        payload: &[u8],
        time_ns: u64,
    ) -> Result<Push, LaneError> {
        let Some(exchange) = self.open else { return Err(LaneError::Closed) };
        if kind.is_terminal() || kind == Kind::Skip {
            return Err(LaneError::Kind(kind));
        }
        if payload.len() > self.shape.payload_max() {
            return self.push_pieces(exchange, kind, choice, payload, time_ns);
        }
        let lines = lines_of(payload.len());
        if !self.has_room(lines)? {
            return Ok(Push::Full);
        }
        let tag = pack(payload.len(), kind, 0, choice);
        self.write(lines, exchange, tag, payload, time_ns);
        Ok(Push::Written)
    }

    /// Writes END or ERROR and closes the exchange. There is always room.
    ///
    /// A payload above [`TERMINAL_PAYLOAD_MAX`](ringmain_wire::limits::TERMINAL_PAYLOAD_MAX) is
    /// cut; those that `ringmain-wire` encodes never are.
    ///
    /// # Errors
    /// [`LaneError::Closed`] and [`LaneError::Kind`], both misuse.
    pub fn finish(&mut self, kind: Kind, payload: &[u8], time_ns: u64) -> Result<(), LaneError> {
        let Some(exchange) = self.open else { return Err(LaneError::Closed) };
        if !kind.is_terminal() {
            return Err(LaneError::Kind(kind));
        }
        // Invariant: every other frame left `reserve + 1` lines, and an exchange begins on an
        // empty lane. A terminal, the skip before it and the free line are never more than that,
        // so no cursor has to be looked at.
        let payload = &payload[..payload.len().min(self.shape.terminal_payload_max())];
        let tag = pack(payload.len(), kind, 0, 0);
        self.write(lines_of(payload.len()), exchange, tag, payload, time_ns);
        self.open = None;
        Ok(())
    }

    /// Asks the caller for a ring when it has consumed enough for a frame of `lines` lines.
    ///
    /// True: nothing is free yet, the caller will ring, the writer may park. False: there is room
    /// by now. The task that parks must already be registered with whatever waits for the bell.
    /// `lines` beyond the longest frame count as that.
    ///
    /// # Errors
    /// [`CursorError`] is a violation of the peer.
    pub fn starve(&mut self, lines: u64) -> Result<bool, CursorError> {
        let need = self.need(lines.min(self.shape.quarter));
        let target = self.written.wrapping_add(need).wrapping_sub(self.shape.lines);
        if mutant::is(Mutant::RecheckBeforeStore) {
            let room = self.refresh()? >= need;
            self.own.store(self.shape.starved_offset, target);
            return Ok(!room);
        }
        self.own.store(self.shape.starved_offset, target);
        // Pairs with: the fence in `LaneReader::publish`. Either the caller sees this target and
        // rings, or the cursor that it published before its fence is seen here.
        if !mutant::is(Mutant::NoStarvedWriterFence) {
            W::fence(Ordering::SeqCst);
        }
        Ok(self.refresh()? < need)
    }

    /// The open exchange.
    pub fn open(&self) -> Option<ExchangeId> {
        self.open
    }

    /// Whether a cancel that names `target` means the lane's present exchange. A late one, for an
    /// exchange that ended, does not, even when the lane is in use again.
    pub fn carries(&self, target: ExchangeId) -> bool {
        if mutant::is(Mutant::CancelByLane) {
            return self.open.is_some();
        }
        self.open == Some(target)
    }

    /// Whether no exchange is open and the caller has consumed the last one's terminal frame.
    ///
    /// # Errors
    /// [`CursorError`] is a violation of the peer.
    pub fn is_free(&self) -> Result<bool, CursorError> {
        let cursor = self.checked_cursor()?;
        Ok(self.open.is_none() && cursor == self.written)
    }

    /// Whether a frame of `lines` lines, a quarter of the lane at most, would be written now.
    ///
    /// # Errors
    /// [`CursorError`] is a violation of the peer.
    #[inline]
    pub fn has_room(&mut self, lines: u64) -> Result<bool, CursorError> {
        let need = self.need(lines);
        Ok(self.room() >= need || self.refresh()? >= need)
    }

    /// Whether more than three quarters of the lane wait to be read. A caller that is rung by now
    /// reads before the writer has to stop.
    ///
    /// # Errors
    /// [`CursorError`] is a violation of the peer.
    #[inline]
    pub fn is_filling(&mut self) -> Result<bool, CursorError> {
        let quarter = self.shape.quarter;
        Ok(self.room() < quarter && self.refresh()? < quarter)
    }

    #[cold]
    fn push_pieces(
        &mut self,
        exchange: ExchangeId,
        kind: Kind,
        choice: u16,
        payload: &[u8],
        time_ns: u64,
    ) -> Result<Push, LaneError> {
        let mut taken = 0;
        // Bound: every turn takes at least one byte or returns.
        while taken < payload.len() {
            let rest = &payload[taken..];
            let piece = first_piece(kind, rest, self.shape.payload_max());
            let lines = lines_of(piece);
            if !self.has_room(lines)? {
                return Ok(if taken == 0 { Push::Full } else { Push::Partly(taken) });
            }
            let flags = if piece < rest.len() { MORE } else { 0 };
            let tag = pack(piece, kind, flags, choice);
            self.write(lines, exchange, tag, &rest[..piece], time_ns);
            taken += piece;
        }
        Ok(Push::Written)
    }

    /// Free lines that a non-terminal frame of `lines` lines asks for.
    #[inline(always)]
    fn need(&self, lines: u64) -> u64 {
        let free = if mutant::is(Mutant::NoFreeLine) { 0 } else { FREE_LINE };
        let reserve = if mutant::is(Mutant::NoReserve) { 0 } else { self.shape.reserve };
        self.shape.skip_before(self.written, lines) + lines + reserve + free
    }

    /// Free lines as of the last cursor seen.
    #[inline(always)]
    fn room(&self) -> u64 {
        self.shape.lines - self.written.wrapping_sub(self.cursor)
    }

    /// Reads the cursor again and returns the free lines.
    #[cold]
    fn refresh(&mut self) -> Result<u64, CursorError> {
        self.cursor = self.checked_cursor()?;
        Ok(self.room())
    }

    /// The caller's cursor, if it has not gone back and is not ahead of what is written. As the
    /// last one was at most a lap behind, so is this one.
    fn checked_cursor(&self) -> Result<u64, CursorError> {
        let cursor = self.load_cursor();
        let unread = self.written.wrapping_sub(cursor);
        if unread > self.written.wrapping_sub(self.cursor) {
            return Err(CursorError { cursor, last: self.cursor, written: self.written });
        }
        Ok(cursor)
    }

    fn load_cursor(&self) -> u64 {
        let cursor = self.peer.load(self.shape.cursor_offset);
        // Pairs with: the Release store in `LaneReader::publish`. The caller has read what stood
        // in the lines that are about to be written over.
        if !mutant::is(Mutant::NoCursorFence) {
            R::fence(Ordering::Acquire);
        }
        cursor
    }

    /// Writes one frame, after a SKIP when it would wrap. There is room.
    #[inline(always)]
    fn write(&mut self, lines: u64, exchange: ExchangeId, tag: u64, payload: &[u8], time_ns: u64) {
        let skip = self.shape.skip_before(self.written, lines);
        if skip != 0 {
            self.skip(skip, exchange, time_ns);
        }
        let clear = !mutant::is(Mutant::NoClearNext);
        self.publish(lines, exchange, tag, payload, time_ns, clear);
    }

    /// Fills the rest of the lap.
    #[cold]
    fn skip(&mut self, lines: u64, exchange: ExchangeId, time_ns: u64) {
        let tag = pack(payload_of(lines), Kind::Skip, 0, 0);
        let clear = !mutant::is(Mutant::NoClearAfterSkip);
        self.publish(lines, exchange, tag, &[], time_ns, clear);
    }

    #[inline(always)]
    fn publish(
        &mut self,
        lines: u64,
        exchange: ExchangeId,
        tag: u64,
        payload: &[u8],
        time_ns: u64,
        clear: bool,
    ) {
        let at = self.shape.line_offset(self.written);
        let ahead = self.written.wrapping_add(AHEAD_LINES);
        self.own.prefetch_write(self.shape.line_offset(ahead));
        self.own.put_record(at + 8, [exchange.0, tag, time_ns], payload);
        // The reader will look at the next line as soon as it has this frame. What stands there
        // may be old payload, chosen by whoever wrote the text, so it is cleared first.
        let next = self.written.wrapping_add(lines);
        let clear_late = mutant::is(Mutant::ClearAfterPublish);
        if clear && !clear_late {
            self.own.store(self.shape.line_offset(next), 0);
        }
        if mutant::is(Mutant::FenceBeforePublish) {
            W::fence(Ordering::SeqCst);
        }
        // Pairs with: the Acquire fence in `LaneReader::poll`.
        let word = self.written.wrapping_add(1);
        if mutant::is(Mutant::RelaxedPublish) {
            self.own.store(at, word);
        } else {
            self.own.store_release(at, word);
        }
        if clear && clear_late {
            self.own.store(self.shape.line_offset(next), 0);
        }
        self.written = next;
    }
}
