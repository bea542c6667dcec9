//! A flight recorder: what a process saw, in memory that outlives it.
//!
//! A process that is killed cannot say how far it came. It notes every step on a tape instead, in
//! memory that it shares with its parent, without a system call: the last note is at most
//! nanoseconds older than the kill, and each note is published whole or not at all.

use std::io::stdin;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use ringmain_client::{Code, Error, Item, Sent, Stage};
use ringmain_shm::{Compat, PeerSegment, ReadMap, WriteMap, monotonic_ns, own_uid};
use ringmain_sim::contract::{CallerRecord, FrameKind, Mode, Recorder};

/// What a client was doing when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Attach = 1,
    Submit = 2,
    WaitForHead = 3,
    MidStream = 4,
    LaneFull = 5,
    Cancel = 6,
    AfterEnd = 7,
    /// Between two of the others: counted, and good for none of them.
    Idle = 8,
}

impl Phase {
    /// The phases that kills are drawn over.
    pub const DRAWN: [Phase; 7] = [
        Phase::Attach,
        Phase::Submit,
        Phase::WaitForHead,
        Phase::MidStream,
        Phase::LaneFull,
        Phase::Cancel,
        Phase::AfterEnd,
    ];

    /// The phase with this number.
    pub fn from_number(number: u64) -> Option<Phase> {
        let all = Phase::DRAWN.into_iter().chain([Phase::Idle]);
        all.into_iter().find(|phase| *phase as u64 == number)
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Attach => "attach",
            Phase::Submit => "submit",
            Phase::WaitForHead => "wait for head",
            Phase::MidStream => "mid-stream",
            Phase::LaneFull => "lane full",
            Phase::Cancel => "cancel",
            Phase::AfterEnd => "after END",
            Phase::Idle => "in between",
        }
    }
}

/// The parent's end of a tape.
pub struct Reel {
    map: ReadMap,
}

/// The process's end of a tape.
pub struct Tape {
    map: WriteMap,
    at: usize,
}

/// One kind of note. All but `Submit` belong to an exchange that was submitted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Accepted,
    Cancel,
    Delta,
    End,
    Error,
    Event,
    Head,
    Refused,
    Submit,
    Usage,
}

const KINDS: [Kind; 10] = [
    Kind::Accepted,
    Kind::Cancel,
    Kind::Delta,
    Kind::End,
    Kind::Error,
    Kind::Event,
    Kind::Head,
    Kind::Refused,
    Kind::Submit,
    Kind::Usage,
];

/// Bytes of a tape: sparse, a kill comes long before its end.
const BYTES: usize = 16 << 20;
/// Word: bytes of notes written.
const WRITTEN: usize = 0;
/// Word: the present phase.
const PHASE: usize = 8;
/// Word: one bit per phase entered so far.
const ENTERED: usize = 16;
/// Where notes begin: time, then kind, argument, exchange and length in one word, then payload.
const NOTES: usize = 64;
const HEADER_BYTES: usize = 16;

impl Tape {
    /// The tape that the parent passed as standard input.
    pub fn open() -> Tape {
        let fd = stdin().as_fd().try_clone_to_owned().unwrap();
        let map = WriteMap::attach(fd, BYTES).unwrap();
        Tape { map, at: NOTES }
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.map.store_release(PHASE, phase as u64);
        self.map.store_release(ENTERED, self.map.load(ENTERED) | 1 << phase as u64);
    }

    /// An exchange is about to be submitted; exchanges are numbered from 0 in this order.
    pub fn submit(&mut self, exchange: u16, mode: Mode, id: &str) {
        self.note(Kind::Submit, u16::from(mode == Mode::Events), exchange, id.as_bytes());
    }

    pub fn accepted(&mut self, exchange: u16) {
        self.note(Kind::Accepted, 0, exchange, &[]);
    }

    pub fn refused(&mut self, exchange: u16, code: Code) {
        self.note(Kind::Refused, code as u16, exchange, &[]);
    }

    /// The exchange is about to be cancelled; `dropped`: and read no further.
    pub fn cancel(&mut self, exchange: u16, dropped: bool) {
        self.note(Kind::Cancel, dropped.into(), exchange, &[]);
    }

    /// An item came, of the kinds that plain streams of text have.
    pub fn item(&mut self, exchange: u16, item: &Item<'_>) {
        match item {
            Item::Head(head) => {
                self.note(Kind::Head, head.status, exchange, head.log_id.as_bytes());
            }
            Item::Delta { choice, text } => {
                self.note(Kind::Delta, *choice, exchange, text.as_bytes())
            }
            Item::Event(bytes) => self.note(Kind::Event, 0, exchange, bytes),
            Item::Usage(_) => self.note(Kind::Usage, 0, exchange, &[]),
            Item::End(end) => self.note(Kind::End, 0, exchange, &end.bytes.to_le_bytes()),
            other => panic!("no answer here has items like {other:?}"),
        }
    }

    pub fn error(&mut self, exchange: u16, error: &Error) {
        let mut payload = [0; 12];
        payload[..8].copy_from_slice(&error.bytes().to_le_bytes());
        payload[8..10].copy_from_slice(&error.attempts().to_le_bytes());
        (payload[10], payload[11]) = (error.stage() as u8, error.sent() as u8);
        self.note(Kind::Error, error.code() as u16, exchange, &payload);
    }

    fn note(&mut self, kind: Kind, argument: u16, exchange: u16, payload: &[u8]) {
        let end = self.at + HEADER_BYTES + payload.len().next_multiple_of(8);
        assert!(end <= BYTES, "the tape is full: nobody killed this process in time");
        let word = kind as u64
            | u64::from(argument) << 8
            | u64::from(exchange) << 24
            | (payload.len() as u64) << 40;
        self.map.store(self.at, monotonic_ns());
        self.map.store(self.at + 8, word);
        self.map.copy_in(self.at + HEADER_BYTES, payload);
        self.at = end;
        self.map.store_release(WRITTEN, (end - NOTES) as u64);
    }
}

impl Reel {
    /// A blank tape, and what the process gets as its standard input.
    pub fn blank() -> (Reel, OwnedFd) {
        let segment = PeerSegment::create("ringmain-tape", BYTES, &Compat::default()).unwrap();
        (Reel { map: segment.map }, segment.fd)
    }

    /// Whether the process has been in this phase.
    pub fn has_entered(&self, phase: Phase) -> bool {
        self.map.load(ENTERED) & 1 << phase as u64 != 0
    }

    /// The phase that the process was in last.
    pub fn phase(&self) -> Option<Phase> {
        Phase::from_number(self.map.load(PHASE))
    }

    /// Everything that the process noted of its exchanges, as records of the contract.
    pub fn records(&self, process: u64) -> Vec<CallerRecord> {
        let end = NOTES + self.map.load(WRITTEN) as usize;
        // Pairs with: the release of the length.
        fence(Ordering::Acquire);
        let mut recorders: Vec<Recorder> = Vec::new();
        let mut at = NOTES;
        while at < end {
            let (time_ns, word) = (self.map.load(at), self.map.load(at + 8));
            let mut payload = vec![0; (word >> 40) as usize];
            self.map.copy_out(at + HEADER_BYTES, &mut payload);
            at += HEADER_BYTES + payload.len().next_multiple_of(8);
            let (argument, exchange) = ((word >> 8) as u16, (word >> 24) as u16);
            let kind = KINDS[(word & 0xff) as usize];
            if kind == Kind::Submit {
                assert_eq!(recorders.len(), usize::from(exchange), "a lost note");
                let id = String::from_utf8(payload).unwrap();
                recorders.push(begun(id, process, time_ns, argument != 0));
            } else {
                play(&mut recorders[usize::from(exchange)], kind, argument, &payload, time_ns);
            }
        }
        recorders.into_iter().map(Recorder::finish).collect()
    }
}

fn begun(id: String, process: u64, time_ns: u64, is_events: bool) -> Recorder {
    let mut recorder = Recorder::new(id, process, own_uid());
    let record = recorder.record();
    record.mode = if is_events { Mode::Events } else { Mode::Deltas };
    record.usage_requested = true;
    record.submitted_ns = time_ns;
    recorder
}

fn play(recorder: &mut Recorder, kind: Kind, argument: u16, payload: &[u8], time_ns: u64) {
    let word = || u64::from_le_bytes(*payload.first_chunk().unwrap());
    match kind {
        Kind::Accepted => recorder.accepted(0, 0, 0),
        Kind::Cancel => {
            recorder.cancelled(argument != 0);
            recorder.record().cancelled_ns = Some(time_ns);
        }
        Kind::Delta => recorder.content(FrameKind::Delta, argument, payload),
        Kind::End => recorder.end(Some(word())),
        Kind::Event => recorder.content(FrameKind::Event, 0, payload),
        Kind::Head => recorder.head(argument, str::from_utf8(payload).unwrap()),
        Kind::Refused => recorder.refused(Code::from_number(argument).unwrap()),
        Kind::Usage => recorder.usage(),
        Kind::Error => {
            let attempts = u16::from_le_bytes([payload[8], payload[9]]);
            let stage = Stage::from_number(payload[10]).unwrap();
            let sent = Sent::from_number(payload[11]).unwrap();
            let code = Code::from_number(argument).unwrap();
            recorder.error(code, stage, sent, Some(word()), attempts);
        }
        Kind::Submit => unreachable!("begins a recorder"),
    }
    // The recorder stamps with the present time, which is that of the replay.
    let record = recorder.record();
    if !matches!(kind, Kind::Accepted | Kind::Cancel | Kind::Refused)
        && let Some(frame) = record.frames.last_mut()
    {
        frame.t_ns = time_ns;
    }
    if record.returned_ns.is_some() {
        record.returned_ns = Some(time_ns);
    }
}
