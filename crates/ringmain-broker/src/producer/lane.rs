//! One lane of a producer's session as the broker reads it.

use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};
use ringmain_ring::{FrameError, LaneReader};
use ringmain_shm::{ReadMap, WriteMap};
use ringmain_wire::frame::FrameHeader;
use ringmain_wire::{Code, Geometry, Kind, LaneId};

use crate::failure::Violation;

/// Frames of an abandoned exchange that are thrown away in one look.
const DRAINED_PER_LOOK: u32 = 64;
/// Laps of frames that may come of an abandoned exchange. Whoever looks for cancels before it
/// waits for room writes one at most.
const LAPS_UNWANTED: u64 = 16;

pub(super) struct Lane {
    id: LaneId,
    state: Mutex<State>,
}

/// The reading end of a lane, and the task that waits for it.
pub(super) struct State {
    reader: LaneReader<WriteMap, ReadMap>,
    waker: Option<Waker>,
    /// Nobody wants what still comes of the present exchange.
    is_abandoned: bool,
    /// Frames that may still come of it.
    unwanted: u64,
    /// Lines of the lane.
    lines: u64,
    /// Frames that may still be read once the producer is gone: what it can have published, and
    /// no more, should its process go on writing.
    rest: u64,
}

/// What a look at a lane found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Frames that nobody wants.
    Drained {
        /// The terminal frame was among them.
        ended: bool,
        /// The producer waits for room.
        due: bool,
    },
    /// Nobody waits.
    Idle,
    /// Somebody waits and nothing came.
    Silent,
    /// Something came: the task was woken.
    Woken,
}

impl Lane {
    pub fn new(own: &WriteMap, theirs: &ReadMap, geometry: Geometry, id: LaneId) -> Lane {
        let reader = LaneReader::new(own.clone(), theirs.clone(), geometry, id);
        let (lines, is_abandoned, unwanted) = (geometry.lane_lines(), false, 0);
        let state = State { reader, waker: None, is_abandoned, unwanted, lines, rest: lines };
        Lane { id, state: Mutex::new(state) }
    }

    pub fn id(&self) -> LaneId {
        self.id
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Wakes the waiting task, whatever the lane holds.
    pub fn wake(&self) {
        if let Some(waker) = self.state.lock().waker.take() {
            waker.wake();
        }
    }

    /// Wakes the waiting task if there is something for it, or throws away what nobody wants.
    pub fn look(&self) -> Result<Look, Violation> {
        let mut state = self.state.lock();
        if state.is_abandoned {
            return state.drain();
        }
        if state.waker.is_none() {
            return Ok(Look::Idle);
        }
        if !state.is_ready() {
            return Ok(Look::Silent);
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Ok(Look::Woken)
    }
}

impl State {
    /// Whether a further frame may be read from a producer that is gone, or not.
    pub fn may_read(&mut self, is_gone: bool) -> bool {
        if is_gone {
            self.rest = self.rest.saturating_sub(1);
        }
        self.rest > 0
    }

    /// The next frame, copied and released.
    pub fn next(&mut self, buf: &mut Vec<u8>) -> Result<Option<FrameHeader>, FrameError> {
        self.reader.next_copied(buf)
    }

    /// Whether the producer waits for the cursor that was published.
    pub fn take_ring(&mut self) -> bool {
        self.reader.take_ring()
    }

    pub fn is_ready(&self) -> bool {
        self.reader.is_ready()
    }

    pub fn park(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }

    pub fn unpark(&mut self) {
        self.waker = None;
    }

    /// From here on frames are thrown away, up to the terminal one.
    pub fn abandon(&mut self) {
        self.waker = None;
        self.is_abandoned = true;
        self.unwanted = self.lines * LAPS_UNWANTED;
    }

    fn drain(&mut self) -> Result<Look, Violation> {
        let (mut buf, mut ended, mut read) = (Vec::new(), false, 0);
        while !ended && read < DRAINED_PER_LOOK {
            let header = self.reader.next_copied(&mut buf);
            let header = header.map_err(|error| Violation::new(Code::ViolationFrame, error))?;
            let Some(header) = header else { break };
            ended = Kind::from_number(header.kind).is_some_and(Kind::is_terminal);
            read += 1;
        }
        self.is_abandoned = !ended;
        self.unwanted = self.unwanted.saturating_sub(u64::from(read));
        if !ended && self.unwanted == 0 {
            let text = "an exchange that was cancelled goes on and on";
            return Err(Violation::new(Code::ViolationFrame, text));
        }
        let due = self.reader.take_ring();
        Ok(if read == 0 { Look::Silent } else { Look::Drained { ended, due } })
    }
}
