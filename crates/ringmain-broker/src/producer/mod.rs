//! Producers: processes of this host that answer requests. The rings are those of an application
//! with the roles swapped: here the broker submits, lends its arena, and reads lanes.
//!
//! A producer is hostile for safety like any peer. Whatever it writes is copied once and the copy
//! is judged ([`judge`]); what no producer may write ends its session, and each exchange that it
//! held ends in ERROR(ProducerGone). Nothing of it reaches another producer or an endpoint.
//!
//! | module | what it holds |
//! |---|---|
//! | [`attach`] | who may be a producer; its segments and bells |
//! | [`registry`] | who is attached under which name |
//! | [`desk`] | what is submitted: lanes, chunks of the arena, loans |
//! | `task` | the session's own task |
//! | [`dispatch`] | a request's way to a producer |
//! | [`judge`], [`relay`] | its answer's way back |
//!
//! **Who waits for what.** The task of an exchange reads its own lane. When there is nothing it
//! leaves its waker with the lane, arms the session's bell if nobody has, looks once more, and
//! parks. The session's task sleeps on the bell for all of them; when it is rung it looks at
//! every lane that somebody waits for. While nobody waits the bell is not armed, so that a
//! producer in a burst rings for nobody.

pub(crate) mod attach;
mod desk;
pub(crate) mod dispatch;
mod judge;
#[cfg(test)]
mod judged;
mod lane;
mod registry;
pub(crate) mod relay;
pub(crate) mod task;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use ringmain_ring::{Armed, FrameError};
use ringmain_shm::{Puncher, RingerKind, WriteMap};
use ringmain_wire::frame::FrameHeader;
use ringmain_wire::{Code, ExchangeId, Geometry, LaneId};
use tokio::sync::Notify;

pub(crate) use registry::Producers;

use crate::account::Charge;
use crate::allow::Identity;
use crate::failure::Violation;
use crate::routes::trusted;
use crate::session::{PeerBell, Reaper, Remains};
use desk::Desk;
use lane::{Lane, Look};

/// One attached producer: what its session's task and the tasks of its exchanges share. The last
/// one to let go punches the segments, then returns the quota.
pub(crate) struct Producer {
    pub id: u64,
    pub name: String,
    pub peer: Identity,
    /// Its uid is the broker's own, or root.
    pub is_trusted: bool,
    /// Exchanges in flight.
    pub exchanges: AtomicU64,
    /// Exchanges ever given to it.
    pub exchanges_total: AtomicU64,
    /// The segment that the broker writes: entries, cursors, arena.
    own: WriteMap,
    desk: Mutex<Desk>,
    lanes: Box<[Lane]>,
    /// One bit per lane that the session's task has to look at.
    watched: Box<[AtomicU64]>,
    armed: Mutex<BellWord>,
    bell: Arc<PeerBell>,
    /// Frames read: tells a ring that came in time from one for nothing.
    frames: AtomicU64,
    gone: OnceLock<Gone>,
    violation: Mutex<Option<Violation>>,
    told: Notify,
    reaper: Reaper,
    /// Taken by the drop.
    remains: Option<Remains>,
}

/// What a producer's session is made of.
pub(crate) struct ProducerParts {
    pub id: u64,
    pub name: String,
    pub peer: Identity,
    pub geometry: Geometry,
    pub own: WriteMap,
    pub theirs: ringmain_shm::ReadMap,
    pub bell: Arc<PeerBell>,
    pub punchers: [Puncher; 2],
    pub charges: [Charge; 2],
    pub reaper: Reaper,
}

/// The broker's armed word towards a producer, stored by whoever is the first to wait.
struct BellWord {
    word: Armed<WriteMap>,
    is_armed: bool,
}

/// Why a producer answers nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    /// In words, for the exchanges that it held.
    pub text: String,
    /// It kept to the protocol, so what it published before counts.
    pub is_orderly: bool,
}

const BITS: usize = u64::BITS as usize;

impl Producer {
    pub fn new(parts: ProducerParts) -> Arc<Producer> {
        let ProducerParts { id, name, peer, geometry, own, theirs, bell, .. } = parts;
        let ProducerParts { punchers, charges, reaper, .. } = parts;
        let lane = |id| Lane::new(&own, &theirs, geometry, id);
        let lanes: Box<[Lane]> = geometry.all_lanes().map(lane).collect();
        let watched = (0..lanes.len().div_ceil(BITS)).map(|_| AtomicU64::new(0)).collect();
        let word = Armed::new(own.clone(), Geometry::CALLER_ARMED);
        Arc::new(Producer {
            id,
            name,
            is_trusted: trusted().permits(&peer),
            peer,
            exchanges: AtomicU64::new(0),
            exchanges_total: AtomicU64::new(0),
            desk: Mutex::new(Desk::new(&own, &theirs, geometry)),
            own,
            lanes,
            watched,
            armed: Mutex::new(BellWord { word, is_armed: false }),
            bell,
            frames: AtomicU64::new(0),
            gone: OnceLock::new(),
            violation: Mutex::new(None),
            told: Notify::new(),
            reaper,
            remains: Some(Remains { session: id, punchers, charges }),
        })
    }

    /// How the peer is rung.
    pub fn bell_kind(&self) -> RingerKind {
        self.bell.kind()
    }

    /// Wakes the peer if it sleeps: after a publication.
    pub fn ring(&self) {
        self.bell.ring_if_due();
    }

    /// Tells the session's task to look at what changed outside its bell.
    pub fn tell(&self) {
        self.told.notify_one();
    }

    /// Ends the session for something that its peer did; the first reason counts.
    pub fn accuse(&self, violation: Violation) {
        self.violation.lock().get_or_insert(violation);
        self.tell();
    }

    fn violation(&self) -> Option<Violation> {
        self.violation.lock().clone()
    }

    /// Why it answers nothing any more.
    pub fn gone(&self) -> Option<&Gone> {
        self.gone.get()
    }

    /// Lets every exchange that it holds know that nothing more comes.
    fn retire(&self, gone: Gone) {
        // The first reason counts.
        let _ = self.gone.set(gone);
        self.lanes.iter().for_each(Lane::wake);
    }

    /// Its task is gone, however that came about: nobody waits for it any more.
    pub fn abandon(&self) {
        self.retire(Gone { text: Code::SessionClosed.sentence().to_owned(), is_orderly: false });
    }

    /// The next frame of an exchange: its header, judged, and its payload in `buf`. The error says
    /// that none will come.
    pub fn poll_frame(
        &self,
        lane: LaneId,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
    ) -> Poll<Result<FrameHeader, Gone>> {
        let mut state = self.lane(lane).lock();
        // Bound: a turn that finds a line and no frame has passed a SKIP, of which one lap has
        // one.
        loop {
            let gone = self.gone();
            if gone.is_some_and(|gone| !gone.is_orderly) || !state.may_read(gone.is_some()) {
                return Poll::Ready(Err(self.last_words()));
            }
            match state.next(buf) {
                Ok(Some(header)) => {
                    self.frames.fetch_add(1, Ordering::Relaxed);
                    if state.take_ring() {
                        self.bell.ring();
                    }
                    return Poll::Ready(Ok(header));
                }
                Ok(None) if gone.is_some() => return Poll::Ready(Err(self.last_words())),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(self.accuse_frame(error))),
            }
            // Registered before the last look: a ring that comes now finds the waker.
            state.park(cx.waker());
            self.watch_lane(lane);
            self.arm_once();
            if !state.is_ready() && self.gone().is_none() {
                return Poll::Pending;
            }
            state.unpark();
        }
    }

    /// Whether something stands behind the terminal frame of an exchange that was just read.
    pub fn has_more(&self, lane: LaneId) -> bool {
        self.lane(lane).lock().is_ready()
    }

    /// What is said of a producer that is gone or about to be.
    fn last_words(&self) -> Gone {
        let accused = || Gone {
            text: self.violation().map(|violation| violation.text).unwrap_or_default(),
            is_orderly: false,
        };
        self.gone().cloned().unwrap_or_else(accused)
    }

    fn accuse_frame(&self, error: FrameError) -> Gone {
        self.accuse(Violation::new(Code::ViolationFrame, error));
        self.last_words()
    }

    /// The exchange ended with its terminal frame: its lane is free once its loan is back.
    fn end(&self, lane: LaneId) {
        self.exchanges.fetch_sub(1, Ordering::Relaxed);
        if self.desk.lock().end(lane) {
            // The task watches over what is owed from here on.
            self.tell();
        }
    }

    /// The exchange is given up: the producer is told, and what it still writes is thrown away.
    fn give_up(&self, lane: LaneId) {
        self.exchanges.fetch_sub(1, Ordering::Relaxed);
        if self.gone().is_some() {
            return;
        }
        self.lane(lane).lock().abandon();
        self.desk.lock().cancel(lane);
        self.ring();
        self.watch_lane(lane);
        self.tell();
    }

    fn lane(&self, lane: LaneId) -> &Lane {
        &self.lanes[lane.index()]
    }

    fn watch_lane(&self, lane: LaneId) {
        let word = &self.watched[lane.index() / BITS];
        word.fetch_or(1 << (lane.index() % BITS), Ordering::SeqCst);
    }

    fn is_watched(&self) -> bool {
        self.watched.iter().any(|word| word.load(Ordering::SeqCst) != 0)
    }

    /// Arms the bell unless it is: whoever looks at its lane after this call and finds nothing is
    /// rung for, or found by the session's task, which is awake then and arms before it sleeps.
    fn arm_once(&self) {
        let mut armed = self.armed.lock();
        if !armed.is_armed {
            armed.word.arm();
            armed.is_armed = true;
        }
    }

    fn arm(&self) {
        let mut armed = self.armed.lock();
        armed.word.arm();
        armed.is_armed = true;
    }

    fn disarm(&self) {
        let mut armed = self.armed.lock();
        armed.word.disarm();
        armed.is_armed = false;
    }

    /// Looks at every lane that somebody waits for; true if one of them had something.
    fn look(&self) -> Result<bool, Violation> {
        let mut found = false;
        for (index, word) in self.watched.iter().enumerate() {
            let mut bits = word.load(Ordering::SeqCst);
            // Bound: one round per bit of the word.
            while bits != 0 {
                let at = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                // Cleared before the look: a task that parks after it sets the bit again, under
                // the lock of the lane that the look takes.
                word.fetch_and(!(1 << at), Ordering::SeqCst);
                let lane = &self.lanes[index * BITS + at];
                match lane.look()? {
                    Look::Idle => {}
                    Look::Silent => _ = word.fetch_or(1 << at, Ordering::SeqCst),
                    Look::Woken => found = true,
                    Look::Drained { ended, due } => {
                        found = true;
                        if due {
                            self.bell.ring();
                        }
                        match ended {
                            true => _ = self.desk.lock().end(lane.id()),
                            false => _ = word.fetch_or(1 << at, Ordering::SeqCst),
                        }
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if let Some(remains) = self.remains.take() {
            self.reaper.reap(remains);
        }
    }
}

/// An exchange that a producer holds. Dropped before its terminal frame was read, it is given up.
pub(crate) struct Held {
    pub producer: Arc<Producer>,
    pub lane: LaneId,
    pub id: ExchangeId,
    is_over: bool,
}

impl Held {
    fn new(producer: Arc<Producer>, lane: LaneId, id: ExchangeId) -> Held {
        Held { producer, lane, id, is_over: false }
    }

    /// The terminal frame was read.
    pub fn end(mut self) {
        self.is_over = true;
        self.producer.end(self.lane);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_over {
            self.producer.give_up(self.lane);
        }
    }
}
