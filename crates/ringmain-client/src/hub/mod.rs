//! Sessions that async streams share: one task per session sleeps for all of them.
//!
//! A stream owns its lane's reader and reads it on its own task, without a lock. Only when it finds
//! nothing does it take the hub's lock: it leaves its waker and the place where its next frame
//! will show, arms the session if nobody has, and looks once more. The hub's task alone waits for
//! the bell; woken, it arms again, looks at every place, and wakes the streams that have
//! something. Whoever left a waker before that look is seen by it, and whoever comes later looks
//! itself after arming.

mod open;
mod task;

use std::io;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use ringmain_ring::Armed;
use ringmain_shm::WriteMap;
use ringmain_wire::{Code, Geometry, LaneId, Stage};
use tokio::runtime::Handle as Runtime;
use tokio::task::AbortHandle;

use crate::attach::Attachment;
use crate::client::Charge;
use crate::error::{Error, Result};
use crate::link::new_reader;
use crate::news::Fault;
use crate::outbox::{Draft, Outbox};
use crate::reader::Reader;
use crate::request::Request;

pub(crate) use open::{Hubs, submit};
use task::{EndGuard, Ends, react};

/// Keeps a hub's task running.
#[derive(Debug)]
pub(crate) struct HubHandle {
    /// Taken only by drop.
    hub: Option<Arc<Hub>>,
    task: AbortHandle,
    _charge: Charge,
}

/// One attachment, shared.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) attachment: Attachment,
    state: Mutex<State>,
    latest_epoch: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    outbox: Outbox,
    armed: Armed<WriteMap>,
    is_armed: bool,
    /// Readers of lanes that no stream holds.
    readers: Vec<Option<Reader>>,
    places: Vec<Place>,
    /// Exchanges that were dropped before their end.
    // Bound: one per lane.
    draining: Vec<(LaneId, Reader)>,
    fault: Option<Fault>,
    closing: bool,
    wakes: u64,
}

/// Where a stream waits.
#[derive(Debug, Default)]
struct Place {
    waker: Option<Waker>,
    watched_offset: usize,
}

// --- HubHandle -------------------------------------------------------------------------------

impl HubHandle {
    fn start(hub: Hub, runtime: &Runtime, charge: Charge) -> Result<HubHandle> {
        let ends = Ends::new(&hub.attachment).map_err(watch_error)?;
        let hub = Arc::new(hub);
        let task = runtime.spawn(react(EndGuard(Arc::clone(&hub)), ends)).abort_handle();
        Ok(HubHandle { hub: Some(hub), task, _charge: charge })
    }

    /// The hub; none only while the handle is being dropped.
    #[inline]
    pub(crate) fn hub(&self) -> Result<&Arc<Hub>> {
        self.hub.as_ref().ok_or_else(|| {
            Error::new(Code::SessionClosed, Stage::Submit, "the session is being closed")
        })
    }
}

impl Drop for HubHandle {
    fn drop(&mut self) {
        if self.hub.as_ref().is_some_and(|hub| hub.attachment.fork.is_child()) {
            mem::forget(self.hub.take());
        } else {
            self.task.abort();
        }
    }
}

// --- Hub -------------------------------------------------------------------------------------

impl Hub {
    fn new(attachment: Attachment, latest_epoch: Arc<AtomicU64>) -> Hub {
        let geometry = attachment.welcome.geometry;
        let readers = geometry.all_lanes().map(|lane| Some(new_reader(&attachment, lane)));
        let state = State {
            outbox: Outbox::new(&attachment),
            armed: Armed::new(attachment.own.clone(), Geometry::CALLER_ARMED),
            is_armed: false,
            readers: readers.collect(),
            places: geometry.all_lanes().map(|_| Place::default()).collect(),
            draining: Vec::new(),
            fault: None,
            closing: false,
            wakes: 0,
        };
        Hub { attachment, state: Mutex::new(state), latest_epoch }
    }

    fn is_open(&self) -> bool {
        let state = self.lock();
        state.fault.is_none() && !state.closing
    }

    fn reserve(&self, head: Vec<u8>, body_bytes_max: u64) -> Result<Draft, (Error, Vec<u8>)> {
        self.lock().outbox.reserve(head, body_bytes_max)
    }

    /// Publishes a written draft and hands out its lane's reader.
    fn publish(
        &self,
        draft: Draft,
        request: &Request<'_>,
        deadline_ns: Option<u64>,
    ) -> Result<Reader> {
        let told = deadline_ns.map(|ns| self.attachment.clock.to_broker(ns));
        let lane = draft.lane;
        let mut state = self.lock();
        let Some(mut reader) = state.readers[lane.index()].take() else {
            state.outbox.abandon(draft);
            let text = format!("lane {} has no reader", lane.number());
            return Err(Error::new(Code::Internal, Stage::Submit, text));
        };
        let (exchange, due) = state.outbox.publish(draft, request, told);
        drop(state);
        reader.begin(exchange);
        self.ring(due);
        Ok(reader)
    }

    /// Leaves a waker; the caller looks at its lane again afterwards.
    ///
    /// # Errors
    /// Why nothing will come any more.
    pub(crate) fn wait(&self, lane: LaneId, reader: &Reader, waker: &Waker) -> Result<()> {
        let mut state = self.lock();
        if let Some(fault) = &state.fault {
            let latest_epoch = self.latest_epoch.load(Ordering::Relaxed);
            return Err(reader.progress().mark(fault.error(&self.attachment, latest_epoch)));
        }
        let place = &mut state.places[lane.index()];
        place.watched_offset = reader.watched_offset();
        match &mut place.waker {
            Some(same) => same.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        if state.is_armed {
            // Pairs with: the fence in `Ring::due`. Armed long ago, this look is a new one.
            fence(Ordering::SeqCst);
        } else {
            state.armed.arm();
            state.is_armed = true;
        }
        Ok(())
    }

    pub(crate) fn cancel(&self, lane: LaneId) {
        let due = self.lock().outbox.cancel(lane);
        self.ring(due);
    }

    /// Takes a lane back from its stream. An exchange that still runs is cancelled, and what comes
    /// of it is thrown away before the lane is used again.
    pub(crate) fn take_back(&self, lane: LaneId, mut reader: Reader) {
        let ended = reader.drain();
        let mut due = reader.take_ring();
        let mut woken = Vec::new();
        let mut state = self.lock();
        state.places[lane.index()].waker = None;
        match ended {
            Ok(true) => {
                state.outbox.end(lane);
                state.readers[lane.index()] = Some(reader);
            }
            Ok(false) => {
                due |= state.outbox.cancel(lane);
                state.draining.push((lane, reader));
                due |= state.look(&self.attachment, &mut woken);
            }
            // A lane that holds nonsense is never used again.
            Err(_) => due |= state.outbox.cancel(lane),
        }
        drop(state);
        self.ring(due);
        woken.into_iter().for_each(Waker::wake);
    }

    /// How often the session's task was woken.
    pub(crate) fn wakes(&self) -> u64 {
        self.lock().wakes
    }

    #[inline]
    pub(crate) fn ring(&self, due: bool) {
        // A bell that cannot be rung belongs to a broker that is gone; the socket tells the task.
        if due {
            let _ = self.attachment.ringer.ring();
        }
    }

    /// Looks at every place after a wake-up.
    fn turn(&self, woken: &mut Vec<Waker>) {
        let mut state = self.lock();
        state.wakes += 1;
        let due = state.look(&self.attachment, woken);
        drop(state);
        self.ring(due);
        woken.drain(..).for_each(Waker::wake);
    }

    /// Nothing comes any more: every stream is to look and find out.
    fn end(&self, fault: Fault) {
        let mut state = self.lock();
        state.fault.get_or_insert(fault);
        let woken: Vec<Waker> =
            state.places.iter_mut().filter_map(|place| place.waker.take()).collect();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// A panic elsewhere leaves the state whole between two calls, so a poisoned lock is none.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Arms, then looks at everything that the bell covers. True: the broker is to be rung.
    fn look(&mut self, attachment: &Attachment, woken: &mut Vec<Waker>) -> bool {
        self.armed.arm();
        let mut waits = false;
        for place in &mut self.places {
            let Some(waker) = place.waker.take() else { continue };
            if attachment.theirs.load(place.watched_offset) != 0 {
                woken.push(waker);
            } else {
                place.waker = Some(waker);
                waits = true;
            }
        }
        let due = self.drain();
        self.is_armed = waits || !self.draining.is_empty();
        if !self.is_armed {
            self.armed.disarm();
        }
        due
    }

    fn drain(&mut self) -> bool {
        let State { outbox, readers, draining, .. } = self;
        let mut due = false;
        // Bound: at most one entry per lane.
        for (lane, mut reader) in mem::take(draining) {
            let ended = reader.drain();
            due |= reader.take_ring();
            match ended {
                Ok(true) => {
                    outbox.end(lane);
                    readers[lane.index()] = Some(reader);
                }
                Ok(false) => draining.push((lane, reader)),
                Err(_) => {}
            }
        }
        due
    }
}

fn watch_error(error: io::Error) -> Error {
    let text = format!("a descriptor could not be watched: {error}");
    Error::new(Code::Internal, Stage::Attach, text).with_source(error)
}
