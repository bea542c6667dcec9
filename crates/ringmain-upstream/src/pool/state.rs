//! What a pool has decided so far: its connections, and those who wait for one.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::idle::IdleLimit;
use super::queue::Queue;
use super::roster::{Gone, Pick, Roster, SlotId};
use super::slot::Slot;
use super::streams::StreamLimit;
use super::{Lease, NoPlace, Place, demand};

/// Most requests of one uid that wait for a place: as many as it may have in flight.
const WAITING_OF_UID_MAX: usize = 16_384;

/// Most requests of all uids that wait.
pub(super) const WAITING_MAX: usize = 4 * WAITING_OF_UID_MAX;

/// Someone who waits for a place.
pub(super) type Turn = oneshot::Sender<Result<Lease, NoPlace>>;

pub(super) struct State {
    pub roster: Roster<Arc<Slot>>,
    pub waiting: Queue<Turn>,
    pub idle: IdleLimit,
    pub streams: StreamLimit,
    /// When the keeper looks next.
    pub looks_at: Option<Instant>,
}

impl State {
    pub fn new(roster: Roster<Arc<Slot>>, idle: IdleLimit, streams: u32) -> State {
        State {
            roster,
            waiting: Queue::new(WAITING_MAX, WAITING_OF_UID_MAX),
            idle,
            streams: StreamLimit::new(streams),
            looks_at: None,
        }
    }

    /// A turn behind the others of a uid.
    pub fn queue(
        &mut self,
        uid: u32,
        slots_max: usize,
    ) -> Result<oneshot::Receiver<Result<Lease, NoPlace>>, NoPlace> {
        let (turn, granted) = oneshot::channel();
        if let Err(turn) = self.waiting.push(uid, turn) {
            self.waiting.retain(|turn| !turn.is_closed());
            self.waiting.push(uid, turn).map_err(|_| NoPlace::Full(slots_max))?;
        }
        Ok(granted)
    }

    /// Finds places for those who wait. Bound: the length of the queue.
    pub fn serve(
        &mut self,
        now: Instant,
        gone: &mut Gone<Arc<Slot>>,
        grants: &mut Vec<(Turn, Place)>,
    ) {
        while let Some((uid, turn)) = self.waiting.pop() {
            if turn.is_closed() {
                continue;
            }
            let idle_max = self.idle.now(now);
            match self.roster.pick(self.waiting.len(), idle_max, now, gone) {
                Pick::Place(id, slot, unused) => grants.push((turn, (id, Some((slot, unused))))),
                Pick::Vacant(id) => grants.push((turn, (id, None))),
                Pick::Wait => {
                    self.waiting.put_back((uid, turn));
                    return;
                }
            }
        }
    }

    /// A connection could not be made. Gives those who waited for it: with none that stands, each
    /// of those that are being made is waited for by as many as any other. Where some stand, those
    /// who wait have a chance there, and each makes a connection of its own if it may.
    pub fn not_made(&mut self) -> Vec<Turn> {
        self.roster.doubt();
        let (standing, ..) = self.roster.counts();
        let making = self.roster.size() - standing;
        let share = if standing > 0 { 0 } else { self.waiting.len().div_ceil(making.max(1)) };
        (0..share).map_while(|_| self.waiting.pop()).map(|(_, turn)| turn).collect()
    }

    /// A server would not take one more than `streams` on a connection. That one is given no more;
    /// the others are if it is believed.
    pub fn crowded(&mut self, id: SlotId, streams: u32, now: Instant) {
        if self.roster.bound_places_of(id, streams) {
            self.streams.held_back(now);
        }
        if self.streams.refused(streams, now) {
            self.roster.bound_places(self.streams.limit());
        }
    }

    /// A request on a connection was answered. True when no connection has fewer places than it
    /// may have at most.
    pub fn thrives(&mut self, id: SlotId, now: Instant) -> bool {
        let grows = self.roster.is_full(id) && self.streams.works_full(now);
        grows && self.roster.raise_places(self.streams.limit()) && self.streams.is_most()
    }

    /// Whether something may be due before the keeper looks again.
    pub fn outruns_keeper(&mut self, now: Instant) -> bool {
        if self.roster.size() == 0 {
            return false;
        }
        let soonest = now + self.idle.now(now).min(demand::WINDOW);
        match self.looks_at {
            Some(at) if at <= soonest => false,
            _ => {
                // Told once.
                self.looks_at = Some(soonest);
                true
            }
        }
    }
}
