//! A session: one attached process.
//!
//! What its tasks share stands here; [`task`] is the session's own task, [`watch`] what it waits
//! for, [`spin`] how it waits without sleeping, [`lane`] one lane, [`doorbell`] the way to wake the
//! peer, and [`held`] the way to wake it once for what many tasks wrote.

mod doorbell;
mod held;
mod lane;
mod reaper;
mod spin;
pub(crate) mod task;
pub(crate) mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use ringmain_ring::{CursorError, LaneError, Push};
use ringmain_shm::{Puncher, ReadMap, RingerKind, WriteMap};
use ringmain_wire::{Code, ExchangeId, Geometry, Kind, LaneId};
use tokio::sync::Notify;

pub(crate) use doorbell::{Bells, PeerBell};
pub(crate) use lane::Lane;
use lane::Look;
pub(crate) use reaper::{Reaper, Remains};
pub(crate) use spin::Spinners;

use crate::account::Charge;
use crate::allow::Identity;
use crate::failure::Violation;
use crate::stop::StopCause;

/// What the tasks of a session share. When the last one lets go, the segments are punched and then
/// the quota returned: a peer that keeps its mappings keeps none of the broker's memory.
pub(crate) struct Session {
    pub id: u64,
    pub peer: Identity,
    pub geometry: Geometry,
    /// Exchanges in flight.
    pub exchanges: AtomicU64,
    /// Exchanges ever accepted.
    pub exchanges_total: AtomicU64,
    /// Bytes of the arena whose loan is out.
    lent: AtomicU64,
    caller: ReadMap,
    lanes: Box<[Lane]>,
    bell: Arc<PeerBell>,
    /// One bit per lane with a task that waits for room.
    starved: Box<[AtomicU64]>,
    violation: Mutex<Option<Violation>>,
    told: Notify,
    reaper: Reaper,
    /// Taken by the drop.
    remains: Option<Remains>,
}

/// What a session is made of.
pub(crate) struct SessionParts {
    pub id: u64,
    pub peer: Identity,
    pub geometry: Geometry,
    pub caller: ReadMap,
    pub responder: WriteMap,
    pub bell: Arc<PeerBell>,
    pub punchers: [Puncher; 2],
    pub charges: [Charge; 2],
    pub reaper: Reaper,
}

const BITS: usize = u64::BITS as usize;

impl Session {
    pub fn new(parts: SessionParts) -> Arc<Session> {
        let SessionParts { id, peer, geometry, caller, responder, bell, .. } = parts;
        let SessionParts { punchers, charges, reaper, .. } = parts;
        let lane = |id| Lane::new(&responder, &caller, geometry, id);
        let lanes: Box<[Lane]> = geometry.all_lanes().map(lane).collect();
        let starved = (0..lanes.len().div_ceil(BITS)).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Session {
            id,
            peer,
            geometry,
            exchanges: AtomicU64::new(0),
            exchanges_total: AtomicU64::new(0),
            lent: AtomicU64::new(0),
            caller,
            lanes,
            bell,
            starved,
            violation: Mutex::new(None),
            told: Notify::new(),
            reaper,
            remains: Some(Remains { session: id, punchers, charges }),
        })
    }

    /// A lane of this session's geometry.
    pub fn lane(&self, id: LaneId) -> &Lane {
        &self.lanes[id.index()]
    }

    /// The segment that the peer writes.
    pub fn caller(&self) -> &ReadMap {
        &self.caller
    }

    /// Counts a request's part of the arena as lent. The parts of an honest caller are disjoint, so
    /// together they are never more than the arena; requests that overlap would have the broker
    /// read, and copy, many times what its peer wrote.
    pub fn lend(&self, bytes: u64) -> Result<(), Violation> {
        let arena = self.geometry.arena_bytes();
        let lent = self.lent.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if lent <= arena {
            return Ok(());
        }
        let text = format!("requests in flight share an arena of {arena} bytes and name {lent}");
        Err(Violation::new(Code::ViolationEntry, text))
    }

    /// A lent part of the arena goes back to the caller, who has to be rung afterwards.
    pub fn return_loan(&self, lane: LaneId, id: ExchangeId, bytes: u64) {
        // Before the loan word is stored: the caller's next request is counted after it.
        self.lent.fetch_sub(bytes, Ordering::Relaxed);
        self.lane(lane).return_loan(id);
    }

    /// Wakes the peer if it sleeps: after a batch of publications, before waiting.
    #[inline]
    pub fn ring(&self) {
        self.bell.ring_if_due();
    }

    /// The same for an exchange, with this many running beside it: they may have something too.
    #[inline]
    pub fn ring_beside(&self, others: u64) {
        match others {
            0 => self.bell.ring_if_due(),
            _ => self.bell.ring_with_others(),
        }
    }

    /// How the peer is rung.
    pub fn bell_kind(&self) -> RingerKind {
        self.bell.kind()
    }

    /// Writes a frame as far as there is room; it carries this time.
    ///
    /// An impossible cursor is told to the session's task, which ends the session.
    pub fn push(
        &self,
        lane: LaneId,
        kind: Kind,
        choice: u16,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<Push, LaneError> {
        self.lane(lane).push(kind, choice, payload, now_ns).inspect_err(|error| {
            if let LaneError::Cursor(error) = error {
                self.accuse_cursor(*error);
            }
        })
    }

    /// Waits for room in a lane.
    pub fn poll_room(
        &self,
        lane: LaneId,
        cx: &mut Context<'_>,
        lines: u64,
    ) -> Poll<Result<(), CursorError>> {
        let announce = || {
            self.starved_word(lane).fetch_or(bit(lane), Ordering::Relaxed);
        };
        self.lane(lane).poll_room(cx, lines, announce).map_err(|error| {
            self.accuse_cursor(error);
            error
        })
    }

    /// Wakes every task whose lane has room by now; true if there was one.
    ///
    /// An impossible cursor is kept as the session's violation: the bit of its lane is gone, so a
    /// later look would not meet it again.
    pub fn feed_starved(&self) -> Result<bool, Violation> {
        let mut woke_one = false;
        for (index, word) in self.starved.iter().enumerate() {
            let mut bits = word.load(Ordering::Relaxed);
            // Bound: one round per bit of the word.
            while bits != 0 {
                let at = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                // Cleared before the look: a task that parks after it sets the bit again, under
                // the lock of the lane that the look takes.
                word.fetch_and(!(1 << at), Ordering::Relaxed);
                match self.lanes[index * BITS + at].look().map_err(|e| self.accuse_cursor(e))? {
                    Look::Idle => {}
                    Look::Starved => _ = word.fetch_or(1 << at, Ordering::Relaxed),
                    Look::Woken => woke_one = true,
                }
            }
        }
        Ok(woke_one)
    }

    /// Tells the session's task to look at what changed outside its bell.
    pub fn tell(&self) {
        self.told.notify_one();
    }

    pub async fn told(&self) {
        self.told.notified().await;
    }

    /// Ends the session for something that its peer did; the first reason counts.
    pub fn accuse(&self, violation: Violation) {
        self.violation.lock().get_or_insert(violation);
        self.tell();
    }

    pub fn violation(&self) -> Option<Violation> {
        self.violation.lock().clone()
    }

    /// Stops every exchange in flight.
    pub fn stop_all(&self, cause: StopCause) {
        self.lanes.iter().for_each(|lane| lane.stop(cause));
    }

    fn accuse_cursor(&self, error: CursorError) -> Violation {
        let violation = Violation::new(Code::ViolationCursor, error);
        self.accuse(violation.clone());
        violation
    }

    fn starved_word(&self, lane: LaneId) -> &AtomicU64 {
        &self.starved[lane.index() / BITS]
    }
}

fn bit(lane: LaneId) -> u64 {
    1 << (lane.index() % BITS)
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(remains) = self.remains.take() {
            self.reaper.reap(remains);
        }
    }
}
