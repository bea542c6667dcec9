//! The broker as its owner sees it, and what all its sessions share.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use ringmain_policy::{LimitRule, RateBucket};
use ringmain_shm::{Listener, monotonic_ns};
use ringmain_upstream::Endpoint;
use ringmain_wire::Code;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::account::Ledger;
use crate::admit::Gate;
use crate::allow::Identity;
use crate::config::BrokerConfig;
use crate::counters::{Live, Snapshot, State};
use crate::drain::{self, DrainReport};
use crate::failure::Failure;
use crate::lines::{Leave, Lines, Subject};
use crate::listen;
use crate::log_id::{LogId, LogIds, mix};
use crate::producer::{Producer, Producers};
use crate::record::Record;
use crate::relay::Ended;
use crate::routes::RouteTable;
use crate::session::{Bells, Reaper, Session, Spinners};
use crate::stop::{Stop, StopCause};

/// Refused connections that may wait for their Hello at once; further ones are closed at once.
const REFUSALS_MAX: usize = 256;
/// Refusals per second of peers that the kernel does not name; further ones are closed at once.
const NAMELESS_PER_S: u32 = 20;
/// Log lines per second for refused attachments.
const REFUSAL_LINES_PER_S: u32 = 10;

/// One broker: sessions, routes, quotas, counters.
///
/// ```no_run
/// # async fn run(listener: ringmain_shm::Listener, table: ringmain_broker::RouteTable) {
/// use ringmain_broker::{Broker, BrokerConfig};
/// let broker = Broker::new(BrokerConfig::default(), table);
/// let report = broker.serve(listener, std::future::pending()).await;
/// # }
/// ```
pub struct Broker {
    config: BrokerConfig,
    routes: RwLock<Arc<RouteTable>>,
    ledger: Ledger,
    gate: Gate,
    live: Live,
    phase: AtomicU8,
    sessions: Mutex<BTreeMap<u64, Arc<Session>>>,
    producers: Producers,
    /// Stops of the exchanges that came through no session, by their log id.
    guests: Mutex<HashMap<LogId, Arc<Stop>>>,
    /// Told whenever an exchange or a session ends while the broker drains.
    changed: Notify,
    /// Exchanges whose terminal is not written yet: what a drain waits for.
    unfinished: AtomicU64,
    next_session: AtomicU64,
    epoch: u64,
    started_ms: u64,
    log_ids: LogIds,
    bells: Bells,
    spinners: Arc<Spinners>,
    reaper: Reaper,
    refusals: Semaphore,
    refusal_lines: Mutex<RateBucket>,
    nameless: Mutex<RateBucket>,
    lines: Lines,
}

/// What the broker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Serving = 0,
    /// Nothing new; what is in flight goes on.
    Draining = 1,
    /// Sessions end.
    Closing = 2,
}

/// Keeps a session in the broker's list for as long as its task runs, however that ends; then
/// nothing of it runs on.
pub(crate) struct Listed {
    broker: Arc<Broker>,
    session: Arc<Session>,
}

/// The same for a producer.
pub(crate) struct ListedProducer {
    broker: Arc<Broker>,
    producer: Arc<Producer>,
}

impl Broker {
    /// A broker that serves nobody yet.
    pub fn new(config: BrokerConfig, table: RouteTable) -> Arc<Broker> {
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        // Two brokers of one host start at different instants or with different process ids.
        let epoch = mix(now_ns as u64 ^ u64::from(std::process::id()).rotate_left(40));
        let spinners = Spinners::new(config.wait);
        Arc::new(Broker {
            ledger: Ledger::new(config.quotas),
            gate: Gate::new(config.rates.clone(), config.queue),
            config,
            routes: RwLock::new(Arc::new(table)),
            live: Live::new(),
            phase: AtomicU8::new(Phase::Serving as u8),
            sessions: Mutex::new(BTreeMap::new()),
            producers: Producers::default(),
            guests: Mutex::new(HashMap::new()),
            changed: Notify::new(),
            unfinished: AtomicU64::new(0),
            next_session: AtomicU64::new(1),
            epoch,
            started_ms: (now_ns / 1_000_000) as u64,
            log_ids: LogIds::new(mix(epoch)),
            bells: Bells::default(),
            spinners,
            reaper: Reaper::new(),
            refusals: Semaphore::new(REFUSALS_MAX),
            refusal_lines: Mutex::new(RateBucket::new(REFUSAL_LINES_PER_S, monotonic_ns())),
            nameless: Mutex::new(RateBucket::new(NAMELESS_PER_S, monotonic_ns())),
            lines: Lines::default(),
        })
    }

    /// Serves until `drain` is ready, then gives the listener up at once, refuses what is new,
    /// finishes what is in flight within the drain limit and closes the sessions. A broker serves
    /// once.
    ///
    /// # Errors
    /// The listener cannot be waited for.
    pub async fn serve(
        self: &Arc<Self>,
        listener: Listener,
        drain: impl Future<Output = ()>,
    ) -> io::Result<DrainReport> {
        let mut segment = self.open_counters();
        self.start_endpoints();
        let held = self.bells.held().clone();
        // A task, for tasks wake each other without a system call; whoever runs the runtime itself
        // is woken through its reactor. It ends with this call, also where that is dropped.
        let mut ringing = JoinSet::new();
        ringing.spawn(async move { held.serve().await });
        let work = async {
            listen::accept_until(self, &listener, drain).await?;
            self.set_phase(Phase::Draining);
            // A successor may bind from here on.
            drop(listener);
            Ok(drain::run(self).await)
        };
        let report = tokio::select! {
            report = work => report,
            never = self.publish(&mut segment) => match never {},
        };
        ringing.abort_all();
        self.write_counters(&mut segment, State::Ended);
        report
    }

    /// Replaces routes and endpoints. Exchanges in flight keep what they were given.
    pub fn swap_routes(&self, mut table: RouteTable) {
        let mut routes = self.routes.write();
        table.adopt(&routes);
        *routes = Arc::new(table);
        drop(routes);
        self.start_endpoints();
        self.live.touch();
    }

    /// Has the connections of every endpoint kept, where a runtime is there.
    fn start_endpoints(&self) {
        let routes = self.routes();
        routes.hear_checks();
        routes.endpoints().iter().for_each(|endpoint| endpoint.start());
    }

    /// Replaces the rate limits. One that stays the same keeps what was taken from it, and whoever
    /// waits goes on waiting for what the new ones say. Within the runtime that serves.
    pub fn swap_limits(&self, rates: Vec<LimitRule>) {
        self.gate.reload(rates);
        self.live.touch();
    }

    /// The routes and endpoints in use.
    pub fn routes(&self) -> Arc<RouteTable> {
        self.routes.read().clone()
    }

    /// The endpoints in use.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.routes().endpoints().to_vec()
    }

    /// The settings.
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// The number that tells this start of a broker from any other.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether no uid holds anything: no session, no segment, no exchange, no permit.
    pub fn is_at_rest(&self) -> bool {
        self.ledger.is_at_zero() && self.gate.is_at_rest()
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        let state = match self.phase() {
            Phase::Serving => State::Serving,
            Phase::Draining | Phase::Closing => State::Draining,
        };
        self.snapshot_in(state)
    }
}

/// What sessions and exchanges ask of their broker.
impl Broker {
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn started_ms(&self) -> u64 {
        self.started_ms
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    pub(crate) fn bells(&self) -> &Bells {
        &self.bells
    }

    pub(crate) fn spinners(&self) -> &Arc<Spinners> {
        &self.spinners
    }

    pub(crate) fn reaper(&self) -> &Reaper {
        &self.reaper
    }

    pub(crate) fn refusals(&self) -> &Semaphore {
        &self.refusals
    }

    /// Whether one more refusal may be logged: a flood of connections is not a flood of lines.
    pub(crate) fn may_log_refusal(&self) -> bool {
        self.refusal_lines.lock().take(monotonic_ns())
    }

    /// Whether one more peer without a name may be heard and refused. Nobody can be charged for
    /// it, so all of them share one rate.
    pub(crate) fn may_refuse_nameless(&self) -> bool {
        self.nameless.lock().take(monotonic_ns())
    }

    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    pub(crate) fn log_id(&self) -> LogId {
        self.log_ids.next()
    }

    pub(crate) fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Relaxed)
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Closing,
        }
    }

    /// Enters a phase and lets every session know.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
        self.all_sessions().iter().for_each(|session| session.tell());
        self.producers.all().iter().for_each(|producer| producer.tell());
        self.live.touch();
    }

    /// An exchange is in flight. Before the phase is looked at: SeqCst on both sides lets either
    /// the drain see the exchange or the exchange see the drain.
    pub(crate) fn enter(&self) {
        self.unfinished.fetch_add(1, Ordering::SeqCst);
        self.live.exchanges.fetch_add(1, Relaxed);
        self.live.touch();
    }

    /// The terminal frame of an exchange was written: no drain has to wait for it any more.
    pub(crate) fn leave(&self) {
        self.unfinished.fetch_sub(1, Ordering::SeqCst);
        if self.phase() != Phase::Serving {
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.unfinished.load(Ordering::SeqCst)
    }

    /// Waits until `is_so`, which may change when an exchange or a session ends.
    pub(crate) async fn until(&self, is_so: impl Fn(&Broker) -> bool) {
        // Bound: by the caller's time limit.
        loop {
            // Made before the look: what changes after the look wakes it.
            let changed = self.changed.notified();
            if is_so(self) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn all_sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().values().cloned().collect()
    }

    /// An exchange that came through no session can be stopped from here on. Bound: what its uid
    /// was charged for.
    pub(crate) fn enter_guest(&self, id: LogId, stop: &Arc<Stop>) {
        self.guests.lock().insert(id, stop.clone());
    }

    pub(crate) fn leave_guest(&self, id: LogId) {
        self.guests.lock().remove(&id);
    }

    /// Asks every exchange in flight to end.
    pub(crate) fn stop_all(&self, cause: StopCause) {
        self.all_sessions().iter().for_each(|session| session.stop_all(cause));
        self.guests.lock().values().for_each(|stop| stop.request(cause));
    }

    pub(crate) fn session_count(&self) -> usize {
        self.sessions.lock().len() + self.producers.count()
    }

    /// The attached producers.
    pub(crate) fn producers(&self) -> &Producers {
        &self.producers
    }

    pub(crate) fn enlist_producer(self: &Arc<Self>, producer: &Arc<Producer>) -> ListedProducer {
        self.producers.add(producer);
        self.live.sessions_total.fetch_add(1, Relaxed);
        self.live.touch();
        let Identity { uid, pid, .. } = producer.peer;
        let (session, bell, name) = (producer.id, producer.bell_kind(), &producer.name);
        if let Some(Leave { suppressed }) = self.lines.leave(uid, Subject::Session) {
            tracing::info!(
                session,
                uid,
                pid,
                suppressed,
                ?bell,
                producer = name,
                "producer attached"
            );
        }
        ListedProducer { broker: self.clone(), producer: producer.clone() }
    }

    pub(crate) fn enlist(self: &Arc<Self>, session: &Arc<Session>) -> Listed {
        self.sessions.lock().insert(session.id, session.clone());
        self.live.sessions_total.fetch_add(1, Relaxed);
        self.live.touch();
        let Identity { uid, pid, .. } = session.peer;
        let bell = session.bell_kind();
        if let Some(Leave { suppressed }) = self.lines.leave(uid, Subject::Session) {
            tracing::info!(session = session.id, uid, pid, suppressed, ?bell, "session attached");
        }
        Listed { broker: self.clone(), session: session.clone() }
    }

    /// Counts how an exchange ended.
    pub(crate) fn count(&self, verdict: &Result<Ended, Failure>, record: &Record) {
        self.live.content_frames.fetch_add(record.frames, Relaxed);
        self.live.content_bytes.fetch_add(record.bytes, Relaxed);
        match verdict {
            Ok(_) => _ = self.live.ended.fetch_add(1, Relaxed),
            Err(failure) if record.is_dispatched || is_own_end(failure.code) => {
                self.live.failed(failure.code);
            }
            Err(failure) => self.live.refused(failure.code),
        }
    }
}

/// Whoever goes away, or comes with no time left, was refused nothing, however early that is.
fn is_own_end(code: Code) -> bool {
    matches!(code, Code::Cancelled | Code::DeadlineExceeded | Code::SessionClosed)
}

impl Drop for ListedProducer {
    fn drop(&mut self) {
        self.broker.producers.remove(&self.producer);
        self.producer.abandon();
        self.broker.changed.notify_waiters();
        self.broker.live.touch();
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.session.stop_all(StopCause::SessionClosed);
        self.broker.sessions.lock().remove(&self.session.id);
        self.broker.changed.notify_waiters();
        self.broker.live.touch();
    }
}
