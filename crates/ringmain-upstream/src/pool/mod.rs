//! The connections of one endpoint.
//!
//! A *slot* has one connection in its life, with a counted number of requests on it: one over
//! HTTP/1.1, up to `streams_max` over HTTP/2. The HTTP client's connector makes it ([`connector`]),
//! and what is spoken on it stands in [`link`]. A request takes a place on
//! the lowest slot that has one ([`roster`]); with none it makes a connection, and at the ceiling
//! it waits its turn within its caller's deadline. The [`Lease`] of a place says how the request
//! left it; a slot whose request was given up or failed is not used again.
//!
//! The lock is held for the decision alone: connections are made and dropped outside of it, and
//! nothing waits with it. The task of [`keeper`] lets go what is unused and keeps the floor.

mod client;
mod connector;
mod demand;
mod gauges;
mod greeting;
mod idle;
mod keeper;
mod lease;
mod line;
mod link;
mod queue;
mod resets;
mod room;
mod roster;
mod slot;
mod state;
mod streams;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Request};
use parking_lot::Mutex;
use reqwest::Url;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};

pub use gauges::{Cause, PoolGauges};
pub(crate) use lease::{Hush, Lease};
pub(crate) use line::Stream;

use crate::body::RequestBody;
use crate::config::{EndpointConfig, Http2};
use crate::error::UpstreamError;
use client::Maker;
pub(crate) use client::Unfit;
use gauges::Counts;
use idle::IdleLimit;
use line::{Line, Protocol};
use link::Link;
pub(crate) use link::{AnswerStream, LinkError};
use roster::{Bounds, Gone, Pick, Roster, SlotId};
use slot::Slot;
use state::{State, WAITING_MAX};

/// The connections of one endpoint. Clones share them.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

/// Why a request gets no place.
#[derive(Clone, Debug, Error)]
pub(crate) enum NoPlace {
    #[error(
        "as many requests as may wait for one of its {0} connections: {WAITING_MAX} of all uids"
    )]
    Full(usize),
    #[error("the pool is gone")]
    Gone,
    /// The connection that it waited for could not be made.
    #[error(transparent)]
    NotMade(Box<UpstreamError>),
}

/// Why a request on a connection was not answered.
#[derive(Debug)]
pub(crate) enum Broken {
    /// No connection could be made.
    Unconnected(reqwest::Error),
    /// One was made, and broke before anything could be sent.
    Unspoken(hyper::Error),
    /// It ended, or takes nothing new, before anything of the request was sent.
    Spent,
    /// It broke, or the request did, behind that.
    Unanswered(LinkError),
}

struct Shared {
    /// The host of every request that does not say where it goes.
    host: HeaderValue,
    maker: Maker,
    floor: usize,
    slots_max: usize,
    streams_max: u32,
    http2: Http2,
    is_tls: bool,
    state: Mutex<State>,
    counts: Counts,
    /// The last idle limit that the server told, in seconds and one more; 0: none.
    told_idle: AtomicU64,
    wake: Arc<Notify>,
    is_kept: AtomicBool,
    /// Whether a connection may have fewer streams than configured.
    is_bounded: AtomicBool,
}

/// A place that was found: the slot and how long it was unused, unless its connection is to be
/// made.
type Place = (SlotId, Option<(Arc<Slot>, Duration)>);

impl Pool {
    /// A pool without a connection.
    pub fn new(config: &EndpointConfig, base: &Url, unix: Option<PathBuf>) -> Result<Pool, Unfit> {
        let is_tls = base.scheme() == "https";
        let streams = config.streams_max.max(1);
        let expected = match config.http2 {
            Http2::PriorKnowledge => Some(streams),
            Http2::Negotiated if is_tls => None,
            Http2::Negotiated | Http2::Off => Some(1),
        };
        let slots_max = config.connections_max.max(1);
        let bounds = Bounds { slots_max, lifetime_max: config.lifetime_max };
        let roster = Roster::new(bounds, expected, Instant::now());
        let state = State::new(roster, IdleLimit::new(config.idle_timeout), streams);
        Ok(Pool(Arc::new(Shared {
            host: host_of(base).map_err(Unfit::of("base_url"))?,
            maker: Maker::new(config, base.clone(), unix)?,
            floor: config.connections_min.min(slots_max),
            slots_max,
            streams_max: streams,
            http2: config.http2,
            is_tls,
            state: Mutex::new(state),
            counts: Counts::default(),
            told_idle: AtomicU64::new(0),
            wake: Arc::default(),
            is_kept: AtomicBool::new(false),
            is_bounded: AtomicBool::new(false),
        })))
    }

    /// A place for one request of a uid, now; it waits for one if need be. Cancel-safe.
    pub async fn acquire(&self, uid: u32, now: Instant) -> Result<Lease, NoPlace> {
        let turn = match self.0.take(uid, now) {
            Ok(lease) => return Ok(lease),
            Err(turn) => turn?,
        };
        turn.await.unwrap_or(Err(NoPlace::Gone))
    }

    /// Has the floor kept from now on. Needs a runtime.
    pub fn keep(&self) {
        self.0.be_kept();
    }

    /// The pool now.
    pub fn gauges(&self) -> PoolGauges {
        let mut gauges = PoolGauges::default();
        self.0.counts.fill(&mut gauges);
        let state = self.0.state.lock();
        let (standing, in_use, streams) = state.roster.counts();
        gauges.open = standing as u64;
        gauges.in_use = in_use as u64;
        gauges.idle = standing.saturating_sub(in_use) as u64;
        gauges.streams = streams as u64;
        gauges.waiting = state.waiting.iter().filter(|turn| !turn.is_closed()).count() as u64;
        gauges
    }
}

impl Shared {
    /// A place now, or a turn to wait for.
    #[allow(clippy::type_complexity, reason = "either, at once or later, or an error")]
    fn take(
        self: &Arc<Shared>,
        uid: u32,
        now: Instant,
    ) -> Result<Lease, Result<oneshot::Receiver<Result<Lease, NoPlace>>, NoPlace>> {
        let mut gone = Gone::new();
        let pick = {
            let mut state = self.state.lock();
            let idle_max = state.idle.now(now);
            let waiting = state.waiting.len();
            match state.roster.pick(waiting, idle_max, now, &mut gone) {
                Pick::Place(id, slot, unused) => Ok((id, Some((slot, unused)))),
                Pick::Vacant(id) => Ok((id, None)),
                Pick::Wait => Err(state.queue(uid, self.slots_max)),
            }
        };
        self.forget(gone);
        match pick {
            Ok(place) => Ok(self.lease(place)),
            Err(turn) => Err(turn),
        }
    }

    fn lease(self: &Arc<Shared>, (id, slot): Place) -> Lease {
        let (slot, unused) = match slot {
            Some((slot, unused)) => (slot, Some(unused)),
            None => (self.make(id), None),
        };
        Lease::new(self.clone(), id, slot, unused)
    }

    /// A slot for a connection that is to be made.
    fn make(self: &Arc<Shared>, id: SlotId) -> Arc<Slot> {
        self.be_kept();
        let line = Arc::new(Line::new(Arc::downgrade(self), id));
        let slot = Arc::new(Slot::new(line));
        self.state.lock().roster.fill(id, slot.clone());
        slot
    }

    /// Puts the address of a request as its connection wants it (RFC 9112, 3.2): HTTP/1.1 names
    /// the host beside the path; a proxy is told the whole address, and who asks; HTTP/2 takes the
    /// address apart by itself.
    fn address(&self, request: &mut Request<RequestBody>, link: &Link, is_forwarded: bool) {
        if is_forwarded && let Some(login) = self.maker.proxy_login() {
            request.headers_mut().insert(PROXY_AUTHORIZATION, login.clone());
        }
        if let Link::Http2(_) = link {
            return;
        }
        request.headers_mut().insert(HOST, self.host.clone());
        if !is_forwarded && let Some(path) = request.uri().path_and_query().cloned() {
            *request.uri_mut() = path.into();
        }
    }

    /// A request has left its place; with a cause the slot takes no other.
    fn leave(self: &Arc<Shared>, id: SlotId, cause: Option<Cause>, now: Instant) {
        self.change(now, |state, gone| {
            if let Some(cause) = cause {
                gone.extend(state.roster.retire(id, cause));
            }
            gone.extend(state.roster.release(id, now));
        });
    }

    /// A slot takes no further request.
    fn retire(self: &Arc<Shared>, id: SlotId, cause: Cause) {
        let now = Instant::now();
        self.change(now, |state, gone| gone.extend(state.roster.retire(id, cause)));
    }

    /// The connection of a slot has ended.
    fn lost(self: &Arc<Shared>, id: SlotId) {
        let now = Instant::now();
        self.change(now, |state, gone| {
            if let Some(idle) = state.roster.idle_for(id, now) {
                state.idle.closed(idle, now);
            }
            gone.extend(state.roster.retire(id, Cause::ClosedByPeer));
        });
    }

    /// The connection of a slot takes requests: so many at once, if the server has a limit. With
    /// TLS, `proven` tells a full handshake from a resumed.
    fn opened(
        self: &Arc<Shared>,
        id: SlotId,
        protocol: Protocol,
        proven: bool,
        takes: Option<u32>,
    ) {
        let now = Instant::now();
        let mut is_wanted = false;
        self.change(now, |state, _| {
            let (places, most) = match protocol {
                Protocol::Http2 => self.places(state, takes),
                _ => (1, 1),
            };
            is_wanted = state.roster.opened(id, places, most);
        });
        if is_wanted {
            self.counts.opened.fetch_add(1, Relaxed);
            match (self.is_tls, proven) {
                (true, true) => self.counts.full_handshakes.fetch_add(1, Relaxed),
                (true, false) => self.counts.resumed_handshakes.fetch_add(1, Relaxed),
                (false, _) => 0,
            };
        }
    }

    /// A server has changed how many streams it takes on a connection.
    fn takes(self: &Arc<Shared>, id: SlotId, streams: Option<u32>) {
        let now = Instant::now();
        self.change(now, |state, _| {
            let (places, most) = self.places(state, streams);
            state.roster.changed(id, places, most);
        });
    }

    /// The places on an HTTP/2 connection whose server takes so many, and the most that it may
    /// ever have.
    fn places(&self, state: &State, takes: Option<u32>) -> (u32, u32) {
        let most = self.streams_max.min(takes.unwrap_or(u32::MAX));
        (state.streams.limit().min(most), most)
    }

    /// Changes the roster, and gives what came free to those who wait.
    fn change(
        self: &Arc<Shared>,
        now: Instant,
        change: impl FnOnce(&mut State, &mut Gone<Arc<Slot>>),
    ) {
        let (mut gone, mut grants) = (Gone::new(), Vec::new());
        let wakes_keeper = {
            let mut state = self.state.lock();
            change(&mut state, &mut gone);
            state.serve(now, &mut gone, &mut grants);
            state.outruns_keeper(now) || !gone.is_empty() && state.roster.size() < self.floor
        };
        if wakes_keeper {
            self.wake.notify_one();
        }
        self.forget(gone);
        for (turn, place) in grants {
            // Who waits no longer leaves the place again, for the next: each such round takes one
            // turn from the queue.
            let _ = turn.send(Ok(self.lease(place)));
        }
    }

    /// The connection of a slot could not be made: those who waited for it are told.
    fn not_made(&self, error: &UpstreamError) {
        let failed = self.state.lock().not_made();
        for turn in failed {
            let _ = turn.send(Err(NoPlace::NotMade(Box::new(error.clone()))));
        }
    }

    /// Counts and drops what has left, outside of the lock.
    fn forget(&self, gone: Gone<Arc<Slot>>) {
        for (slot, cause) in gone {
            if let Some(cause) = cause {
                self.counts.retired(cause);
            }
            drop(slot);
        }
    }

    /// The server has told for how long it keeps an unused connection.
    fn told_idle(&self, limit: Duration) {
        let told = limit.as_secs() + 1;
        if self.told_idle.swap(told, Relaxed) != told {
            self.state.lock().idle.told(limit);
        }
    }

    /// A connection broke under its next request after it was unused for so long.
    fn broke_after(&self, idle: Duration) {
        self.state.lock().idle.closed(idle, Instant::now());
    }

    /// The server does not take one more than so many streams on a connection.
    fn crowded(&self, id: SlotId, streams: u32) {
        let mut state = self.state.lock();
        // Under the lock, as whoever takes it back: else the bound could outlive the word of it.
        self.is_bounded.store(true, Relaxed);
        state.crowded(id, streams.max(1), Instant::now());
    }

    /// The server refused a stream on this slot; whether there were others.
    fn refused(&self, id: SlotId) -> bool {
        let others = self.streams_on(id).saturating_sub(1);
        if others > 0 {
            self.crowded(id, others);
        }
        others > 0
    }

    /// A request over HTTP/2 was answered: where the server once refused, it may take more again.
    fn thrives(self: &Arc<Shared>, id: SlotId) {
        if !self.is_bounded.load(Relaxed) {
            return;
        }
        let now = Instant::now();
        self.change(now, |state, _| {
            if state.thrives(id, now) {
                self.is_bounded.store(false, Relaxed);
            }
        });
    }

    fn streams_on(&self, id: SlotId) -> u32 {
        self.state.lock().roster.streams_on(id)
    }

    fn speaks_only_http2(&self) -> bool {
        self.http2 == Http2::PriorKnowledge
    }
}

/// The `host` of a request to an address: with the port where it is not that of the scheme.
fn host_of(base: &Url) -> Result<HeaderValue, String> {
    let host = base.host_str().unwrap_or_default();
    let host = match base.port() {
        Some(port) => HeaderValue::from_str(&format!("{host}:{port}")),
        None => HeaderValue::from_str(host),
    };
    host.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_named_with_a_port_that_is_not_that_of_its_scheme() {
        for (base, host) in [
            ("http://127.0.0.1:8000/v1", "127.0.0.1:8000"),
            ("http://host/v1", "host"),
            ("http://host:80", "host"),
            ("http://host:443", "host:443"),
            ("http://[::1]:8000/v1", "[::1]:8000"),
            ("https://host:443/v1", "host"),
            ("https://host:80/v1", "host:80"),
        ] {
            assert_eq!(host_of(&Url::parse(base).unwrap()).unwrap(), host, "{base}");
        }
    }
}
