//! Sessions that async streams share: one task per session sleeps for all of them.
//!
//! A stream owns its lane's reader and reads it on its own task, without a lock. Only when it finds
//! nothing does it take the hub's lock: it leaves its waker and the place where its next frame
//! will show, arms the session if nobody has, and looks once more. The hub's task alone waits for
//! the bell; woken, it arms again, looks at every place, and wakes the streams that have
//! something. Whoever left a waker before that look is seen by it, and whoever comes later looks
//! itself after arming.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ringmain_ring::Armed;
use ringmain_shm::{Readiness, WriteMap, monotonic_ns};
use ringmain_wire::limits::LANES_DEFAULT;
use ringmain_wire::{Code, Geometry, LaneId, Stage};
use tokio::runtime::Handle as Runtime;
use tokio::task::AbortHandle;

use crate::async_stream::AsyncStream;
use crate::attach::{Attachment, Knock, Patience, silent};
use crate::body::Body;
use crate::client::{Charge, Pool};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::link::{Fault, new_reader, read_news};
use crate::outbox::{Draft, Outbox, chunk_bytes, encode_head};
use crate::reader::Reader;
use crate::request::Request;
use crate::session::deadline_ns;

/// The shared sessions of a client.
#[derive(Debug, Default)]
pub(crate) struct Hubs {
    // Bound: the client's `sessions_max`.
    list: Mutex<Vec<Arc<HubHandle>>>,
    /// One task opens a session while the others that found none wait for it.
    opening: tokio::sync::Mutex<()>,
}

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

/// What the hub's task waits for.
#[derive(Debug)]
struct Ends {
    bell: Readiness,
    control: Readiness,
    exit: Readiness,
}

/// Lanes of a shared session, unless the caller chose a geometry: fewer sessions, and more tokens
/// per wake-up, than with the default of a session that one thread uses.
const LANES_SHARED: u32 = 256;

// --- Submitting ------------------------------------------------------------------------------

/// Sends a request on a shared session with room, or on a new one.
pub(crate) async fn submit<B: Body>(
    pool: &Arc<Pool>,
    request: &Request<'_>,
    body: B,
) -> Result<AsyncStream> {
    let runtime = Runtime::try_current().map_err(|_| {
        Error::new(Code::InvalidRequest, Stage::Submit, "async calls need a tokio runtime")
    })?;
    let head = encode_head(&request.head)?;
    let deadline_ns = deadline_ns(request.deadline)?;
    let body_bytes_max = body.bytes_max();
    let (handle, draft) = match pool.hubs.reserve(head, body_bytes_max) {
        Ok(reserved) => reserved,
        Err(head) => open(pool, runtime, head, body_bytes_max, deadline_ns).await?,
    };
    send(handle, draft, request, body, deadline_ns)
}

async fn open(
    pool: &Arc<Pool>,
    runtime: Runtime,
    head: Vec<u8>,
    body_bytes_max: u64,
    deadline_ns: Option<u64>,
) -> Result<(Arc<HubHandle>, Draft)> {
    let _turn = pool.hubs.opening.lock().await;
    // Somebody may have opened one meanwhile.
    let head = match pool.hubs.reserve(head, body_bytes_max) {
        Ok(reserved) => return Ok(reserved),
        Err(head) => head,
    };
    let mut config = pool.config_for(chunk_bytes(head.len(), body_bytes_max), body_bytes_max)?;
    config.geometry = shared(config.geometry);
    let charge = pool.charge()?;
    let attachment = match attach_async(&config, deadline_ns).await {
        Ok(attachment) => attachment,
        Err(error) => return Err(pool.too_large(error, &config, body_bytes_max)),
    };
    pool.latest_epoch.store(attachment.welcome.epoch, Ordering::Relaxed);
    let hub = Hub::new(attachment, Arc::clone(&pool.latest_epoch));
    let handle = Arc::new(HubHandle::start(hub, &runtime, charge)?);
    let draft = handle.hub()?.reserve(head, body_bytes_max).map_err(|(error, _)| error)?;
    pool.hubs.list().push(Arc::clone(&handle));
    Ok((handle, draft))
}

fn send(
    handle: Arc<HubHandle>,
    mut draft: Draft,
    request: &Request<'_>,
    body: impl Body,
    deadline_ns: Option<u64>,
) -> Result<AsyncStream> {
    let hub = handle.hub()?;
    if let Err(error) = draft.fill(body) {
        hub.lock().outbox.abandon(draft);
        return Err(error);
    }
    let lane = draft.lane;
    let reader = hub.publish(draft, request, deadline_ns)?;
    let deadline_ns = hub.attachment.cap(deadline_ns);
    Ok(AsyncStream::new(handle, lane, reader, deadline_ns))
}

fn shared(geometry: Geometry) -> Geometry {
    if geometry.lanes() != LANES_DEFAULT {
        return geometry;
    }
    Geometry::new(LANES_SHARED, geometry.lane_bytes(), geometry.arena_bytes()).unwrap_or(geometry)
}

async fn attach_async(config: &Config, deadline_ns: Option<u64>) -> Result<Attachment> {
    let mut patience = Patience::new(config, deadline_ns);
    loop {
        match knock_async(config, patience.until_ns()).await {
            Ok(attachment) => return Ok(attachment),
            Err(error) => tokio::time::sleep(patience.wait_after(error)?).await,
        }
    }
}

async fn knock_async(config: &Config, until_ns: u64) -> Result<Attachment> {
    let knock = Knock::send(config)?;
    let control = knock.control.try_clone_fd().and_then(Readiness::new).map_err(watch_error)?;
    loop {
        if let Some((welcome, fds)) = knock.answer()? {
            return knock.finish(welcome, fds);
        }
        let left = Duration::from_nanos(until_ns.saturating_sub(monotonic_ns()));
        if left.is_zero() {
            return Err(silent());
        }
        if let Ok(readable) = tokio::time::timeout(left, control.readable()).await {
            readable.map_err(watch_error)?;
        }
    }
}

fn watch_error(error: io::Error) -> Error {
    let text = format!("a descriptor could not be watched: {error}");
    Error::new(Code::Internal, Stage::Attach, text).with_source(error)
}

// --- Hubs ------------------------------------------------------------------------------------

impl Hubs {
    /// Lane and chunk on the first session that has both; the head comes back when none has.
    fn reserve(
        &self,
        mut head: Vec<u8>,
        body_bytes_max: u64,
    ) -> Result<(Arc<HubHandle>, Draft), Vec<u8>> {
        let mut list = self.list();
        list.retain(|handle| handle.hub().is_ok_and(|hub| hub.is_open()));
        for handle in list.iter() {
            let Ok(hub) = handle.hub() else { continue };
            match hub.reserve(head, body_bytes_max) {
                Ok(draft) => return Ok((Arc::clone(handle), draft)),
                Err((_, same)) => head = same,
            }
        }
        Err(head)
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<HubHandle>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            armed: Armed::new(attachment.caller.clone(), Geometry::CALLER_ARMED),
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
            if attachment.responder.load(place.watched_offset) != 0 {
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

// --- The task --------------------------------------------------------------------------------

impl Ends {
    fn new(attachment: &Attachment) -> io::Result<Ends> {
        let watch = |fd: std::os::fd::BorrowedFd<'_>| Readiness::new(fd.try_clone_to_owned()?);
        Ok(Ends {
            bell: watch(attachment.bell.as_fd())?,
            control: watch(attachment.control.as_fd())?,
            exit: watch(attachment.pidfd.as_fd())?,
        })
    }

    /// Ready when anything happened. An error: the broker is gone, or cannot be watched any more.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<(bool, bool)>> {
        let bell = self.bell.poll_readable(cx)?.is_ready();
        let control = self.control.poll_readable(cx)?.is_ready();
        let exited = self.exit.poll_readable(cx)?.is_ready();
        match bell || control || exited {
            true => Poll::Ready(Ok((control, exited))),
            false => Poll::Pending,
        }
    }
}

/// Ends the hub however its task ends: with the broker, or with its runtime.
struct EndGuard(Arc<Hub>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let text = "the runtime that served it was shut down; call again";
        self.0.end(Fault::Closed(Code::SessionClosed, text.to_owned()));
    }
}

/// The guard comes from outside: a task that is never polled runs none of its own code.
async fn react(guard: EndGuard, ends: Ends) {
    let hub = &guard.0;
    let mut woken = Vec::new();
    loop {
        let Ok((control, exited)) = poll_fn(|cx| ends.poll(cx)).await else {
            return hub.end(Fault::Gone);
        };
        if control {
            let news = read_news(&hub.attachment.control);
            hub.lock().closing |= news.draining;
            if let Some(fault) = news.fault {
                return hub.end(fault);
            }
        }
        if exited {
            return hub.end(Fault::Gone);
        }
        hub.turn(&mut woken);
    }
}
