//! The responder of a session as the broker is one, without its sockets, clocks and tasks: it
//! judges entries, charges for exchanges, carries them in steps, and ends the session at the
//! first thing that no honest caller does.

use std::collections::VecDeque;

use ringmain_policy::{QuotaLedger, Quotas, Slot};
use ringmain_ring::{Armed, LaneError, LaneWriter, LoanWriter, Memory, Push, Ring};
use ringmain_ring::{HeapMemory, SubmissionReader};
use ringmain_wire::frame::lines_of;
use ringmain_wire::limits::SUBMISSIONS_PER_TURN;
use ringmain_wire::{Entry, ExchangeId, Geometry, Kind, LaneId, Request, RequestHead, Submission};

use super::memory::{Guarded, Raced};

const UID: u32 = 7;
/// One lane less than the session has, so that a caller can run into it.
pub const EXCHANGES_MAX: u64 = 2;

pub struct Responder {
    geometry: Geometry,
    caller: Raced,
    own: Guarded,
    submissions: SubmissionReader<Raced>,
    lanes: Vec<Lane>,
    armed: Armed<Guarded>,
    ring: Ring<Raced>,
    ledger: QuotaLedger,
    has_ended: bool,
}

struct Lane {
    id: LaneId,
    writer: LaneWriter<Guarded, Raced>,
    loan: LoanWriter<Guarded>,
    /// What the writer should have open.
    open: Option<ExchangeId>,
    lent: Option<ExchangeId>,
    is_charged: bool,
    is_cancelled: bool,
    /// Lines that it waits for.
    parked: Option<u64>,
    /// What a push did not take.
    rest: Option<Message>,
    /// What was written and an honest caller has yet to read.
    sent: VecDeque<Message>,
}

/// The payload of one frame, or of several with MORE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub exchange: ExchangeId,
    pub kind: Kind,
    pub choice: u16,
    /// Bytes, of which the first is number `from` of its pattern.
    pub bytes: usize,
    pub from: usize,
}

/// What ends the session.
#[derive(Debug)]
pub struct Violation;

/// What a step of an exchange comes to.
pub type Stepped = Result<(), Violation>;

impl Message {
    /// Its payload: ASCII, so that text is cut anywhere.
    pub fn payload(&self) -> Vec<u8> {
        (self.from..self.from + self.bytes).map(|at| self.letter(at)).collect()
    }

    pub fn letter(&self, at: usize) -> u8 {
        b'a' + (at + self.exchange.0 as usize + usize::from(self.choice)) as u8 % 26
    }

    fn lines(&self, geometry: &Geometry) -> u64 {
        lines_of(self.bytes.min(geometry.frame_payload_max()))
    }
}

impl Responder {
    pub fn new(caller: Raced, responder: HeapMemory, geometry: Geometry, start: u64) -> Responder {
        let own = Guarded::new(responder, geometry, start);
        let lane = |id| Lane {
            id,
            writer: LaneWriter::new_at(own.clone(), caller.clone(), geometry, id, start),
            loan: LoanWriter::new(own.clone(), geometry, id),
            open: None,
            lent: None,
            is_charged: false,
            is_cancelled: false,
            parked: None,
            rest: None,
            sent: VecDeque::new(),
        };
        let quotas = Quotas { sessions: 1, exchanges: EXCHANGES_MAX, ..Quotas::default() };
        let mut ledger = QuotaLedger::new(quotas);
        ledger.charge(UID, Slot::Sessions, 1).expect("the first session");
        Responder {
            geometry,
            submissions: SubmissionReader::new_at(caller.clone(), geometry, start),
            lanes: geometry.all_lanes().map(lane).collect(),
            armed: Armed::new(own.clone(), Geometry::RESPONDER_ARMED),
            ring: Ring::new(caller.clone(), Geometry::CALLER_ARMED),
            caller,
            own,
            ledger,
            has_ended: false,
        }
    }

    /// One bounded turn of the session: entries, starved lanes, one ring, a look before sleep.
    pub fn turn(&mut self) -> Result<(), Violation> {
        self.armed.disarm();
        let mut taken = 0;
        while taken < SUBMISSIONS_PER_TURN {
            let Some((id, entry)) = self.submissions.next() else { break };
            self.take(id, &entry)?;
            taken += 1;
        }
        if taken == 0 && self.submissions.is_overrun() {
            return Err(Violation);
        }
        for index in 0..self.lanes.len() {
            self.look(index)?;
        }
        let _ = self.ring.due();
        self.armed.arm();
        let _ = self.submissions.is_ready();
        Ok(())
    }

    /// Carries the exchange of a lane on by one message, or ends it when it was cancelled.
    pub fn step(&mut self, index: usize, kind: Kind, choice: u16, bytes: usize) -> Stepped {
        let lane = &mut self.lanes[index];
        let Some(exchange) = lane.open else { return Ok(()) };
        if lane.is_cancelled {
            self.finish(index, Kind::Error, 40);
            return Ok(());
        }
        if lane.parked.is_some() {
            return self.look(index);
        }
        let fresh = Message { exchange, kind, choice, bytes, from: 0 };
        let message = lane.rest.take().unwrap_or(fresh);
        self.push(index, message)
    }

    /// Ends the exchange of a lane.
    pub fn finish(&mut self, index: usize, kind: Kind, bytes: usize) {
        let lane = &mut self.lanes[index];
        assert_eq!(lane.writer.open(), lane.open);
        let Some(exchange) = lane.open.take() else { return };
        if std::mem::take(&mut lane.is_charged) {
            self.ledger.give_back(UID, Slot::Exchanges, 1);
        }
        self.own.take_in_hand(lane.id);
        let message = Message { exchange, kind, choice: 0, bytes, from: 0 };
        // An open exchange takes its terminal, whatever the caller did to its cursor.
        lane.writer.finish(kind, &message.payload(), 0).expect("an open exchange");
        lane.sent.push_back(message);
        lane.parked = None;
        lane.rest = None;
        assert_eq!(self.own.last_terminal(lane.id), Some(exchange.0));
    }

    /// Gives the loan of a lane back, whether its exchange still runs or not.
    pub fn give_back(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if let Some(id) = lane.lent.take() {
            self.own.take_in_hand(lane.id);
            lane.loan.give_back(id);
        }
    }

    /// Ends the session: what runs gets its terminal, and everything that was charged comes back.
    pub fn end(&mut self) {
        for index in 0..self.lanes.len() {
            self.finish(index, Kind::Error, 80);
            self.give_back(index);
        }
        if !std::mem::replace(&mut self.has_ended, true) {
            self.ledger.give_back(UID, Slot::Sessions, 1);
        }
        assert!(self.ledger.is_at_zero(), "a quota is not back");
    }

    /// The oldest message of a lane that its caller has not read.
    pub fn take_sent(&mut self, index: usize) -> Option<Message> {
        self.lanes[index].sent.pop_front()
    }

    fn take(&mut self, id: ExchangeId, entry: &Entry) -> Result<(), Violation> {
        match Submission::parse(entry, &self.geometry).map_err(|_| Violation)? {
            Submission::Cancel { lane, target } => {
                let lane = &mut self.lanes[lane.index()];
                assert_eq!(lane.writer.carries(target), lane.open == Some(target));
                lane.is_cancelled |= lane.open == Some(target);
            }
            Submission::Ping { lane } => {
                self.begin(lane, id)?;
                self.give_back(lane.index());
                self.finish(lane.index(), Kind::End, 16);
            }
            Submission::Request(request) => {
                self.begin(request.lane, id)?;
                if !self.is_served(&request) {
                    self.finish(request.lane.index(), Kind::Error, 200);
                    self.give_back(request.lane.index());
                }
            }
            _ => return Err(Violation),
        }
        Ok(())
    }

    fn begin(&mut self, lane: LaneId, id: ExchangeId) -> Result<(), Violation> {
        let lane = &mut self.lanes[lane.index()];
        if lane.lent.is_some() {
            return Err(Violation);
        }
        lane.writer.begin(id).map_err(|_| Violation)?;
        assert_eq!(lane.open.replace(id), None, "two exchanges on one lane");
        lane.lent = Some(id);
        lane.is_cancelled = false;
        Ok(())
    }

    /// Charges for a request and looks at what lies in the arena.
    fn is_served(&mut self, request: &Request) -> bool {
        if self.ledger.charge(UID, Slot::Exchanges, 1).is_err() {
            return false;
        }
        self.lanes[request.lane.index()].is_charged = true;
        let arena = self.geometry.arena_offset();
        let mut head = vec![0; request.head_bytes()];
        self.caller.copy_out(arena + request.head_offset() as usize, &mut head);
        // The first and the last bytes of the body: both must lie in the segment.
        let body = arena + request.body_offset() as usize;
        let last = request.body_bytes().saturating_sub(1) / 8 * 8;
        for at in [0, last] {
            let bytes = (request.body_bytes() - at).min(8);
            self.caller.copy_out(body + at, &mut [0; 8][..bytes]);
        }
        RequestHead::parse(&head).is_ok()
    }

    fn push(&mut self, index: usize, message: Message) -> Stepped {
        let lane = &mut self.lanes[index];
        self.own.take_in_hand(lane.id);
        let Message { kind, choice, bytes, .. } = message;
        match lane.writer.push(kind, choice, &message.payload(), 0) {
            Ok(Push::Written) => lane.note(message),
            Ok(Push::Partly(taken)) => {
                assert!(taken > 0 && taken < bytes);
                lane.note(message);
                let from = message.from + taken;
                lane.rest = Some(Message { bytes: bytes - taken, from, ..message });
                self.park(index)?;
            }
            Ok(Push::Full) => {
                lane.rest = Some(message);
                self.park(index)?;
            }
            Err(LaneError::Cursor(_)) => return Err(Violation),
            Err(error) => panic!("{error} on an open exchange"),
        }
        Ok(())
    }

    fn park(&mut self, index: usize) -> Stepped {
        let lane = &mut self.lanes[index];
        let lines = lane.rest.map_or(1, |rest| rest.lines(&self.geometry));
        lane.parked = Some(lines);
        self.look(index)
    }

    /// Wakes what waits on a lane if there is room, which then is.
    fn look(&mut self, index: usize) -> Stepped {
        let lane = &mut self.lanes[index];
        let Some(lines) = lane.parked else { return Ok(()) };
        self.own.take_in_hand(lane.id);
        if lane.writer.starve(lines).map_err(|_| Violation)? {
            return Ok(());
        }
        lane.parked = None;
        let has_room = lane.writer.has_room(lines).map_err(|_| Violation)?;
        assert!(has_room, "no room for {lines} lines after a wake-up");
        Ok(())
    }
}

impl Lane {
    /// Keeps in mind what was begun to be sent; the rest of it is no message of its own.
    fn note(&mut self, message: Message) {
        if message.from == 0 {
            self.sent.push_back(message);
        }
    }
}
