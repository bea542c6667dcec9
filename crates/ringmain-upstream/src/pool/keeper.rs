//! The task beside a pool: lets go what is unused, and keeps the floor.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::roster::Gone;
use super::{Lease, Shared};

/// Least time from one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time after the first failure to keep the floor, doubled with each further one up to the most.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Most connections of the floor that are made at the same time.
const WARMED_AT_ONCE: usize = 4;

impl Shared {
    /// Has the pool kept from now on, if a runtime is there.
    pub(super) fn be_kept(self: &Arc<Shared>) {
        if self.is_kept.load(Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.is_kept.swap(true, Relaxed) {
            runtime.spawn(keep(Arc::downgrade(self), self.wake.clone()));
        }
    }

    /// Lets go what is due; when the next may be.
    fn look(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut gone = Gone::new();
        let due = {
            let mut state = self.state.lock();
            let idle_max = state.idle.now(now);
            state.roster.expire(self.floor, idle_max, now, &mut gone);
            state.looks_at = state.roster.next_due(self.floor, idle_max);
            state.looks_at
        };
        self.forget(gone);
        due
    }

    /// Makes the connections that the floor lacks; false when one could not be made.
    async fn warm(self: &Arc<Shared>) -> bool {
        // Bound: the floor.
        loop {
            let leases: Vec<_> = {
                let mut state = self.state.lock();
                let missing = self.floor.saturating_sub(state.roster.size());
                let now = Instant::now();
                let slots =
                    (0..missing.min(WARMED_AT_ONCE)).map_while(|_| state.roster.open_one(now));
                slots.collect::<Vec<_>>()
            }
            .into_iter()
            .map(|id| self.lease((id, None)))
            .collect();
            if leases.is_empty() {
                return true;
            }
            let making: Vec<_> =
                leases.into_iter().map(|lease| tokio::spawn(connect(lease))).collect();
            for made in making {
                if !made.await.unwrap_or(false) {
                    return false;
                }
            }
        }
    }
}

/// Keeps a pool until it is dropped.
async fn keep(pool: Weak<Shared>, wake: Arc<Notify>) {
    let mut pause = PAUSE_MIN;
    // Bound: as long as the pool lives, and at most one look per step.
    loop {
        let Some(shared) = pool.upgrade() else { return };
        let mut due = shared.look();
        let is_warm = shared.floor == 0 || shared.warm().await;
        drop(shared);
        let now = Instant::now();
        if is_warm {
            pause = PAUSE_MIN;
        } else {
            due = Some(due.map_or(now + pause, |due| due.min(now + pause)));
            pause = (pause * 2).min(PAUSE_MAX);
        }
        match due {
            None => wake.notified().await,
            Some(due) => {
                let wait = due.saturating_duration_since(now).max(LOOK_EVERY);
                let _ = timeout(wait, wake.notified()).await;
            }
        }
    }
}

/// Makes the connection of a slot and sends nothing on it.
async fn connect(mut lease: Lease) -> bool {
    let is_ready = lease.ready().await.is_ok() && lease.is_open().await;
    match is_ready {
        true => lease.done(Instant::now()),
        false => drop(lease),
    }
    is_ready
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}
