//! Who is attached under which name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Producer;

/// The producers of a broker. Several may serve one name: they share its requests, so a process
/// can be replaced without a gap.
#[derive(Default)]
pub(crate) struct Producers {
    sessions: Mutex<Sessions>,
    turn: AtomicUsize,
}

/// Bound: the quota of sessions.
#[derive(Default)]
struct Sessions {
    by_id: BTreeMap<u64, Arc<Producer>>,
    by_name: HashMap<String, Vec<Arc<Producer>>>,
}

impl Producers {
    pub fn add(&self, producer: &Arc<Producer>) {
        let mut sessions = self.sessions.lock();
        sessions.by_id.insert(producer.id, producer.clone());
        sessions.by_name.entry(producer.name.clone()).or_default().push(producer.clone());
    }

    pub fn remove(&self, producer: &Producer) {
        let mut sessions = self.sessions.lock();
        sessions.by_id.remove(&producer.id);
        if let Some(same) = sessions.by_name.get_mut(&producer.name) {
            same.retain(|other| other.id != producer.id);
            if same.is_empty() {
                sessions.by_name.remove(&producer.name);
            }
        }
    }

    /// All of them, by the number of their session.
    pub fn all(&self) -> Vec<Arc<Producer>> {
        self.sessions.lock().by_id.values().cloned().collect()
    }

    pub fn count(&self) -> usize {
        self.sessions.lock().by_id.len()
    }

    /// Those of a name, the one with the fewest exchanges in flight first; equals take turns.
    pub fn of_name(&self, name: &str) -> Vec<Arc<Producer>> {
        let mut same = match self.sessions.lock().by_name.get(name) {
            Some(same) => same.clone(),
            None => return Vec::new(),
        };
        if same.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % same.len();
            same.rotate_left(turn);
            // Counted once: numbers that change meanwhile are no order to sort by.
            same.sort_by_cached_key(|producer| producer.exchanges.load(Ordering::Relaxed));
        }
        same
    }
}
