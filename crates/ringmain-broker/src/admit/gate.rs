//! The lock around the limits, the wake-ups, and the timer.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use ringmain_policy::{
    Admission, Ask, Entry, Hold, LimitGauge, LimitRule, Outcome, QueueBounds, Refusal,
    RefusalCause, Ticket,
};
use ringmain_shm::monotonic_ns;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

/// All limits of a broker. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Told when the next turn moved to an earlier time.
    sooner: Notify,
}

struct State {
    admission: Admission<oneshot::Sender<Grant>>,
    /// When the timer has to serve the queue next.
    due_ns: Option<u64>,
    /// Lives as long as the task of the timer, which ends with its runtime.
    ticking: Weak<()>,
    /// Where those who wait run. A grant may be dropped outside of any runtime.
    runtime: Option<Handle>,
}

/// What an attempt holds. Dropped, it is settled as what became of it.
pub(crate) struct Grant {
    gate: Gate,
    hold: Option<Hold>,
    pub outcome: Outcome,
}

/// A place in the queue; dropped, it is left.
struct Waiting<'a> {
    gate: &'a Gate,
    ticket: Ticket,
    /// Closed before the place is left: a grant that comes in between goes back.
    granted: oneshot::Receiver<Grant>,
}

impl Gate {
    pub fn new(rules: Vec<LimitRule>, bounds: QueueBounds) -> Gate {
        let admission = Admission::new(rules, bounds);
        let (ticking, runtime) = (Weak::new(), None);
        let state = Mutex::new(State { admission, due_ns: None, ticking, runtime });
        Gate(Arc::new(Shared { state, sooner: Notify::new() }))
    }

    /// Replaces the rules; those that stay keep their state.
    pub fn reload(&self, rules: Vec<LimitRule>) {
        self.0.state.lock().admission.reload(rules, monotonic_ns());
        self.serve(monotonic_ns());
    }

    /// Whether tokens of such requests are counted anywhere.
    pub fn counts_tokens(&self, route: &str, uid: u32) -> bool {
        self.0.state.lock().admission.counts_tokens(route, uid)
    }

    /// Takes for a request, waiting for its turn.
    pub async fn pass(&self, ask: &Ask<'_>, now_ns: u64) -> Result<Grant, Refusal> {
        // The lock is not held while this waits.
        let mut waiting = match self.ask(ask, now_ns)? {
            Asked::Granted(grant) => return Ok(grant),
            Asked::Waiting(waiting) => waiting,
        };
        self.serve(now_ns);
        // The sender is dropped only by those who take this place out of the queue.
        let granted = (&mut waiting.granted).await;
        granted.map_err(|_| Refusal {
            cause: RefusalCause::Full,
            limit: String::new(),
            retry_after_ns: 0,
        })
    }

    /// Takes for a request that has somewhere else to go; waits for nothing.
    pub fn pass_now(&self, ask: &Ask<'_>, now_ns: u64) -> Result<Grant, u64> {
        let passed = self.0.state.lock().admission.ask_now(ask, now_ns);
        passed.map(|hold| self.grant(hold))
    }

    /// What the limits show.
    pub fn gauges(&self) -> Vec<LimitGauge> {
        self.0.state.lock().admission.gauges(monotonic_ns())
    }

    /// Whether nothing is held and nobody waits.
    pub fn is_at_rest(&self) -> bool {
        self.0.state.lock().admission.is_at_rest()
    }

    fn ask<'a>(&'a self, ask: &Ask<'_>, now_ns: u64) -> Result<Asked<'a>, Refusal> {
        let mut state = self.0.state.lock();
        match state.admission.ask(ask, now_ns) {
            Entry::Admitted(hold) => Ok(Asked::Granted(self.grant(hold))),
            Entry::Refused(refusal) => Err(refusal),
            Entry::MustWait => {
                state.runtime = Handle::try_current().ok().or(state.runtime.take());
                let (wake, granted) = oneshot::channel();
                let ticket = state.admission.wait(ask, wake, now_ns).map_err(|full| Refusal {
                    cause: RefusalCause::Full,
                    limit: full.to_string(),
                    retry_after_ns: 0,
                })?;
                Ok(Asked::Waiting(Waiting { gate: self, ticket, granted }))
            }
        }
    }

    fn grant(&self, hold: Hold) -> Grant {
        Grant { gate: self.clone(), hold: Some(hold), outcome: Outcome::Unsent }
    }

    /// Lets in whoever may go now.
    fn serve(&self, now_ns: u64) {
        self.settle(None, now_ns);
    }

    /// Settles what ended, then lets in whoever may go now. A grant whose receiver has just gone
    /// is one more that ended.
    fn settle(&self, ended: Option<(Hold, Outcome)>, now_ns: u64) {
        let mut granted = self.settle_and_serve(ended, now_ns);
        // Bound: each round but the last found somebody in the queue who was gone, and took it out.
        loop {
            let mut ended = Vec::new();
            for (wake, hold) in granted {
                let sent = wake.send(self.grant(hold));
                let gone = sent.err().and_then(|mut grant| grant.hold.take());
                ended.extend(gone.map(|hold| (hold, Outcome::Unsent)));
            }
            if ended.is_empty() {
                return;
            }
            granted = self.settle_and_serve(ended, monotonic_ns());
        }
    }

    fn settle_and_serve(
        &self,
        ended: impl IntoIterator<Item = (Hold, Outcome)>,
        now_ns: u64,
    ) -> Vec<(oneshot::Sender<Grant>, Hold)> {
        let mut state = self.0.state.lock();
        for (hold, outcome) in ended {
            state.admission.settle(hold, outcome, now_ns);
        }
        if state.admission.waiting() == 0 {
            state.due_ns = None;
            return Vec::new();
        }
        let served = state.admission.serve(now_ns);
        self.set_timer(&mut state, served.due_ns);
        served.granted
    }

    fn set_timer(&self, state: &mut State, due_ns: Option<u64>) {
        let is_sooner = match (state.due_ns, due_ns) {
            (Some(set_ns), Some(due_ns)) => due_ns < set_ns,
            (set, due) => set.is_none() && due.is_some(),
        };
        state.due_ns = due_ns;
        let is_ticking = state.ticking.strong_count() > 0;
        if let (Some(_), false, Some(runtime)) = (due_ns, is_ticking, &state.runtime) {
            let ticks = Arc::new(());
            state.ticking = Arc::downgrade(&ticks);
            runtime.spawn(self.clone().tick(ticks));
        } else if is_sooner {
            self.0.sooner.notify_one();
        }
    }

    /// Serves the queue whenever the next turn has come; ends when nobody waits for a time.
    async fn tick(self, _ticks: Arc<()>) {
        // Bound: as long as somebody waits for a time, and one round per turn.
        loop {
            let due_ns = {
                let mut state = self.0.state.lock();
                if state.due_ns.is_none() {
                    state.ticking = Weak::new();
                }
                state.due_ns
            };
            let Some(due_ns) = due_ns else { return };
            let left = Duration::from_nanos(due_ns.saturating_sub(monotonic_ns()));
            tokio::select! {
                () = sleep_until(Instant::now() + left) => self.serve(monotonic_ns()),
                () = self.0.sooner.notified() => {}
            }
        }
    }
}

/// What asking came to.
enum Asked<'a> {
    Granted(Grant),
    Waiting(Waiting<'a>),
}

impl Grant {
    /// What this was for ended so.
    pub fn end(mut self, outcome: Outcome, now_ns: u64) {
        if let Some(hold) = self.hold.take() {
            self.gate.settle(Some((hold, outcome)), now_ns);
        }
    }

    /// The endpoint refused what this was for.
    pub fn refused(&self, retry_after_ns: Option<u64>) {
        if let Some(hold) = &self.hold {
            let mut state = self.gate.0.state.lock();
            state.admission.refused_upstream(hold, retry_after_ns, monotonic_ns());
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.gate.settle(Some((hold, self.outcome)), monotonic_ns());
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.granted.close();
        let left = self.gate.0.state.lock().admission.leave(self.ticket);
        // Dropped outside of the lock, like a grant that came before the channel was closed.
        if left.is_some() {
            // What was kept for it is there for others.
            self.gate.serve(monotonic_ns());
        }
    }
}
