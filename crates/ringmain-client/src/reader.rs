//! The frames of one lane, read as items of one exchange after another.

use ringmain_ring::{FrameError, LaneReader, TextRef};
use ringmain_shm::{TrustedMap, WriteMap};
use ringmain_wire::frame::PayloadError;
use ringmain_wire::{Code, ErrorFrame, ExchangeId, Kind, Stage};

use crate::error::{Error, Result};
use crate::item::Item;

/// Reads one lane. Pieces of text and of plain bytes go through as they come; the pieces of a
/// long event or tool call are joined here, so that a consumer only ever sees whole ones.
#[derive(Debug)]
pub(crate) struct Reader {
    lane: LaneReader<WriteMap, TrustedMap>,
    exchange: ExchangeId,
    /// Pieces of an event that is not whole yet.
    // Bound: JOINED_BYTES_MAX.
    joined: Vec<u8>,
    /// `joined` was handed out and is empty from the next read on.
    joined_taken: bool,
    progress: Progress,
    ended: bool,
}

/// What has come of the present exchange.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Content bytes handed out.
    pub(crate) bytes: u64,
    /// Broker time of the frame that came last.
    pub(crate) time_ns: u64,
    /// Smoothed time between two frames; 0 before there were two.
    pub(crate) gap_ns: u64,
    /// Attempts until the answer, as its HEAD told.
    attempts: u16,
    answered: bool,
}

/// What a lane has to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    No,
    Item,
    /// A piece of the first choice's text.
    Text,
    /// The last item of the exchange, good or bad.
    Terminal,
}

/// Most bytes of one joined event: beyond what a broker lets an endpoint send in one event.
const JOINED_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Reader {
    pub(crate) fn new(lane: LaneReader<WriteMap, TrustedMap>) -> Reader {
        Reader {
            lane,
            exchange: ExchangeId(0),
            joined: Vec::new(),
            joined_taken: false,
            progress: Progress::default(),
            ended: true,
        }
    }

    /// Starts with the exchange that was just published for this lane.
    pub(crate) fn begin(&mut self, exchange: ExchangeId) {
        self.exchange = exchange;
        self.joined.clear();
        self.joined_taken = false;
        self.progress = Progress::default();
        self.ended = false;
    }

    /// Looks for something to take, after joining what only is a part. Releases the item handed
    /// out before.
    #[inline(always)]
    pub(crate) fn poll(&mut self) -> Result<Ready> {
        self.lane.release();
        if self.joined_taken {
            self.joined_taken = false;
            self.joined.clear();
        }
        // Bound: each turn consumes a frame, and the lane holds finitely many.
        loop {
            let Some(next) = self.lane.peek().map_err(violation)? else { return Ok(Ready::No) };
            return Ok(match next.kind {
                Kind::Delta if next.choice == 0 && self.joined.is_empty() => Ready::Text,
                Kind::Event | Kind::Tool if next.more => {
                    self.join()?;
                    continue;
                }
                kind if kind.is_terminal() => Ready::Terminal,
                _ => Ready::Item,
            });
        }
    }

    /// Takes what [`Reader::poll`] found.
    #[inline]
    pub(crate) fn take(&mut self) -> Result<Item<'_>> {
        let Some(frame) = self.lane.next().map_err(violation)? else { return Err(vanished()) };
        if frame.exchange != self.exchange {
            return Err(foreign(frame.exchange, self.exchange));
        }
        self.progress.note(frame.kind, frame.payload.len(), frame.time_ns);
        self.ended = frame.kind.is_terminal();
        if frame.kind == Kind::Error {
            let frame = ErrorFrame::parse(frame.payload).map_err(Error::payload)?;
            return Err(Error::from_frame(&frame));
        }
        let mut payload = frame.payload;
        if !self.joined.is_empty() && !frame.kind.is_terminal() {
            self.joined.extend_from_slice(payload);
            self.joined_taken = true;
            payload = &self.joined;
        }
        let item = Item::parse(frame.kind, frame.choice, payload).map_err(Error::payload)?;
        if let Item::Head(head) = &item {
            self.progress.attempts = head.attempt;
        }
        Ok(item)
    }

    /// Takes the text that [`Reader::poll`] found as [`Ready::Text`]: the short way for what nearly
    /// all frames of an answer are.
    #[inline(always)]
    pub(crate) fn take_text(&mut self) -> Result<&str> {
        let next = self.lane.next_text().map_err(violation)?;
        let Some(TextRef { exchange, time_ns, text }) = next else { return Err(vanished()) };
        if exchange != self.exchange {
            return Err(foreign(exchange, self.exchange));
        }
        let Some(text) = text else { return Err(not_text()) };
        self.progress.note(Kind::Delta, text.len(), time_ns);
        Ok(text)
    }

    /// Whether [`Reader::take_short_text`] has something to take; false says nothing. The item handed
    /// out before is released.
    #[inline(always)]
    pub(crate) fn has_short_text(&mut self) -> bool {
        self.joined.is_empty() && self.lane.has_short_text(self.exchange)
    }

    /// Takes the text that [`Reader::has_short_text`] found.
    #[inline(always)]
    pub(crate) fn take_short_text(&mut self) -> Result<&str> {
        let Some(TextRef { time_ns, text, .. }) = self.lane.take_short_text() else {
            return Err(vanished());
        };
        let Some(text) = text else { return Err(not_text()) };
        self.progress.note(Kind::Delta, text.len(), time_ns);
        Ok(text)
    }

    /// Publishes what was read, before the reader sleeps. [`Reader::take_ring`] follows.
    pub(crate) fn settle(&mut self) {
        self.lane.settle();
    }

    /// Throws away what has come. True: the exchange is over and its frames are released.
    pub(crate) fn drain(&mut self) -> Result<bool> {
        // Bound: each turn consumes a frame, and the lane holds finitely many.
        while !self.ended {
            let Some(frame) = self.lane.next().map_err(violation)? else { break };
            self.ended = frame.kind.is_terminal();
        }
        self.lane.release();
        Ok(self.ended)
    }

    /// Whether a frame stands ready: the look between arming and sleeping.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        self.lane.is_ready()
    }

    /// Whether the broker waits for room that this lane just gave.
    #[inline]
    pub(crate) fn take_ring(&mut self) -> bool {
        self.lane.take_ring()
    }

    /// Where the next frame will show, in the responder segment.
    #[cfg(feature = "tokio")]
    pub(crate) fn watched_offset(&self) -> usize {
        self.lane.watched_offset()
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    fn join(&mut self) -> Result<()> {
        let Some(frame) = self.lane.next().map_err(violation)? else { return Ok(()) };
        if frame.exchange != self.exchange {
            return Err(foreign(frame.exchange, self.exchange));
        }
        if self.joined.len() + frame.payload.len() > JOINED_BYTES_MAX {
            let text = format!("the answer holds an event of more than {JOINED_BYTES_MAX} bytes");
            return Err(Error::new(Code::UpstreamTooLarge, Stage::Relay, text));
        }
        self.progress.note(frame.kind, frame.payload.len(), frame.time_ns);
        self.joined.extend_from_slice(frame.payload);
        self.lane.release();
        Ok(())
    }
}

impl Progress {
    #[inline]
    fn note(&mut self, kind: Kind, payload_bytes: usize, time_ns: u64) {
        if self.answered {
            let gap_ns = time_ns.saturating_sub(self.time_ns);
            self.gap_ns = if self.gap_ns == 0 { gap_ns } else { (self.gap_ns * 7 + gap_ns) / 8 };
        }
        self.answered = true;
        self.time_ns = time_ns;
        if kind.is_content() {
            self.bytes += payload_bytes as u64;
        }
    }

    /// How far an exchange had come that this side ends by itself.
    pub(crate) fn mark(&self, error: Error) -> Error {
        let stage = match (self.answered, self.bytes) {
            (false, _) => Stage::AwaitHead,
            (true, 0) => Stage::AwaitContent,
            (true, _) => Stage::Relay,
        };
        error.with_progress(stage, self.bytes, self.answered, self.attempts)
    }
}

#[cold]
fn violation(error: FrameError) -> Error {
    let text = format!("{error}; the two sides do not fit each other, update both");
    Error::new(Code::ViolationFrame, Stage::Relay, text)
}

#[cold]
fn vanished() -> Error {
    Error::new(Code::Internal, Stage::Relay, "a frame was taken before it was found")
}

#[cold]
fn not_text() -> Error {
    Error::payload(PayloadError(Kind::Delta))
}

#[cold]
fn foreign(found: ExchangeId, awaited: ExchangeId) -> Error {
    let (found, awaited) = (found.0, awaited.0);
    let text = format!("a frame of exchange {found} came on the lane of exchange {awaited}");
    Error::new(Code::ViolationFrame, Stage::Relay, text)
}
