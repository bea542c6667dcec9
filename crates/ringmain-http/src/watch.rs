//! One task that sees what nobody else is woken for: connections that sit unused or send their
//! head byte by byte, and callers that do not read what was written for them.
//!
//! Whatever is watched shows a number that changes when it moves. The task remembers since when it
//! has seen the same number, so what is watched reads no clock, and while nothing is watched the
//! task sleeps without a timer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use ringmain_broker::face::StopCause;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::caller::Peer;
use crate::gauge::Gauge;
use crate::running::Running;
use crate::stream::Taken;

/// Longest and shortest time between two looks.
const TICK_MAX: Duration = Duration::from_secs(1);
const TICK_MIN: Duration = Duration::from_millis(10);

/// The limits of what is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub head: Duration,
    pub idle: Duration,
    pub slow_consumer: Duration,
}

/// Everything that is watched. Bound: connections by their maximum, answers by the exchanges that
/// their uids were charged for.
pub(crate) struct Watch {
    connections: Mutex<HashMap<u64, Watched<Arc<Gauge>>>>,
    answers: Mutex<HashMap<u64, Watched<Answer>>>,
    /// Responses over HTTP/2, whole ones too. Bound: the streams of the connections.
    taken: Mutex<HashMap<u64, Watched<Taken>>>,
    next: AtomicU64,
    began: Notify,
}

/// An answer, and the connection that carries it.
#[derive(Clone)]
struct Answer {
    running: Arc<Running>,
    gauge: Option<Arc<Gauge>>,
}

struct Watched<T> {
    what: T,
    seen: u64,
    since: Instant,
}

/// Takes what is watched off the list.
pub(crate) struct Seat {
    watch: Arc<Watch>,
    id: u64,
    list: List,
}

#[derive(Clone, Copy)]
enum List {
    Answers,
    Connections,
    Taken,
}

impl Watch {
    pub fn new() -> Arc<Watch> {
        Arc::new(Watch {
            connections: Mutex::default(),
            answers: Mutex::default(),
            taken: Mutex::default(),
            next: AtomicU64::new(0),
            began: Notify::new(),
        })
    }

    pub fn connection(self: &Arc<Self>, gauge: &Arc<Gauge>) -> Seat {
        let id = self.next.fetch_add(1, Relaxed);
        let seen = gauge.word();
        self.connections.lock().insert(id, Watched::new(gauge.clone(), seen));
        self.began.notify_one();
        Seat { watch: self.clone(), id, list: List::Connections }
    }

    pub fn answer(self: &Arc<Self>, running: &Arc<Running>, gauge: Option<&Arc<Gauge>>) -> Seat {
        let id = self.next.fetch_add(1, Relaxed);
        let (running, gauge) = (running.clone(), gauge.cloned());
        let seen = running.turns.count();
        self.answers.lock().insert(id, Watched::new(Answer { running, gauge }, seen));
        Seat { watch: self.clone(), id, list: List::Answers }
    }

    pub fn taken(self: &Arc<Self>, taken: Taken) -> Seat {
        let id = self.next.fetch_add(1, Relaxed);
        let seen = taken.turns.count();
        self.taken.lock().insert(id, Watched::new(taken, seen));
        Seat { watch: self.clone(), id, list: List::Taken }
    }

    pub fn connection_count(&self) -> usize {
        self.connections.lock().len()
    }

    /// How many connections a uid has.
    pub fn connections_of(&self, uid: u32) -> usize {
        self.connections.lock().values().filter(|watched| watched.what.uid == uid).count()
    }

    /// How many connections from the address of this peer nobody has called over who may.
    pub fn strangers_of(&self, peer: &Peer) -> usize {
        let from = peer.address();
        let is_stranger =
            |gauge: &Gauge| gauge.from == from && gauge.uid == peer.uid() && !gauge.is_known();
        self.connections.lock().values().filter(|watched| is_stranger(&watched.what)).count()
    }

    /// Ends every answer that has not ended by itself when the drain limit passed.
    pub fn cut_answers(&self) {
        let all: Vec<_> = self.answers.lock().values().map(|it| it.what.clone()).collect();
        all.iter().for_each(|answer| answer.cut(Some(StopCause::Drained)));
    }

    /// Ends every connection.
    pub fn cut_connections(&self) {
        self.connections.lock().values().for_each(|watched| watched.what.end());
    }

    /// Looks for ever.
    pub async fn run(&self, limits: impl Fn() -> Limits) -> Infallible {
        loop {
            if self.connections.lock().is_empty() {
                self.began.notified().await;
                continue;
            }
            let now = limits();
            let least = now.head.min(now.idle).min(now.slow_consumer);
            sleep((least / 4).clamp(TICK_MIN, TICK_MAX)).await;
            self.look(&now, Instant::now());
        }
    }

    fn look(&self, limits: &Limits, now: Instant) {
        for watched in self.connections.lock().values_mut() {
            let still = watched.still_for(watched.what.word(), now);
            if watched.what.limit(limits).is_some_and(|limit| still >= limit) {
                watched.what.end();
            }
        }
        let mut stuck = Vec::new();
        for watched in self.answers.lock().values_mut() {
            let turns = watched.what.running.turns.count();
            if watched.is_stuck(turns, limits, now) {
                stuck.push(watched.what.clone());
            }
        }
        let mut unread = Vec::new();
        for watched in self.taken.lock().values_mut() {
            let turns = watched.what.turns.count();
            if watched.is_stuck(turns, limits, now) {
                unread.push(watched.what.clone());
            }
        }
        // Without the lock: whatever a dropped pipeline does, it does not wait for this list.
        stuck.iter().for_each(|answer| answer.cut(None));
        unread.iter().for_each(Taken::reset);
    }
}

impl Answer {
    /// Ends it, and its connection over HTTP/1: who does not read does not see the end either.
    fn cut(&self, cause: Option<StopCause>) {
        self.running.cut(cause);
        if let Some(gauge) = self.gauge.as_ref().filter(|gauge| !gauge.is_http2()) {
            gauge.end();
        }
    }
}

impl<T> Watched<T> {
    fn new(what: T, seen: u64) -> Watched<T> {
        Watched { what, seen, since: Instant::now() }
    }

    /// For how long the number has been seen to be this one.
    fn still_for(&mut self, word: u64, now: Instant) -> Duration {
        if self.seen != word {
            (self.seen, self.since) = (word, now);
        }
        now - self.since
    }

    /// Whether the server has owed this turn for too long.
    fn is_stuck(&mut self, turns: u64, limits: &Limits, now: Instant) -> bool {
        self.still_for(turns, now) >= limits.slow_consumer && turns % 2 == 1
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        match self.list {
            List::Answers => drop(self.watch.answers.lock().remove(&self.id)),
            List::Connections => drop(self.watch.connections.lock().remove(&self.id)),
            List::Taken => drop(self.watch.taken.lock().remove(&self.id)),
        }
    }
}
