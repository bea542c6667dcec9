//! What leaves the caller: loaned chunks, entries, and who holds which lane.

use ringmain_ring::{Arena, Chunk, LoanReader, Ring, SubmissionWriter};
use ringmain_shm::{TrustedMap, WriteMap};
use ringmain_wire::entry::body_distance;
use ringmain_wire::limits::HEAD_BYTES_MAX;
use ringmain_wire::{Code, Entry, ExchangeId, Geometry, LaneId, RequestHead, Stage};

use crate::attach::Attachment;
use crate::body::{Body, BodyWriter};
use crate::error::{Error, Result};
use crate::request::Request;

/// The writing half of a session.
///
/// A lane passes through `Free -> Held -> Open -> Ended -> Free`; the last step waits until the
/// broker gave the chunk back, because until then the old body may still be read.
#[derive(Debug)]
pub(crate) struct Outbox {
    writer: SubmissionWriter<WriteMap>,
    arena: Arena,
    memory: WriteMap,
    geometry: Geometry,
    body_bytes_max: u64,
    ring: Ring<TrustedMap>,
    // Bound: one row per lane of the geometry.
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    id: LaneId,
    state: State,
    exchange: ExchangeId,
    cancelled: bool,
    chunk: Option<Chunk>,
    loan: LoanReader<TrustedMap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody's.
    Free,
    /// A body is being written.
    Held,
    /// The exchange runs, or its frames are not drained yet.
    Open,
    /// The terminal was consumed; the chunk is still out.
    Ended,
}

/// A lane and a chunk, taken for a request that is being written. Goes back to
/// [`Outbox::publish`] or [`Outbox::abandon`].
#[derive(Debug)]
#[must_use = "a draft that is dropped keeps its lane and chunk"]
pub(crate) struct Draft {
    pub(crate) lane: LaneId,
    chunk: Chunk,
    memory: WriteMap,
    arena_offset: usize,
    head: Vec<u8>,
    body_bytes_max: u64,
    body_bytes: u32,
}

/// Bytes of a chunk for a request: its head, padded, and its body.
pub(crate) fn chunk_bytes(head_bytes: usize, body_bytes: u64) -> u64 {
    // A head is at most HEAD_BYTES_MAX, so it fits u32.
    body_distance(head_bytes as u32).saturating_add(body_bytes)
}

/// Encodes a head after the checks that the broker will make.
pub(crate) fn encode_head(head: &RequestHead<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(256);
    head.encode(&mut bytes).map_err(|error| {
        Error::new(Code::InvalidHead, Stage::Submit, format!("{error}; correct the request"))
    })?;
    debug_assert!(bytes.len() <= HEAD_BYTES_MAX);
    Ok(bytes)
}

impl Outbox {
    pub(crate) fn new(attachment: &Attachment) -> Outbox {
        let geometry = attachment.welcome.geometry;
        let responder = &attachment.theirs;
        let lane = |id| Lane {
            id,
            state: State::Free,
            exchange: ExchangeId(0),
            cancelled: false,
            chunk: None,
            loan: LoanReader::new(responder.clone(), geometry, id),
        };
        Outbox {
            writer: SubmissionWriter::new(attachment.own.clone(), geometry),
            arena: Arena::new(geometry.arena_bytes()),
            memory: attachment.own.clone(),
            geometry,
            body_bytes_max: attachment.welcome.body_bytes_max,
            ring: Ring::new(responder.clone(), Geometry::RESPONDER_ARMED),
            lanes: geometry.all_lanes().map(lane).collect(),
        }
    }

    /// Takes the lowest free lane and the lowest chunk that holds head and body.
    ///
    /// # Errors
    /// `BodyTooLarge` when it can never fit this session, `WouldBlock` when it does not fit now;
    /// the head is given back then.
    pub(crate) fn reserve(
        &mut self,
        head: Vec<u8>,
        body_bytes_max: u64,
    ) -> Result<Draft, (Error, Vec<u8>)> {
        let bytes = chunk_bytes(head.len(), body_bytes_max);
        let possible = self.body_limit(head.len());
        if body_bytes_max > possible {
            return Err((Error::body_too_large(possible, body_bytes_max), head));
        }
        self.collect_loans();
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.state == State::Free) else {
            let text = format!("all {} lanes are taken", self.geometry.lanes());
            return Err((would_block(&text), head));
        };
        let Some(chunk) = self.arena.take(bytes) else {
            let text = format!("{bytes} bytes of the arena are not free in one piece");
            return Err((would_block(&text), head));
        };
        lane.state = State::Held;
        Ok(Draft {
            lane: lane.id,
            chunk,
            memory: self.memory.clone(),
            arena_offset: self.geometry.arena_offset(),
            head,
            body_bytes_max,
            body_bytes: 0,
        })
    }

    /// Publishes a written draft. True: the broker is due to be rung.
    pub(crate) fn publish(
        &mut self,
        draft: Draft,
        request: &Request<'_>,
        deadline_ns: Option<u64>,
    ) -> (ExchangeId, bool) {
        let Draft { lane, mut chunk, head, body_bytes, .. } = draft;
        self.arena.shrink(&mut chunk, chunk_bytes(head.len(), u64::from(body_bytes)));
        let (offset, head_bytes) = (chunk.offset(), head.len() as u32);
        let entry = Entry::request(
            lane,
            request.mode,
            request.flags,
            deadline_ns,
            offset,
            head_bytes,
            body_bytes,
        );
        self.open(lane, entry, Some(chunk))
    }

    /// Takes a draft back that will not be sent.
    pub(crate) fn abandon(&mut self, draft: Draft) {
        self.lanes[draft.lane.index()].state = State::Free;
        self.give_back(draft.chunk);
    }

    /// Publishes a ping on the lowest free lane.
    pub(crate) fn ping(&mut self) -> Result<(LaneId, ExchangeId, bool)> {
        let free = self.lanes.iter().find(|lane| lane.state == State::Free).map(|lane| lane.id);
        let lane = match free {
            Some(lane) => lane,
            None => {
                self.collect_loans();
                let free = self.lanes.iter().find(|lane| lane.state == State::Free);
                free.map(|lane| lane.id).ok_or_else(|| would_block("all lanes are taken"))?
            }
        };
        let (exchange, due) = self.open(lane, Entry::ping(lane), None);
        Ok((lane, exchange, due))
    }

    /// Publishes a cancel of the lane's exchange. True: the broker is due to be rung.
    // Bound: one cancel per exchange, or the submission ring could be overrun.
    pub(crate) fn cancel(&mut self, lane: LaneId) -> bool {
        let lane = &mut self.lanes[lane.index()];
        if lane.state != State::Open || std::mem::replace(&mut lane.cancelled, true) {
            return false;
        }
        self.writer.push(Entry::cancel(lane.id, lane.exchange));
        self.ring.due()
    }

    /// The terminal frame of the lane was consumed and released.
    pub(crate) fn end(&mut self, lane: LaneId) {
        let index = lane.index();
        let lane = &mut self.lanes[index];
        lane.state = if lane.chunk.is_some() { State::Ended } else { State::Free };
        self.collect_loan(index);
    }

    /// Most bytes of a body beside a head of this length.
    pub(crate) fn body_limit(&self, head_bytes: usize) -> u64 {
        let room = self.geometry.arena_bytes().saturating_sub(chunk_bytes(head_bytes, 0));
        room.min(self.body_bytes_max).min(u64::from(u32::MAX))
    }

    fn open(&mut self, lane: LaneId, entry: Entry, chunk: Option<Chunk>) -> (ExchangeId, bool) {
        let exchange = self.writer.push(entry);
        let lane = &mut self.lanes[lane.index()];
        (lane.state, lane.exchange, lane.chunk) = (State::Open, exchange, chunk);
        lane.cancelled = false;
        (exchange, self.ring.due())
    }

    /// Takes back every chunk whose loan returned.
    fn collect_loans(&mut self) {
        for index in 0..self.lanes.len() {
            self.collect_loan(index);
        }
    }

    fn collect_loan(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if lane.chunk.is_none() || !lane.loan.is_back(lane.exchange) {
            return;
        }
        if lane.state == State::Ended {
            lane.state = State::Free;
        }
        if let Some(chunk) = lane.chunk.take() {
            self.give_back(chunk);
        }
    }

    fn give_back(&mut self, chunk: Chunk) {
        let Some(pages) = self.arena.give_back(chunk) else { return };
        let at = self.geometry.arena_offset() + pages.start as usize;
        // A failure costs memory that the next large body uses again, nothing else.
        let _ = self.memory.punch(at, (pages.end - pages.start) as usize);
    }
}

impl Draft {
    /// Writes head and body in place.
    ///
    /// # Errors
    /// Whatever the body's writer says; the draft is to be abandoned then.
    pub(crate) fn fill(&mut self, body: impl Body) -> Result<()> {
        let at = self.arena_offset + self.chunk.offset() as usize;
        self.memory.copy_in(at, &self.head);
        let body_at = at + body_distance(self.head.len() as u32) as usize;
        // The chunk lies in an arena of at most 1 GiB.
        let room = self.body_bytes_max as usize;
        let mut out = BodyWriter::new(&self.memory, body_at, room);
        let result = body.write_to(&mut out);
        let (written, overflowed) = (out.written(), out.overflowed());
        match result {
            Ok(()) => {
                self.body_bytes = written as u32;
                Ok(())
            }
            Err(_) if overflowed => {
                Err(Error::body_too_large(self.body_bytes_max, self.body_bytes_max + 1))
            }
            Err(error) => {
                let text = format!("the body could not be written: {error}");
                Err(Error::new(Code::InvalidRequest, Stage::Submit, text).with_source(error))
            }
        }
    }
}

fn would_block(what: &str) -> Error {
    let text = format!("{what}; finish an exchange, or open another session");
    Error::new(Code::WouldBlock, Stage::Submit, text)
}
