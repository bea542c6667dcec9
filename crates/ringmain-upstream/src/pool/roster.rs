//! Which slot a request gets, and which slots go: decided without I/O, clock or lock.
//!
//! ```text
//! vacant -> connecting -> open <-> (no room) -> vacant
//!                \            \-> leaving ------/
//!                 \--------------------------->/
//! ```
//! The lowest slot with room is taken, so under a falling demand the higher ones fall idle and go.

use std::time::{Duration, Instant};

use super::demand::Demand;
use super::gauges::Cause;
use super::room::Room;

/// The bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub slots_max: usize,
    pub lifetime_max: Duration,
}

/// One connection, ever: a slot that is used again has another serial number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotId {
    index: usize,
    serial: u64,
}

/// What a request is given.
#[derive(Debug)]
pub(super) enum Pick<T> {
    /// A place on a connection that stands, and how long it was unused.
    Place(SlotId, T, Duration),
    /// A slot without a connection, which the request is to make.
    Vacant(SlotId),
    /// Nothing yet: connections are being made that will have room, or there may be no more.
    Wait,
}

/// What a slot was freed of, to be dropped outside of any lock; without a cause if its connection
/// never stood.
pub(super) type Left<T> = (T, Option<Cause>);

/// All that was left in one go.
pub(super) type Gone<T> = Vec<Left<T>>;

/// The slots of a pool, each with what stands for its connection.
#[derive(Debug)]
pub(super) struct Roster<T> {
    bounds: Bounds,
    entries: Vec<Entry<T>>,
    /// Open slots that can take a request.
    room: Room,
    vacant: Room,
    serial: u64,
    connecting: usize,
    /// Open and leaving ones.
    standing: usize,
    in_use: usize,
    streams: usize,
    /// Places on the next connection, once the first has shown it.
    expected: Option<u32>,
    /// Whether the last connection could not be made: the next ones are not waited for.
    is_doubted: bool,
    demand: Demand,
}

#[derive(Debug)]
struct Entry<T> {
    serial: u64,
    phase: Phase,
    value: Option<T>,
    streams: u32,
    places: u32,
    most: u32,
    retire_at: Instant,
    idle_since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Vacant,
    Connecting,
    Open,
    Leaving(Cause),
}

impl<T: Clone> Roster<T> {
    /// `expected`: places on a connection, if that is known before one stands.
    pub fn new(bounds: Bounds, expected: Option<u32>, now: Instant) -> Roster<T> {
        Roster {
            bounds,
            entries: Vec::new(),
            room: Room::new(bounds.slots_max),
            vacant: Room::new(bounds.slots_max),
            serial: 0,
            connecting: 0,
            standing: 0,
            in_use: 0,
            streams: 0,
            expected,
            is_doubted: false,
            demand: Demand::new(now),
        }
    }

    /// A place for one more request, while `waiting` others wait. Slots that are found to be
    /// unfit go to `gone`. Bound: each round but the last takes the room of one slot.
    pub fn pick(
        &mut self,
        waiting: usize,
        idle_max: Duration,
        now: Instant,
        gone: &mut Gone<T>,
    ) -> Pick<T> {
        while let Some(index) = self.room.first() {
            let entry = &mut self.entries[index];
            let cause = match () {
                () if now >= entry.retire_at => Some(Cause::Aged),
                () if entry.streams == 0 && now > entry.idle_since + idle_max => Some(Cause::Idle),
                () => None,
            };
            let id = SlotId { index, serial: entry.serial };
            match (cause, entry.value.clone()) {
                (None, Some(value)) => {
                    let unused = match entry.streams {
                        0 => now.saturating_duration_since(entry.idle_since),
                        _ => Duration::ZERO,
                    };
                    self.occupy(index);
                    return Pick::Place(id, value, unused);
                }
                (cause, _) => gone.extend(self.retire(id, cause.unwrap_or(Cause::Failed))),
            }
        }
        self.vacant_for(waiting, now)
    }

    fn vacant_for(&mut self, waiting: usize, now: Instant) -> Pick<T> {
        // Each connection that is being made has one place taken by who makes it.
        let coming = match self.expected {
            _ if self.is_doubted && self.standing > 0 => 0,
            Some(places) => self.connecting.saturating_mul(places.saturating_sub(1) as usize),
            // The first one shows what the server speaks.
            None if self.connecting > 0 => usize::MAX,
            None => 0,
        };
        match waiting < coming {
            true => Pick::Wait,
            false => self.open_one(now).map_or(Pick::Wait, Pick::Vacant),
        }
    }

    /// Takes a vacant slot for a connection that one request makes; `None` at the ceiling.
    pub fn open_one(&mut self, now: Instant) -> Option<SlotId> {
        let index = match self.vacant.first() {
            Some(index) => index,
            None if self.entries.len() < self.bounds.slots_max => {
                self.entries.push(Entry::vacant(now));
                self.entries.len() - 1
            }
            None => return None,
        };
        self.vacant.remove(index);
        self.serial += 1;
        let lifetime = self.bounds.lifetime_max;
        self.entries[index] = Entry {
            serial: self.serial,
            phase: Phase::Connecting,
            // Spread over an eighth, so that those of one burst do not end in another.
            retire_at: now + lifetime - lifetime / 64 * (self.serial % 8) as u32,
            ..Entry::vacant(now)
        };
        self.connecting += 1;
        self.occupy(index);
        Some(SlotId { index, serial: self.serial })
    }

    /// What stands for the connection that is being made in a slot.
    pub fn fill(&mut self, id: SlotId, value: T) {
        if let Some(entry) = self.entry(id) {
            entry.value = Some(value);
        }
    }

    /// The connection of a slot stands and has so many places, and some time perhaps `most`. False
    /// when nobody wants it any more.
    pub fn opened(&mut self, id: SlotId, places: u32, most: u32) -> bool {
        let connecting = self.entry(id).filter(|entry| entry.phase == Phase::Connecting);
        let Some(entry) = connecting else { return false };
        (entry.phase, entry.places, entry.most) = (Phase::Open, places.max(1), most);
        self.expected = Some(places);
        self.is_doubted = false;
        self.connecting -= 1;
        self.standing += 1;
        self.show_room(id.index);
        true
    }

    /// From now on a connection has so many places, and some time perhaps `most`.
    pub fn changed(&mut self, id: SlotId, places: u32, most: u32) {
        let Some(entry) = self.entry(id).filter(|entry| entry.most != most) else { return };
        (entry.places, entry.most) = (places.max(1), most);
        self.show_room(id.index);
    }

    /// A connection could not be made. Until one can, nobody waits for another's where some stand.
    pub fn doubt(&mut self) {
        self.is_doubted = true;
    }

    /// A request has left its place.
    pub fn release(&mut self, id: SlotId, now: Instant) -> Option<Left<T>> {
        let entry = self.entry(id)?;
        entry.streams = entry.streams.saturating_sub(1);
        let is_free = entry.streams == 0;
        if is_free {
            entry.idle_since = now;
        }
        let phase = entry.phase;
        self.streams -= 1;
        self.in_use -= usize::from(is_free);
        match phase {
            Phase::Leaving(cause) if is_free => self.vacate(id, cause),
            // Nobody connects any more.
            Phase::Connecting if is_free => self.vacate(id, Cause::Aborted),
            _ => {
                self.show_room(id.index);
                None
            }
        }
    }

    /// A slot takes no new requests, and is vacant once it has none.
    pub fn retire(&mut self, id: SlotId, cause: Cause) -> Option<Left<T>> {
        let entry = self.entry(id)?;
        if let Phase::Leaving(_) = entry.phase {
            return None;
        }
        if entry.streams == 0 {
            return self.vacate(id, cause);
        }
        // Who makes a connection gives it up by leaving its place.
        if entry.phase == Phase::Open {
            entry.phase = Phase::Leaving(cause);
            self.room.remove(id.index);
        }
        None
    }

    /// How long the slot has been without a request; `None` if it has one or is gone.
    pub fn idle_for(&mut self, id: SlotId, now: Instant) -> Option<Duration> {
        let entry = self.entry(id)?;
        let is_idle = entry.phase == Phase::Open && entry.streams == 0;
        is_idle.then(|| now.saturating_duration_since(entry.idle_since))
    }

    /// Other requests on the slot.
    pub fn streams_on(&mut self, id: SlotId) -> u32 {
        self.entry(id).map_or(0, |entry| entry.streams)
    }

    /// No connection has more places than this.
    pub fn bound_places(&mut self, places: u32) {
        self.expected = self.expected.map(|expected| expected.min(places));
        for index in 0..self.entries.len() {
            self.entries[index].places = self.entries[index].places.min(places);
            self.show_room(index);
        }
    }

    /// One connection has no more places than this; false if it had no more before.
    pub fn bound_places_of(&mut self, id: SlotId, places: u32) -> bool {
        let Some(entry) = self.entry(id).filter(|entry| entry.places > places) else {
            return false;
        };
        entry.places = places.max(1);
        self.show_room(id.index);
        true
    }

    /// Whether a connection has as many requests as it may have.
    pub fn is_full(&mut self, id: SlotId) -> bool {
        self.entry(id).is_some_and(|entry| entry.streams >= entry.places)
    }

    /// Connections have twice as many places as before, and no more than this. True when none has
    /// fewer than it may have at most.
    pub fn raise_places(&mut self, places: u32) -> bool {
        self.expected = self.expected.map(|_| places);
        let mut are_most = true;
        for index in 0..self.entries.len() {
            let entry = &mut self.entries[index];
            let raised = entry.places.saturating_mul(2).min(places).min(entry.most);
            entry.places = entry.places.max(raised);
            are_most &= entry.places >= entry.most;
            self.show_room(index);
        }
        are_most
    }

    /// Lets go what is too old, unused for too long, or more than the demand of late.
    pub fn expire(&mut self, floor: usize, idle_max: Duration, now: Instant, gone: &mut Gone<T>) {
        let keep = self.demand.target(self.in_use, now).max(floor);
        // From the top: the lowest are those that are used.
        for index in (0..self.entries.len()).rev() {
            let entry = &self.entries[index];
            if entry.phase != Phase::Open {
                continue;
            }
            let idle =
                (entry.streams == 0).then(|| now.saturating_duration_since(entry.idle_since));
            let cause = match idle {
                _ if now >= entry.retire_at => Cause::Aged,
                Some(idle) if idle > idle_max => Cause::Idle,
                Some(idle) if self.standing > keep && idle > super::demand::WINDOW => {
                    Cause::Surplus
                }
                _ => continue,
            };
            let id = SlotId { index, serial: entry.serial };
            gone.extend(self.retire(id, cause));
        }
    }

    /// When [`expire`](Roster::expire) may find something; `None`: not before a slot is used.
    pub fn next_due(&self, floor: usize, idle_max: Duration) -> Option<Instant> {
        let surplus = if self.standing > floor { super::demand::WINDOW } else { idle_max };
        let open = self.entries.iter().filter(|entry| entry.phase == Phase::Open);
        let due = open.map(|entry| match entry.streams {
            0 => entry.retire_at.min(entry.idle_since + idle_max.min(surplus)),
            _ => entry.retire_at,
        });
        due.min()
    }

    /// Connections that stand or are being made.
    pub fn size(&self) -> usize {
        self.standing + self.connecting
    }

    /// Connections that stand, of them those in use, and requests on them.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.standing, self.in_use.saturating_sub(self.connecting), self.streams)
    }

    fn occupy(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        entry.streams += 1;
        self.streams += 1;
        if entry.streams == 1 {
            self.in_use += 1;
            self.demand.note(self.in_use);
        }
        if entry.streams >= entry.places {
            self.room.remove(index);
        }
    }

    fn show_room(&mut self, index: usize) {
        let entry = &self.entries[index];
        match entry.phase == Phase::Open && entry.streams < entry.places {
            true => self.room.insert(index),
            false => self.room.remove(index),
        }
    }

    fn vacate(&mut self, id: SlotId, cause: Cause) -> Option<Left<T>> {
        let entry = &mut self.entries[id.index];
        let cause = match entry.phase {
            Phase::Connecting => {
                self.connecting -= 1;
                None
            }
            Phase::Open | Phase::Leaving(_) => {
                self.standing -= 1;
                Some(cause)
            }
            Phase::Vacant => return None,
        };
        entry.phase = Phase::Vacant;
        let value = entry.value.take();
        self.room.remove(id.index);
        self.vacant.insert(id.index);
        value.map(|value| (value, cause))
    }

    fn entry(&mut self, id: SlotId) -> Option<&mut Entry<T>> {
        let entry = self.entries.get_mut(id.index)?;
        (entry.serial == id.serial && entry.phase != Phase::Vacant).then_some(entry)
    }
}

impl<T> Entry<T> {
    fn vacant(now: Instant) -> Entry<T> {
        Entry {
            serial: 0,
            phase: Phase::Vacant,
            value: None,
            streams: 0,
            places: 1,
            most: 1,
            retire_at: now,
            idle_since: now,
        }
    }
}

#[cfg(test)]
mod tests;
