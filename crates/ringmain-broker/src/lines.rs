//! How many log lines one uid may cause by what costs it nothing: sessions that come and go, and
//! requests that are refused or answered by a producer of a foreign uid. What reached a provider
//! always has its line.

use std::collections::HashMap;

use parking_lot::Mutex;
use ringmain_policy::RateBucket;
use ringmain_shm::monotonic_ns;

/// Lines per second of one uid about each subject, after a burst of as many.
const LINES_PER_S: u32 = 200;
/// Rows kept for uids that are quiet, beyond which those at rest are removed.
const ROWS_KEPT: usize = 1024;

/// What a line is about. A flood of one hides nothing of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Exchange = 0,
    Session = 1,
}

/// The leave to write one line, which tells of those that were left out before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leave {
    /// Lines left out since the last one that was written; `None` for none.
    pub suppressed: Option<u64>,
}

/// The lines of all uids. Bound: a row per uid that may attach and was not quiet of late.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<u32, [Row; 2]>>);

#[derive(Debug)]
struct Row {
    bucket: RateBucket,
    suppressed: u64,
}

impl Lines {
    /// Whether one more line may be written now.
    pub fn leave(&self, uid: u32, subject: Subject) -> Option<Leave> {
        self.leave_at(uid, subject, monotonic_ns())
    }

    fn leave_at(&self, uid: u32, subject: Subject, now_ns: u64) -> Option<Leave> {
        let mut rows = self.0.lock();
        if rows.len() >= ROWS_KEPT && !rows.contains_key(&uid) {
            rows.retain(|_, row| !row.iter().all(|row| row.bucket.is_full(now_ns)));
        }
        let fresh = || Row { bucket: RateBucket::new(LINES_PER_S, now_ns), suppressed: 0 };
        let row = &mut rows.entry(uid).or_insert_with(|| [fresh(), fresh()])[subject as usize];
        if !row.bucket.take(now_ns) {
            row.suppressed += 1;
            return None;
        }
        let suppressed = std::mem::take(&mut row.suppressed);
        Some(Leave { suppressed: (suppressed > 0).then_some(suppressed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_number() {
        let lines = Lines::default();
        let told = |uid, subject, now_ns| lines.leave_at(uid, subject, now_ns);
        let passed = (0..1000).filter(|_| told(7, Subject::Exchange, 0).is_some()).count();
        assert_eq!(passed, LINES_PER_S as usize);
        let quiet = Some(Leave { suppressed: None });
        assert_eq!(told(7, Subject::Session, 0), quiet, "another subject");
        assert_eq!(told(8, Subject::Exchange, 0), quiet, "another uid");
        let next = Some(Leave { suppressed: Some(800) });
        assert_eq!(told(7, Subject::Exchange, 1_000_000_000), next);
        assert_eq!(told(7, Subject::Exchange, 1_000_000_000), quiet);
    }

    #[test]
    fn rows_of_quiet_uids_go() {
        let lines = Lines::default();
        for uid in 0..5000 {
            lines.leave_at(uid, Subject::Session, u64::from(uid) * 1_000_000_000);
        }
        assert!(lines.0.lock().len() <= ROWS_KEPT);
    }
}
