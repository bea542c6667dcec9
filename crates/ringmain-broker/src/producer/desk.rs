//! What the broker submits to a producer: entries, chunks of its arena, and which lane is whose.
//! Private bookkeeping behind one lock; nothing of it is read back from shared memory but the
//! loan words.

use std::time::Duration;

use ringmain_ring::{Arena, Chunk, LoanReader, SubmissionWriter};
use ringmain_shm::{ReadMap, WriteMap};
use ringmain_wire::entry::body_distance;
use ringmain_wire::{Entry, ExchangeId, Flags, Geometry, LaneId, Mode};
use tokio::time::Instant;

/// Lanes of a producer pass through `Free -> Held -> Open -> Over -> Free`. The last step waits
/// for the terminal frame of an exchange that was given up, and for the loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// A request is being copied.
    Held,
    /// The producer works on it.
    Open,
    /// Cancelled; the terminal frame is awaited.
    Cancelled {
        since: Instant,
    },
    /// The terminal frame was read; the chunk is still out.
    Ended {
        since: Instant,
    },
}

pub(super) struct Desk {
    writer: SubmissionWriter<WriteMap>,
    arena: Arena,
    own: WriteMap,
    geometry: Geometry,
    // Bound: one row per lane of the geometry.
    rows: Box<[Row]>,
}

struct Row {
    lane: LaneId,
    state: State,
    exchange: ExchangeId,
    chunk: Option<Chunk>,
    loan: LoanReader<ReadMap>,
}

/// A lane and a chunk for one request.
#[derive(Debug)]
pub(super) struct Place {
    pub lane: LaneId,
    /// Byte offset of the chunk in the segment.
    pub head_at: usize,
    /// Byte offset of the body in the segment.
    pub body_at: usize,
}

/// Why there is no place now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// Every lane is taken, or the arena has no piece of this size free.
    Busy,
    /// It would not fit into the empty arena.
    TooLarge { arena_bytes: u64 },
}

/// What an entry says of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub mode: Mode,
    pub flags: Flags,
    pub deadline_ns: u64,
    pub head_bytes: u32,
    pub body_bytes: u32,
}

impl Desk {
    pub fn new(own: &WriteMap, theirs: &ReadMap, geometry: Geometry) -> Desk {
        let row = |lane| Row {
            lane,
            state: State::Free,
            exchange: ExchangeId(0),
            chunk: None,
            loan: LoanReader::new(theirs.clone(), geometry, lane),
        };
        Desk {
            writer: SubmissionWriter::new(own.clone(), geometry),
            arena: Arena::new(geometry.arena_bytes()),
            own: own.clone(),
            geometry,
            rows: geometry.all_lanes().map(row).collect(),
        }
    }

    /// Takes the lowest free lane and the lowest chunk that holds head and body.
    pub fn reserve(&mut self, head_bytes: u32, body_bytes: u32) -> Result<Place, NoPlace> {
        let bytes = body_distance(head_bytes) + u64::from(body_bytes);
        if bytes > self.geometry.arena_bytes() {
            return Err(NoPlace::TooLarge { arena_bytes: self.geometry.arena_bytes() });
        }
        self.collect();
        let row = self.rows.iter_mut().find(|row| row.state == State::Free);
        let row = row.ok_or(NoPlace::Busy)?;
        let chunk = self.arena.take(bytes).ok_or(NoPlace::Busy)?;
        row.state = State::Held;
        let head_at = self.geometry.arena_offset() + chunk.offset() as usize;
        row.chunk = Some(chunk);
        let body_at = head_at + body_distance(head_bytes) as usize;
        Ok(Place { lane: row.lane, head_at, body_at })
    }

    /// Takes a place back into which nothing was submitted.
    pub fn abandon(&mut self, lane: LaneId) {
        let row = &mut self.rows[lane.index()];
        row.state = State::Free;
        if let Some(chunk) = row.chunk.take() {
            self.give_back(chunk);
        }
    }

    /// Publishes a request whose head and body stand in its place.
    pub fn submit(&mut self, lane: LaneId, ask: Ask) -> ExchangeId {
        let Ask { mode, flags, deadline_ns, head_bytes, body_bytes } = ask;
        let row = &mut self.rows[lane.index()];
        let offset = row.chunk.as_ref().map_or(0, Chunk::offset);
        let deadline_ns = Some(deadline_ns);
        let entry = Entry::request(lane, mode, flags, deadline_ns, offset, head_bytes, body_bytes);
        row.exchange = self.writer.push(entry);
        row.state = State::Open;
        row.exchange
    }

    /// Publishes a cancel of the lane's exchange.
    // Bound: one per exchange, or the submission ring could be overrun.
    pub fn cancel(&mut self, lane: LaneId) {
        let row = &mut self.rows[lane.index()];
        if row.state == State::Open {
            row.state = State::Cancelled { since: Instant::now() };
            self.writer.push(Entry::cancel(lane, row.exchange));
        }
    }

    /// The terminal frame of the lane was read; true if its loan is still out.
    pub fn end(&mut self, lane: LaneId) -> bool {
        let row = &mut self.rows[lane.index()];
        // Patience began when it was cancelled.
        let since = match row.state {
            State::Cancelled { since } => since,
            _ => Instant::now(),
        };
        row.state = State::Ended { since };
        self.collect();
        self.rows[lane.index()].state != State::Free
    }

    /// Takes back every chunk whose loan returned.
    pub fn collect(&mut self) {
        for index in 0..self.rows.len() {
            let row = &mut self.rows[index];
            let is_ended = matches!(row.state, State::Ended { .. });
            if is_ended && row.loan.is_back(row.exchange) {
                row.state = State::Free;
                if let Some(chunk) = row.chunk.take() {
                    self.give_back(chunk);
                }
            }
        }
    }

    /// When the oldest exchange that is over and not let go of exceeds this patience.
    pub fn owed_until(&self, patience: Duration) -> Option<Instant> {
        let since = self.rows.iter().filter_map(|row| match row.state {
            State::Cancelled { since } | State::Ended { since } => Some(since),
            _ => None,
        });
        since.min().map(|since| since + patience)
    }

    fn give_back(&mut self, chunk: Chunk) {
        let Some(pages) = self.arena.give_back(chunk) else { return };
        let at = self.geometry.arena_offset() + pages.start as usize;
        // A failure costs memory that the next large body uses again, nothing else.
        let _ = self.own.punch(at, (pages.end - pages.start) as usize);
    }

    #[cfg(test)]
    fn is_whole(&self) -> bool {
        self.arena.is_whole() && self.rows.iter().all(|row| row.state == State::Free)
    }
}

#[cfg(test)]
mod tests {
    use ringmain_ring::LoanWriter;
    use ringmain_shm::{Compat, OwnSegment, PeerSegment, own_uid};

    use super::*;

    /// A desk, and the producer's loan words.
    fn desk() -> (Desk, Vec<LoanWriter<WriteMap>>) {
        let geometry = Geometry::new(2, 4096, 65536).unwrap();
        let compat = Compat::default();
        let own = OwnSegment::create("own", geometry.caller_bytes(), own_uid(), &compat).unwrap();
        let bytes = geometry.responder_bytes();
        let theirs = PeerSegment::create("theirs", bytes, &compat).unwrap();
        let producer = WriteMap::attach(theirs.fd, bytes).unwrap();
        let loan = |lane| LoanWriter::new(producer.clone(), geometry, lane);
        let loans = geometry.all_lanes().map(loan).collect();
        (Desk::new(&own.map, &theirs.map, geometry), loans)
    }

    fn ask() -> Ask {
        let (mode, flags) = (Mode::Deltas, Flags::NONE);
        Ask { mode, flags, deadline_ns: 1, head_bytes: 10, body_bytes: 100 }
    }

    #[tokio::test]
    async fn a_lane_is_free_after_its_terminal_and_its_loan() {
        let (mut desk, loans) = desk();
        let place = desk.reserve(10, 100).unwrap();
        assert_eq!(place.body_at, place.head_at + 64);
        let id = desk.submit(place.lane, ask());
        assert_eq!(desk.owed_until(Duration::ZERO), None);
        assert!(desk.end(place.lane));
        assert!(desk.owed_until(Duration::ZERO).is_some() && !desk.is_whole());
        loans[place.lane.index()].give_back(id);
        desk.collect();
        assert!(desk.is_whole());
    }

    #[tokio::test]
    async fn a_cancelled_exchange_keeps_its_lane_until_its_terminal() {
        let (mut desk, loans) = desk();
        let place = desk.reserve(10, 100).unwrap();
        let id = desk.submit(place.lane, ask());
        desk.cancel(place.lane);
        // The loan alone does not free it: frames may still come.
        loans[place.lane.index()].give_back(id);
        desk.collect();
        assert!(!desk.is_whole() && desk.owed_until(Duration::ZERO).is_some());
        assert!(!desk.end(place.lane));
        assert!(desk.is_whole());
    }

    #[tokio::test]
    async fn places_are_as_many_as_lanes_and_as_large_as_the_arena() {
        let (mut desk, _loans) = desk();
        let first = desk.reserve(10, 100).unwrap();
        assert_eq!(desk.reserve(10, 65536).unwrap_err(), NoPlace::TooLarge { arena_bytes: 65536 });
        // In pieces there is room enough.
        assert_eq!(desk.reserve(10, 65536 - 64).unwrap_err(), NoPlace::Busy);
        let _second = desk.reserve(10, 100).unwrap();
        assert_eq!(desk.reserve(10, 1).unwrap_err(), NoPlace::Busy);
        desk.abandon(first.lane);
        assert_eq!(desk.reserve(10, 1).unwrap().lane, first.lane);
    }
}
