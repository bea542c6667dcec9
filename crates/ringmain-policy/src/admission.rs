//! Who may send now, who waits, and who is told to come again: limits and queue together.
//!
//! A request takes from all limits that it falls under, or from none and waits. Nobody overtakes
//! one who waits for the same: a waiter whose turn it is claims the limit that it lacks, and what
//! comes in there is kept for it, however little others would need. It does not claim limits that
//! have room: those are not held idle for one that has not. Who waits for something else
//! altogether is served meanwhile.
//!
//! Generic over `W`, whatever wakes the one who waits.

use thiserror::Error;

use crate::fair::{FairQueue, Place, QueueBounds, Ticket};
use crate::limit::{Lack, LimitRule, Outcome};
use crate::rulebook::{Goal, Hold, LimitGauge, LimitKey, Rulebook};

/// Limits and queue of one broker.
///
/// ```
/// use ringmain_policy::admission::{Admission, Ask, Entry};
/// use ringmain_policy::fair::QueueBounds;
/// use ringmain_policy::{LimitRule, Outcome, Rate};
///
/// let second = 1_000_000_000;
/// let rule = LimitRule {
///     route: Some("tiny".into()),
///     requests: Some(Rate::per_minute(60)),
///     ..LimitRule::default()
/// };
/// let bounds = QueueBounds { total: 16, per_uid: 8 };
/// let mut admission: Admission<&str> = Admission::new(vec![rule], bounds);
/// let ask = |deadline_ns| Ask {
///     uid: 1000,
///     session: 1,
///     deadline_ns,
///     endpoint: Some("local"),
///     route: "tiny",
///     tokens: 0,
/// };
/// let Entry::Admitted(hold) = admission.ask(&ask(9 * second), 0) else { panic!() };
/// admission.settle(hold, Outcome::Failed, 0);
/// let Entry::Refused(refusal) = admission.ask(&ask(second / 2), 0) else { panic!() };
/// assert_eq!(refusal.retry_after_ns, second, "it could not be served in time");
/// let Entry::MustWait = admission.ask(&ask(9 * second), 0) else { panic!() };
/// admission.wait(&ask(9 * second), "wake me", 0)?;
/// assert_eq!(admission.serve(0).due_ns, Some(second));
/// assert_eq!(admission.serve(second).granted[0].0, "wake me");
/// # Ok::<(), ringmain_policy::fair::QueueFull>(())
/// ```
#[derive(Debug)]
pub struct Admission<W> {
    book: Rulebook,
    queue: FairQueue<Waiter<W>>,
}

/// A request that wants to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whose it is.
    pub uid: u32,
    /// The session that it came by.
    pub session: u64,
    /// When it is too late to be sent.
    pub deadline_ns: u64,
    /// Where it goes; `None` for who answers on this host.
    pub endpoint: Option<&'a str>,
    /// The route that it came by.
    pub route: &'a str,
    /// Tokens that it will use, as far as can be said.
    pub tokens: u64,
}

/// What comes of asking.
#[derive(Debug)]
pub enum Entry {
    /// It may be sent now.
    Admitted(Hold),
    /// It has to wait, and may.
    MustWait,
    /// It cannot be sent in time, or too many wait.
    Refused(Refusal),
}

/// A request that is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub cause: RefusalCause,
    /// The limit, in words.
    pub limit: String,
    /// After how long another request like it might be let in.
    pub retry_after_ns: u64,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RefusalCause {
    /// Too many wait.
    #[error("too many requests wait already")]
    Full,
    /// Its turn comes after its deadline.
    #[error("there is no room before the deadline")]
    TooLate,
}

/// What a round of serving brought.
#[derive(Debug)]
pub struct Served<W> {
    /// Who may be sent now.
    pub granted: Vec<(W, Hold)>,
    /// When the next one may if nothing happens before; `None`: nobody waits for a time.
    pub due_ns: Option<u64>,
}

#[derive(Debug)]
struct Waiter<W> {
    goal: Goal,
    limits: Vec<LimitKey>,
    tokens: u64,
    wake: W,
}

/// What those whose turn comes first wait for, in one round: nobody takes it from them.
#[derive(Default)]
struct Claims {
    limits: Vec<LimitKey>,
    /// By the kind of who waits.
    lanes: Vec<u64>,
    due_ns: Option<u64>,
}

impl<W> Admission<W> {
    /// These limits, all of them full, and an empty queue.
    pub fn new(rules: Vec<LimitRule>, bounds: QueueBounds) -> Admission<W> {
        let mut book = Rulebook::default();
        book.reload(rules, 0);
        Admission { book, queue: FairQueue::new(bounds) }
    }

    /// Replaces the rules. One that stays keeps its state, and who waits goes on waiting for what
    /// the new rules say.
    pub fn reload(&mut self, rules: Vec<LimitRule>, now_ns: u64) {
        let Admission { book, queue } = self;
        for (uid, waiter) in queue.iter_mut() {
            leave_crowds(book, uid, waiter);
        }
        book.reload(rules, now_ns);
        for (uid, waiter) in queue.iter_mut() {
            waiter.limits = book.limits_of(waiter.goal, uid, now_ns);
            enter_crowds(book, uid, waiter);
        }
    }

    /// Whether the tokens of such a request count anywhere, so that they have to be estimated.
    pub fn counts_tokens(&self, route: &str, uid: u32) -> bool {
        self.book.counts_tokens(route, uid)
    }

    /// Takes for a request if all its limits have room and nobody waits for one of them.
    pub fn ask(&mut self, ask: &Ask<'_>, now_ns: u64) -> Entry {
        let goal = self.book.goal(ask.endpoint, ask.route, now_ns);
        let limits = self.book.limits_of(goal, ask.uid, now_ns);
        let is_free = self.queue.is_empty() || self.nobody_waits(goal, &limits, now_ns);
        if is_free && self.has_room(ask, goal, &limits, now_ns) {
            return Entry::Admitted(self.book.take(&limits, goal, ask.uid, ask.tokens, now_ns));
        }
        match self.refusal(ask, goal, &limits, now_ns) {
            Some(refusal) => Entry::Refused(refusal),
            None => Entry::MustWait,
        }
    }

    /// Takes for a request that has somewhere else to go, if it may be sent here now. Counts no
    /// refusal.
    ///
    /// # Errors
    /// When its turn might come, by what is known.
    pub fn ask_now(&mut self, ask: &Ask<'_>, now_ns: u64) -> Result<Hold, u64> {
        let goal = self.book.goal(ask.endpoint, ask.route, now_ns);
        let limits = self.book.limits_of(goal, ask.uid, now_ns);
        let is_free = self.queue.is_empty() || self.nobody_waits(goal, &limits, now_ns);
        if is_free && self.has_room(ask, goal, &limits, now_ns) {
            return Ok(self.book.take(&limits, goal, ask.uid, ask.tokens, now_ns));
        }
        let mut due_ns = self.book.lane(goal).map_or(now_ns, |lane| {
            lane.throttle.due_behind_ns(ask.uid, lane.crowd.ahead_of(ask.uid), now_ns)
        });
        for key in limits {
            let Some(limit) = self.book.limit(key) else { continue };
            due_ns = due_ns
                .max(limit.due_behind_crowd_ns(ask.uid, ask.tokens, now_ns))
                .max(limit.place_due_ns(ask.uid, now_ns));
        }
        Err(due_ns)
    }

    /// Queues a request that must wait. The one who queues calls [`Admission::serve`] next.
    ///
    /// # Errors
    /// The queue is full; who asked right before is told so by [`Admission::ask`].
    pub fn wait(
        &mut self,
        ask: &Ask<'_>,
        wake: W,
        now_ns: u64,
    ) -> Result<Ticket, crate::fair::QueueFull> {
        let goal = self.book.goal(ask.endpoint, ask.route, now_ns);
        let limits = self.book.limits_of(goal, ask.uid, now_ns);
        let &Ask { uid, session, deadline_ns, tokens, .. } = ask;
        let place = Place { uid, session, kind: goal.kind(), deadline_ns };
        self.queue.has_room(uid)?;
        let waiter = Waiter { goal, limits, tokens, wake };
        enter_crowds(&mut self.book, uid, &waiter);
        self.queue.push(place, waiter)
    }

    /// Leaves the queue; `None` when it was granted or left before.
    pub fn leave(&mut self, ticket: Ticket) -> Option<W> {
        let waiter = self.queue.remove(ticket)?;
        leave_crowds(&mut self.book, ticket.uid(), &waiter);
        Some(waiter.wake)
    }

    /// Lets in whoever waits and may be sent now, in fair order.
    pub fn serve(&mut self, now_ns: u64) -> Served<W> {
        let Admission { book, queue } = self;
        let (mut claims, mut holds) = (Claims::default(), Vec::new());
        let waiters = queue.serve(|uid, waiter| {
            if !claims.lets_pass(book, uid, waiter, now_ns) {
                return false;
            }
            leave_crowds(book, uid, waiter);
            holds.push(book.take(&waiter.limits, waiter.goal, uid, waiter.tokens, now_ns));
            true
        });
        let granted = waiters.into_iter().map(|waiter| waiter.wake).zip(holds).collect();
        Served { granted, due_ns: claims.due_ns }
    }

    /// Ends what was let in, once. Whoever waits may be served then.
    pub fn settle(&mut self, hold: Hold, outcome: Outcome, now_ns: u64) {
        self.book.settle(hold, outcome, now_ns);
    }

    /// The endpoint answered what was let in with 429: its rate goes down for a while.
    pub fn refused_upstream(&mut self, hold: &Hold, retry_after_ns: Option<u64>, now_ns: u64) {
        self.book.refused_upstream(hold, retry_after_ns, now_ns);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What the limits show.
    pub fn gauges(&mut self, now_ns: u64) -> Vec<LimitGauge> {
        self.book.gauges(now_ns)
    }

    /// Whether nothing is held and nobody waits: what must be true after the last exchange.
    pub fn is_at_rest(&mut self) -> bool {
        let is_idle = self.book.each_limit().all(|l| l.in_flight() == 0 && l.crowd.is_empty());
        is_idle && self.queue.is_empty()
    }

    fn nobody_waits(&mut self, goal: Goal, limits: &[LimitKey], now_ns: u64) -> bool {
        let is_empty = |key| self.book.limit(key).is_none_or(|limit| limit.crowd.is_empty());
        limits.iter().copied().all(is_empty)
            && self.book.lane(goal).is_none_or(|lane| {
                lane.crowd.is_empty() || lane.throttle.per_minute(now_ns).is_none()
            })
    }

    fn has_room(&mut self, ask: &Ask<'_>, goal: Goal, limits: &[LimitKey], now_ns: u64) -> bool {
        let lane = self.book.lane(goal);
        lane.is_none_or(|lane| lane.throttle.due_ns(ask.uid, now_ns).is_none())
            && limits.iter().all(|key| self.book.lacks(*key, ask.tokens, now_ns).is_none())
    }

    /// Why a request may not even wait.
    fn refusal(
        &mut self,
        ask: &Ask<'_>,
        goal: Goal,
        limits: &[LimitKey],
        now_ns: u64,
    ) -> Option<Refusal> {
        let mut due_ns = self.book.lane(goal).map_or(now_ns, |lane| {
            lane.throttle.due_behind_ns(ask.uid, lane.crowd.ahead_of(ask.uid), now_ns)
        });
        let (mut latest, mut place_ns, mut crowded) = (None, now_ns, None);
        for key in limits {
            let Some(limit) = self.book.limit(*key) else { continue };
            let at_ns = limit.due_behind_crowd_ns(ask.uid, ask.tokens, now_ns);
            if at_ns > due_ns || latest.is_none() {
                (due_ns, latest) = (due_ns.max(at_ns), Some(*key));
            }
            place_ns = place_ns.max(limit.place_due_ns(ask.uid, now_ns));
            if !limit.may_wait(ask.uid) {
                crowded = Some(*key);
            }
        }
        let cause = match () {
            () if due_ns > ask.deadline_ns => RefusalCause::TooLate,
            () if crowded.is_some() || self.queue.has_room(ask.uid).is_err() => RefusalCause::Full,
            () => return None,
        };
        let limit = match crowded.or(latest) {
            Some(key) => self.book.count_refusal(key),
            None => format!("endpoint {:?}", ask.endpoint.unwrap_or_default()),
        };
        let retry_after_ns = due_ns.max(place_ns) - now_ns;
        Some(Refusal { cause, limit, retry_after_ns })
    }
}

impl Claims {
    /// Whether this waiter may go; if not, what it lacks is kept for it.
    fn lets_pass<W>(
        &mut self,
        book: &mut Rulebook,
        uid: u32,
        waiter: &Waiter<W>,
        now_ns: u64,
    ) -> bool {
        let Waiter { goal, limits, tokens, .. } = waiter;
        let is_claimed =
            limits.iter().any(|key| self.limits.contains(key)) || self.lanes.contains(&goal.kind());
        if is_claimed {
            return false;
        }
        // Who may not go there yet keeps no limit from those who go elsewhere.
        if let Some(lane) = book.lane(*goal)
            && let Some(at_ns) = lane.throttle.due_ns(uid, now_ns)
        {
            if !lane.throttle.holds_alone(uid, now_ns) {
                self.lanes.push(goal.kind());
            }
            self.is_due(at_ns);
            return false;
        }
        let (mut passes, mut due_ns) = (true, Some(now_ns));
        for key in limits {
            let Some(lack) = book.lacks(*key, *tokens, now_ns) else { continue };
            passes = false;
            self.limits.push(*key);
            due_ns = match lack {
                Lack::Until(at_ns) => due_ns.map(|due_ns| due_ns.max(at_ns)),
                // A place comes back when somebody settles, who serves the queue then.
                Lack::Place => None,
            };
        }
        if let Some(due_ns) = due_ns.filter(|_| !passes) {
            self.is_due(due_ns);
        }
        passes
    }

    fn is_due(&mut self, at_ns: u64) {
        self.due_ns = Some(self.due_ns.map_or(at_ns, |due_ns| due_ns.min(at_ns)));
    }
}

impl Goal {
    /// One number for what a request waits for, beside its uid.
    fn kind(self) -> u64 {
        let endpoint = self.endpoint.map_or(0, |endpoint| u64::from(endpoint) + 1);
        endpoint << 32 | u64::from(self.route)
    }
}

fn enter_crowds<W>(book: &mut Rulebook, uid: u32, waiter: &Waiter<W>) {
    book.enter_crowds(waiter.goal, &waiter.limits, uid, waiter.tokens);
}

fn leave_crowds<W>(book: &mut Rulebook, uid: u32, waiter: &Waiter<W>) {
    book.leave_crowds(waiter.goal, &waiter.limits, uid, waiter.tokens);
}

#[cfg(test)]
mod tests;
