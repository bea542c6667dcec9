//! The counters themselves, in private memory.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ringmain_wire::Code;
use tokio::sync::Notify;

use super::layout::{CODES, Snapshot};

/// Counts of one broker. Relaxed: each count is exact, none orders anything.
#[derive(Debug)]
pub(crate) struct Live {
    pub sessions_total: AtomicU64,
    pub exchanges: AtomicU64,
    pub exchanges_total: AtomicU64,
    pub ended: AtomicU64,
    pub failed: AtomicU64,
    pub content_frames: AtomicU64,
    pub content_bytes: AtomicU64,
    refusals: [AtomicU64; CODES],
    failures: [AtomicU64; CODES],
    changed: Notify,
}

impl Live {
    pub fn new() -> Live {
        Live {
            sessions_total: AtomicU64::new(0),
            exchanges: AtomicU64::new(0),
            exchanges_total: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            content_frames: AtomicU64::new(0),
            content_bytes: AtomicU64::new(0),
            refusals: [const { AtomicU64::new(0) }; CODES],
            failures: [const { AtomicU64::new(0) }; CODES],
            changed: Notify::new(),
        }
    }

    /// An attachment or a request was refused, or a session was closed for a violation.
    pub fn refused(&self, code: Code) {
        self.refusals[code as usize % CODES].fetch_add(1, Relaxed);
        self.touch();
    }

    /// An accepted exchange ended in ERROR.
    pub fn failed(&self, code: Code) {
        self.failed.fetch_add(1, Relaxed);
        self.failures[code as usize % CODES].fetch_add(1, Relaxed);
        self.touch();
    }

    /// Something changed that a reader may want to see.
    pub fn touch(&self) {
        self.changed.notify_one();
    }

    /// Waits until something changed since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Copies the counts into a snapshot.
    pub fn fill(&self, snapshot: &mut Snapshot) {
        snapshot.sessions_total = self.sessions_total.load(Relaxed);
        snapshot.exchanges = self.exchanges.load(Relaxed);
        snapshot.exchanges_total = self.exchanges_total.load(Relaxed);
        snapshot.ended = self.ended.load(Relaxed);
        snapshot.failed = self.failed.load(Relaxed);
        snapshot.content_frames = self.content_frames.load(Relaxed);
        snapshot.content_bytes = self.content_bytes.load(Relaxed);
        snapshot.refusals = by_code(&self.refusals);
        snapshot.failures = by_code(&self.failures);
    }
}

fn by_code(table: &[AtomicU64; CODES]) -> Vec<(Code, u64)> {
    let count = |code: &Code| (*code, table[*code as usize % CODES].load(Relaxed));
    Code::ALL.iter().map(count).filter(|(_, count)| *count > 0).collect()
}
