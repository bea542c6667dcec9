//! What a connection is doing, in one word that others may read.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use http::Version;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::framing::Fault;
use crate::running::Running;
use crate::watch::Limits;

/// Unused since its last answer.
const IDLE: u64 = 0;
/// A head is awaited: the first one from the accept on, another one since its first byte.
const HEAD: u64 = 1;
/// A request is being read or answered.
const BUSY: u64 = 2;
const PHASE: u64 = 3;

/// How many are answered stands between the phase and the count of changes.
const ONE: u64 = 1 << 2;
const ANSWERING: u64 = 0xffff << 2;
const CHANGE: u64 = 1 << 18;

/// What others may know of a connection, and how they end it.
pub(crate) struct Gauge {
    pub uid: u32,
    /// The address of a caller over TCP.
    pub from: Option<IpAddr>,
    /// The phase, how many requests are being answered, and a count of changes.
    word: AtomicU64,
    /// The pipeline that its task runs, where there is one task for both.
    running: Mutex<Weak<Running>>,
    /// It has not run yet.
    begun: AtomicBool,
    /// Several requests at once: what comes beside them need not be one.
    is_http2: AtomicBool,
    /// Whether a caller that may call has called.
    is_known: AtomicBool,
    /// Whether the end of the connection must not pass for the end of an answer.
    is_broken: AtomicBool,
    fault: OnceLock<Fault>,
    /// Whoever waits for bytes that are held back.
    reader: Mutex<Option<Waker>>,
    task: OnceLock<AbortHandle>,
}

impl Gauge {
    pub fn new(uid: u32, from: Option<IpAddr>) -> Arc<Gauge> {
        Arc::new(Gauge {
            uid,
            from,
            word: AtomicU64::new(HEAD),
            running: Mutex::default(),
            begun: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            fault: OnceLock::new(),
            reader: Mutex::default(),
            task: OnceLock::new(),
        })
    }

    /// Changes whenever the phase does.
    pub fn word(&self) -> u64 {
        self.word.load(Relaxed)
    }

    /// How long the present phase may last; for an answer that is up to the answer.
    pub fn limit(&self, limits: &Limits) -> Option<Duration> {
        match self.word() & PHASE {
            HEAD => Some(limits.head),
            IDLE => Some(limits.idle),
            _ => None,
        }
    }

    /// The task that serves it.
    pub fn runs_in(&self, task: AbortHandle) {
        let _ = self.task.set(task);
    }

    /// Its task runs this pipeline from now on.
    pub fn hosts(&self, running: &Arc<Running>) {
        running.leave_to_host();
        *self.running.lock() = Arc::downgrade(running);
        self.begun.store(true, Relaxed);
    }

    /// Whether there is a pipeline that was not there when this was asked last.
    pub fn take_begun(&self) -> bool {
        self.begun.swap(false, Relaxed)
    }

    /// Runs the pipeline of the present answer, if it was woken. True: the server is to look at it.
    pub fn run_hosted(&self, cx: &mut Context<'_>) -> bool {
        let running = self.running.lock().upgrade();
        running.is_some_and(|running| running.run(cx))
    }

    /// Closes the connection and drops what it was answering.
    pub fn end(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    /// Whether its streams end one by one.
    pub fn is_http2(&self) -> bool {
        self.is_http2.load(Relaxed)
    }

    /// A caller that may call has called.
    pub fn knows(&self) {
        self.is_known.store(true, Relaxed);
    }

    pub fn is_known(&self) -> bool {
        self.is_known.load(Relaxed)
    }

    /// An answer has no good end.
    pub fn broke(&self) {
        self.is_broken.store(true, Relaxed);
    }

    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Relaxed)
    }

    /// Whether a request is being answered.
    pub fn is_answering(&self) -> bool {
        self.word() & ANSWERING != 0
    }

    /// What came is no request.
    pub fn faulted(&self, fault: Fault) {
        let _ = self.fault.set(fault);
    }

    /// Why what came is no request. Nothing is read behind it.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.get().copied()
    }

    /// Wakes this one when the answer is over.
    pub fn wakes(&self, reader: &Waker) {
        *self.reader.lock() = Some(reader.clone());
    }

    /// Bytes came. Those of HTTP/2 need not be a request's.
    pub fn saw_bytes(&self) {
        if self.word() & PHASE == IDLE && !self.is_http2.load(Relaxed) {
            self.change(|word| match word & PHASE {
                IDLE => word | HEAD,
                _ => word,
            });
        }
    }

    /// A head was read to its end.
    pub fn begin(self: &Arc<Gauge>, version: Version) -> Turn {
        if version >= Version::HTTP_2 {
            self.is_http2.store(true, Relaxed);
        }
        self.change(|word| (word & !PHASE | BUSY) + ONE);
        Turn(self.clone())
    }

    /// Several tasks change the word of an HTTP/2 connection.
    fn change(&self, change: impl Fn(u64) -> u64) {
        let changed = |word| Some(change(word).wrapping_add(CHANGE));
        let _ = self.word.fetch_update(Relaxed, Relaxed, changed);
    }
}

/// A request that is being answered.
pub(crate) struct Turn(Arc<Gauge>);

impl Turn {
    pub fn gauge(&self) -> &Arc<Gauge> {
        &self.0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.change(|word| {
            let word = word - ONE;
            if word & ANSWERING == 0 { word & !PHASE | IDLE } else { word }
        });
        if let Some(reader) = self.0.reader.lock().take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(1),
        idle: Duration::from_secs(2),
        slow_consumer: Duration::from_secs(3),
    };

    #[test]
    fn each_phase_has_its_limit() {
        let gauge = Gauge::new(0, None);
        let word = gauge.word();
        gauge.saw_bytes();
        assert_eq!((gauge.word(), gauge.limit(&LIMITS)), (word, Some(LIMITS.head)));
        let first = gauge.begin(Version::HTTP_11);
        assert!(gauge.is_answering() && !gauge.is_http2());
        gauge.saw_bytes();
        assert_eq!(gauge.limit(&LIMITS), None);
        drop(first);
        assert!(!gauge.is_answering());
        assert_eq!(gauge.limit(&LIMITS), Some(LIMITS.idle));
        gauge.saw_bytes();
        let word = gauge.word();
        gauge.saw_bytes();
        assert_eq!((gauge.word(), gauge.limit(&LIMITS)), (word, Some(LIMITS.head)));
    }

    #[test]
    fn bytes_of_http2_need_not_be_a_request() {
        let gauge = Gauge::new(0, None);
        gauge.saw_bytes();
        assert_eq!(gauge.limit(&LIMITS), Some(LIMITS.head), "until the first request");
        let (first, second) = (gauge.begin(Version::HTTP_2), gauge.begin(Version::HTTP_2));
        assert!(gauge.is_answering() && gauge.is_http2());
        drop(first);
        assert_eq!(gauge.limit(&LIMITS), None);
        drop(second);
        gauge.saw_bytes();
        assert_eq!(gauge.limit(&LIMITS), Some(LIMITS.idle));
    }

    /// Whatever the order, a connection that answers is never taken for one that does not.
    #[test]
    fn many_threads_begin_and_end() {
        let gauge = Gauge::new(0, None);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5000 {
                        let turn = gauge.begin(Version::HTTP_2);
                        assert_eq!(gauge.limit(&LIMITS), None);
                        drop(turn);
                    }
                });
            }
        });
        assert_eq!(gauge.limit(&LIMITS), Some(LIMITS.idle));
    }
}
