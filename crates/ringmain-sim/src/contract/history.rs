//! Everything that was recorded of one run.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, BufRead};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record::CallerRecord;
use crate::provider::ProviderRecord;

const MS: u64 = 1_000_000;

/// The times that the contract promises, and the slack of those who observe them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Past a deadline: 100 ms.
    pub deadline_ns: u64,
    /// From a cancel until the provider's side is let go: 100 ms.
    pub cancel_ns: u64,
    /// From a client's death until all it had is back: 1 s.
    pub death_ns: u64,
    /// From a broker's death until every call has ended: 1 s.
    pub broker_gone_ns: u64,
    /// Added to each: what it takes both ends to notice and write down what happened, on a
    /// machine that runs the whole test suite at the same time.
    pub slack_ns: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            deadline_ns: 100 * MS,
            cancel_ns: 100 * MS,
            death_ns: 1000 * MS,
            broker_gone_ns: 1000 * MS,
            slack_ns: 100 * MS,
        }
    }
}

/// A process of callers that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// The process, as in [`CallerRecord::process`].
    pub process: u64,
    /// When it was gone.
    pub at_ns: u64,
}

/// A broker that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerDeath {
    /// Its epoch.
    pub epoch: u64,
    /// When it was gone.
    pub at_ns: u64,
}

/// A broker that was told to drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Its epoch.
    pub epoch: u64,
    /// When it was told.
    pub at_ns: u64,
    /// How long it may take.
    pub limit_ns: u64,
    /// When it had exited.
    pub exited_ns: Option<u64>,
}

/// What a hostile peer did and saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostility {
    /// Its session.
    pub session: u64,
    /// What it did.
    pub what: String,
    /// When.
    pub at_ns: u64,
    /// Number of the code in Goodbye, if it saw one.
    pub code: Option<u16>,
    /// When it saw the session closed.
    pub closed_ns: Option<u64>,
}

/// A gauge that must be back where it was once everything is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauge {
    /// Its name.
    pub name: String,
    /// What it must show at rest.
    pub rest: i64,
    /// What it showed.
    pub value: i64,
}

/// A time in which each of these uids had work waiting to be admitted, all the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contention {
    /// The uids.
    pub uids: Vec<u32>,
    /// When all of them had begun to wait.
    pub from_ns: u64,
    /// When the first of them had nothing left.
    pub until_ns: u64,
}

/// Everything that was recorded of one run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What callers saw.
    pub callers: Vec<CallerRecord>,
    /// What the provider saw.
    pub provider: Vec<ProviderRecord>,
    /// Caller processes killed.
    pub deaths: Vec<Death>,
    /// Brokers killed.
    pub broker_deaths: Vec<BrokerDeath>,
    /// Brokers drained.
    pub drains: Vec<Drain>,
    /// Hostile peers.
    pub hostilities: Vec<Hostility>,
    /// Times in which uids competed for admission.
    pub contentions: Vec<Contention>,
    /// Whether every attempt reached a provider whose log is here: then the attempts that callers
    /// are told of are exactly those.
    pub all_attempts_seen: bool,
    /// Gauges read after everything was over.
    pub gauges: Vec<Gauge>,
    /// Where recordings lie, to compare replays; without it they are compared by length only.
    pub replay_dir: Option<PathBuf>,
    /// The times promised.
    pub bounds: Bounds,
}

impl History {
    /// Adds the records that a process wrote as lines of JSON. Of an exchange written twice the
    /// later line counts; a torn last line is what a kill leaves behind and is ignored.
    ///
    /// # Errors
    /// Those of the reader, and a line in the middle that is not a record.
    pub fn add_callers(&mut self, lines: impl BufRead) -> io::Result<()> {
        let mut places: HashMap<(u64, String), usize> = HashMap::new();
        let mut torn: Option<serde_json::Error> = None;
        for line in lines.lines() {
            if let Some(error) = torn {
                return Err(error.into());
            }
            let record = match serde_json::from_str::<CallerRecord>(&line?) {
                Ok(record) => record,
                Err(error) => {
                    torn = Some(error);
                    continue;
                }
            };
            match places.entry((record.process, record.id.clone())) {
                Entry::Occupied(place) => self.callers[*place.get()] = record,
                Entry::Vacant(place) => {
                    place.insert(self.callers.len());
                    self.callers.push(record);
                }
            }
        }
        Ok(())
    }
}
