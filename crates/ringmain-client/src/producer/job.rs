//! One request in a producer's hands, and its answer.

use std::time::Duration;

use ringmain_shm::TrustedMap;
use ringmain_wire::frame::{EndFrame, ToolFrame, Usage};
use ringmain_wire::{
    Code, ErrorFrame, FinishReason, Kind, LaneId, Mode, RequestHead, ResponseHead, Sent, Stage,
};

use super::Producer;
use super::stand::{Order, Stand};
use crate::error::{Error, Result};

/// A request that was taken. Dropped without an end, it ends in an error; its memory goes back
/// to the broker when it is dropped, not before.
#[derive(Debug)]
#[must_use = "a job that is dropped ends in an error"]
pub struct Job<'a> {
    producer: &'a mut Producer,
    ticket: Ticket,
    /// It was put aside: whoever has the other ticket ends it.
    is_parked: bool,
}

/// A job that was put aside, so that others can be taken meanwhile: see [`Job::park`]. One that
/// is dropped keeps its lane until its deadline, and then until the broker's patience ends.
#[derive(Debug)]
#[must_use = "a ticket that is dropped keeps its lane"]
pub struct Ticket {
    serial: u32,
    order: Order,
    /// Where head and body stand; keeps the mapping.
    memory: TrustedMap,
    arena_offset: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    has_head: bool,
    has_ended: bool,
}

/// What is asked. Everything stands where the broker wrote it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Asked<'a> {
    /// Model, path and header fields. Its route is the name of the model to answer as: what the
    /// body says of it was not judged.
    pub head: RequestHead<'a>,
    /// The body.
    pub body: &'a [u8],
    /// What the frames of the answer are to be.
    pub mode: Mode,
    /// Time left for the answer when this was asked for.
    pub left: Duration,
}

/// The answer, written where the broker reads it.
///
/// Every method waits while the lane is full. An error with the code `Cancelled` means that the
/// caller wants it no more: the job is over, the producer goes on.
#[derive(Debug)]
pub struct Answer<'a> {
    producer: &'a mut Producer,
    serial: u32,
    order: Order,
    state: &'a mut State,
}

impl Ticket {
    pub(super) fn new(serial: u32, order: Order, stand: &Stand) -> Ticket {
        let (memory, arena_offset) = stand.memory();
        Ticket { serial, order, memory, arena_offset, state: State::default() }
    }
}

impl<'a> Job<'a> {
    pub(super) fn new(producer: &'a mut Producer, ticket: Ticket) -> Job<'a> {
        Job { producer, ticket, is_parked: false }
    }

    /// What is asked, and where to answer: both at once, for answers that follow the question.
    ///
    /// # Errors
    /// `BrokerGone` when the attachment that the job came by is no more; `InvalidHead` when the
    /// two sides do not fit each other.
    pub fn parts(&mut self) -> Result<(Asked<'_>, Answer<'_>)> {
        let Job { producer, ticket, .. } = self;
        let left = match producer.stand_of(ticket.serial) {
            Some(stand) => ticket.order.request.deadline_ns.map(|ns| stand.left(ns)),
            None => return Err(gone()),
        };
        let Ticket { serial, order, memory, arena_offset, state } = ticket;
        let request = &order.request;
        let bytes = |offset: u64, len| memory.bytes(*arena_offset + offset as usize, len);
        let head = RequestHead::parse(bytes(request.head_offset(), request.head_bytes()));
        let head = head.map_err(|error| {
            Error::new(Code::InvalidHead, Stage::Intake, format!("{error}; update both sides"))
        })?;
        let asked = Asked {
            head,
            body: bytes(request.body_offset(), request.body_bytes()),
            mode: request.mode,
            left: left.unwrap_or(Duration::MAX),
        };
        Ok((asked, Answer { producer, serial: *serial, order: *order, state }))
    }

    /// Whether the caller wants the answer no more: for a producer that computes for long.
    pub fn is_cancelled(&mut self) -> bool {
        let Job { producer, ticket, .. } = self;
        let lane = ticket.order.request.lane;
        producer.stand_of(ticket.serial).is_none_or(|stand| stand.is_cancelled(lane))
    }

    /// Puts the job aside, to go on with [`Producer::resume`].
    pub fn park(mut self) -> Ticket {
        self.is_parked = true;
        let Ticket { serial, order, ref memory, arena_offset, state } = self.ticket;
        Ticket { serial, order, memory: memory.clone(), arena_offset, state }
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        if self.is_parked {
            return;
        }
        let ticket = &self.ticket;
        // Of an attachment that is gone nothing is left to end.
        let Some(stand) = self.producer.stand_of(ticket.serial) else { return };
        let (lane, id) = (ticket.order.request.lane, ticket.order.id);
        if !ticket.state.has_ended {
            let mut payload = Vec::new();
            let (code, text) = match stand.is_cancelled(lane) {
                true => (Code::Cancelled, "cancelled"),
                false => (Code::UpstreamError, "the producer gave no end to its answer"),
            };
            ErrorFrame::new(code, Stage::Relay, text).encode(&mut payload);
            stand.finish(lane, Kind::Error, &payload);
        }
        stand.return_loan(lane, id);
    }
}

impl Answer<'_> {
    /// Begins the answer with a status and a content type. Without this call the first piece
    /// begins it, with 200 and the usual type of the mode.
    ///
    /// # Errors
    /// As all methods of an answer: `Cancelled`, `BrokerGone`, and `InvalidRequest` for what has
    /// no place here.
    pub fn head(&mut self, status: u16, content_type: &str) -> Result<()> {
        let fits = match self.mode() {
            Mode::Deltas => (200..300).contains(&status),
            Mode::Events | Mode::Body => (200..600).contains(&status),
        };
        if self.state.has_head || !fits {
            return Err(misplaced(&format!("a head with status {status}")));
        }
        let mut head = ResponseHead::default();
        (head.status, head.content_type) = (status, content_type);
        let mut payload = Vec::with_capacity(128);
        head.encode(&mut payload);
        self.state.has_head = true;
        self.push(Kind::Head, 0, &payload)
    }

    /// A piece of the text of the first choice.
    pub fn delta(&mut self, text: &str) -> Result<()> {
        self.delta_of(0, text)
    }

    /// A piece of the text of a choice.
    pub fn delta_of(&mut self, choice: u16, text: &str) -> Result<()> {
        self.piece(Kind::Delta, choice, text.as_bytes(), Mode::Deltas)
    }

    /// A piece of the reasoning of the first choice.
    pub fn reasoning(&mut self, text: &str) -> Result<()> {
        self.piece(Kind::Reasoning, 0, text.as_bytes(), Mode::Deltas)
    }

    /// A piece of a tool call of the first choice.
    pub fn tool(&mut self, call: &ToolFrame<'_>) -> Result<()> {
        let mut payload = Vec::with_capacity(128);
        call.encode(&mut payload);
        self.piece(Kind::Tool, 0, &payload, Mode::Deltas)
    }

    /// A whole event, in the words of the API that the caller asked for; at most 1 MiB.
    pub fn event(&mut self, event: &[u8]) -> Result<()> {
        self.piece(Kind::Event, 0, event, Mode::Events)
    }

    /// Bytes of a plain answer.
    pub fn body(&mut self, bytes: &[u8]) -> Result<()> {
        self.piece(Kind::Body, 0, bytes, Mode::Body)
    }

    /// Tokens used; once.
    pub fn usage(&mut self, usage: &Usage) -> Result<()> {
        self.begin()?;
        self.push(Kind::Usage, 0, usage.as_bytes())
    }

    /// The good end: the first choice ended for this reason.
    pub fn end(mut self, reason: FinishReason) -> Result<()> {
        self.begin()?;
        let mut payload = Vec::with_capacity(64);
        let finish = vec![(0, reason)];
        EndFrame { finish, ..EndFrame::default() }.encode(&mut payload);
        self.finish(Kind::End, &payload)
    }

    /// The bad end: what went wrong, in words. `Code::RateLimited`, `EndpointUnavailable`,
    /// `InvalidRequest`, `BodyTooLarge` and the like come through; what speaks of the broker or
    /// of identities becomes `UpstreamError`.
    pub fn error(mut self, code: Code, message: &str) -> Result<()> {
        let mut frame = ErrorFrame::new(code, Stage::Relay, message);
        frame.sent = Sent::Yes;
        let mut payload = Vec::with_capacity(256);
        frame.encode(&mut payload);
        self.finish(Kind::Error, &payload)
    }

    fn mode(&self) -> Mode {
        self.order.request.mode
    }

    fn lane(&self) -> LaneId {
        self.order.request.lane
    }

    fn stand(&mut self) -> Result<&mut Stand> {
        self.producer.stand_of(self.serial).ok_or_else(gone)
    }

    fn begin(&mut self) -> Result<()> {
        if self.state.has_head {
            return Ok(());
        }
        let content_type = match self.mode() {
            Mode::Deltas | Mode::Events => "text/event-stream",
            Mode::Body => "application/json",
        };
        self.head(200, content_type)
    }

    fn piece(&mut self, kind: Kind, choice: u16, payload: &[u8], mode: Mode) -> Result<()> {
        if mode != self.mode() {
            let text = format!("a {kind:?} frame in an answer of mode {:?}", self.mode());
            return Err(misplaced(&text));
        }
        self.begin()?;
        self.push(kind, choice, payload)
    }

    fn push(&mut self, kind: Kind, choice: u16, payload: &[u8]) -> Result<()> {
        if self.state.has_ended {
            return Err(misplaced("a frame behind the end"));
        }
        let lane = self.lane();
        self.stand()?.push(lane, kind, choice, payload)
    }

    fn finish(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        if std::mem::replace(&mut self.state.has_ended, true) {
            return Err(misplaced("a second end"));
        }
        let lane = self.lane();
        self.stand()?.finish(lane, kind, payload);
        Ok(())
    }
}

fn gone() -> Error {
    let text = "the broker that gave this job is gone; take the next one";
    Error::new(Code::BrokerGone, Stage::Relay, text)
}

fn misplaced(what: &str) -> Error {
    Error::new(Code::InvalidRequest, Stage::Relay, format!("{what} has no place here"))
}
