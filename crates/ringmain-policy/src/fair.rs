//! A queue that is fair between uids: they are served in turn, the sessions of a uid in turn, and
//! what waits in a session by earliest deadline.
//!
//! What waits is of some kind, and only the first of each kind of a session is looked at: the rest
//! behind it would be served no sooner. When a first one is told to wait on, so is its whole kind,
//! in all sessions of its uid, until the queue is served again: what the first lacks is kept for
//! it, so nobody else gets it. A uid whose every kind was told so costs nothing more, however many
//! of its sessions wait. The queue knows nothing of what is waited for; the one who serves judges
//! each candidate.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use thiserror::Error;

/// How many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// In all.
    pub total: usize,
    /// Of one uid.
    pub per_uid: usize,
}

impl Default for QueueBounds {
    fn default() -> Self {
        QueueBounds { total: 16_384, per_uid: 1024 }
    }
}

/// Whom a place in the queue belongs to, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Turns go by uid.
    pub uid: u32,
    /// And among the sessions of a uid.
    pub session: u64,
    /// What it waits for: one kind does not stand in the way of another.
    pub kind: u64,
    /// When it is too late.
    pub deadline_ns: u64,
}

/// Finds what waits again; good for one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    place: Place,
    number: u64,
}

/// There is no place left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QueueFull {
    /// In the whole queue.
    #[error("{0} requests wait already, as many as may")]
    Total(usize),
    /// For this uid.
    #[error("{0} requests of this uid wait already, as many as may")]
    Uid(usize),
}

/// Those who wait.
///
/// ```
/// use ringmain_policy::fair::{FairQueue, Place, QueueBounds};
/// let mut queue = FairQueue::new(QueueBounds { total: 10, per_uid: 5 });
/// for (uid, what) in [(1, "a"), (1, "b"), (1, "c"), (2, "d")] {
///     queue.push(Place { uid, session: 1, kind: 0, deadline_ns: 9 }, what)?;
/// }
/// assert_eq!(queue.serve(|_, _| true), ["a", "d", "b", "c"]);
/// # Ok::<(), ringmain_policy::fair::QueueFull>(())
/// ```
#[derive(Debug)]
pub struct FairQueue<T> {
    bounds: QueueBounds,
    uids: HashMap<u32, OfUid<T>>,
    /// Every uid that waits, once; the first is next.
    turn: VecDeque<u32>,
    len: usize,
    next: u64,
}

#[derive(Debug)]
struct OfUid<T> {
    sessions: HashMap<u64, OfSession<T>>,
    turn: VecDeque<u64>,
    /// How many wait of each kind.
    kinds: HashMap<u64, usize>,
    /// Kinds that met a no since serving began.
    refused: HashSet<u64>,
    len: usize,
}

/// By kind, then deadline, then age.
type OfSession<T> = BTreeMap<(u64, u64, u64), T>;

impl Ticket {
    /// Whose it is.
    pub fn uid(&self) -> u32 {
        self.place.uid
    }
}

impl<T> FairQueue<T> {
    /// An empty queue.
    pub fn new(bounds: QueueBounds) -> FairQueue<T> {
        FairQueue { bounds, uids: HashMap::new(), turn: VecDeque::new(), len: 0, next: 0 }
    }

    /// Takes a place. Whoever waited before keeps its turn.
    ///
    /// # Errors
    /// [`QueueFull`]; nothing waits then.
    pub fn push(&mut self, place: Place, item: T) -> Result<Ticket, QueueFull> {
        self.has_room(place.uid)?;
        let number = self.next;
        self.next += 1;
        if !self.uids.contains_key(&place.uid) {
            self.turn.push_back(place.uid);
        }
        self.uids.entry(place.uid).or_default().push(place, number, item);
        self.len += 1;
        Ok(Ticket { place, number })
    }

    /// Whether one more of this uid may wait.
    ///
    /// # Errors
    /// [`QueueFull`] says why not.
    pub fn has_room(&self, uid: u32) -> Result<(), QueueFull> {
        match self.bounds {
            QueueBounds { total, .. } if self.len >= total => Err(QueueFull::Total(total)),
            QueueBounds { per_uid, .. } if self.len_of(uid) >= per_uid => {
                Err(QueueFull::Uid(per_uid))
            }
            _ => Ok(()),
        }
    }

    /// Gives a place up; `None` when it was served or given up before.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let Ticket { place, number } = ticket;
        let of_uid = self.uids.get_mut(&place.uid)?;
        let item = of_uid.remove(place.session, (place.kind, place.deadline_ns, number))?;
        self.len -= 1;
        if of_uid.len == 0 {
            self.uids.remove(&place.uid);
            self.turn.retain(|uid| *uid != place.uid);
        }
        Some(item)
    }

    /// Serves whom `judge` says yes to, one of each uid in turn, round after round until a whole
    /// round has no yes. Whoever is served goes to the end of its line; a no costs nobody its turn.
    pub fn serve(&mut self, mut judge: impl FnMut(u32, &T) -> bool) -> Vec<T> {
        let mut served = Vec::new();
        self.uids.values_mut().for_each(|of_uid| of_uid.refused.clear());
        // Bound: every round but the last serves at least one of those who wait.
        loop {
            let before = served.len();
            for uid in self.turn.clone() {
                let Some(of_uid) = self.uids.get_mut(&uid) else { continue };
                let Some(item) = of_uid.serve(|item| judge(uid, item)) else { continue };
                served.push(item);
                self.len -= 1;
                self.turn.retain(|other| *other != uid);
                match of_uid.len {
                    0 => _ = self.uids.remove(&uid),
                    _ => self.turn.push_back(uid),
                }
            }
            if served.len() == before {
                return served;
            }
        }
    }

    /// All who wait, with their uids, in no order that matters.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.uids.iter_mut().flat_map(|(uid, of_uid)| {
            of_uid.sessions.values_mut().flat_map(BTreeMap::values_mut).map(|item| (*uid, item))
        })
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many of a uid wait.
    pub fn len_of(&self, uid: u32) -> usize {
        self.uids.get(&uid).map_or(0, |of_uid| of_uid.len)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Default for OfUid<T> {
    fn default() -> Self {
        OfUid {
            sessions: HashMap::new(),
            turn: VecDeque::new(),
            kinds: HashMap::new(),
            refused: HashSet::new(),
            len: 0,
        }
    }
}

impl<T> OfUid<T> {
    fn push(&mut self, place: Place, number: u64, item: T) {
        if !self.sessions.contains_key(&place.session) {
            self.turn.push_back(place.session);
        }
        let of_session = self.sessions.entry(place.session).or_default();
        of_session.insert((place.kind, place.deadline_ns, number), item);
        *self.kinds.entry(place.kind).or_default() += 1;
        self.len += 1;
    }

    fn remove(&mut self, session: u64, key: (u64, u64, u64)) -> Option<T> {
        let of_session = self.sessions.get_mut(&session)?;
        let item = of_session.remove(&key)?;
        self.len -= 1;
        if let Some(count) = self.kinds.get_mut(&key.0) {
            *count -= 1;
            if *count == 0 {
                self.kinds.remove(&key.0);
                self.refused.remove(&key.0);
            }
        }
        if of_session.is_empty() {
            self.sessions.remove(&session);
            self.turn.retain(|other| *other != session);
        }
        Some(item)
    }

    /// Session and key of the first yes among the sessions in turn.
    fn choose(&mut self, judge: &mut impl FnMut(&T) -> bool) -> Option<(u64, (u64, u64, u64))> {
        let OfUid { sessions, turn, kinds, refused, .. } = self;
        for session in turn.iter() {
            // What is refused waits: one of these is one of those.
            if refused.len() == kinds.len() {
                return None;
            }
            for (key, item) in heads(sessions.get(session)?, refused) {
                if judge(item) {
                    return Some((*session, key));
                }
                refused.insert(key.0);
            }
        }
        None
    }

    /// The first yes among the sessions in turn.
    fn serve(&mut self, mut judge: impl FnMut(&T) -> bool) -> Option<T> {
        let (session, key) = self.choose(&mut judge)?;
        let item = self.remove(session, key)?;
        if self.sessions.contains_key(&session) {
            self.turn.retain(|other| *other != session);
            self.turn.push_back(session);
        }
        Some(item)
    }
}

/// The first of each kind that met no no, earliest deadline first.
fn heads<'a, T>(
    of_session: &'a OfSession<T>,
    refused: &HashSet<u64>,
) -> Vec<((u64, u64, u64), &'a T)> {
    let mut heads = Vec::with_capacity(1);
    let mut from = Some(0);
    // Bound: each round goes on behind the kind that it found.
    while let Some(kind) = from {
        let Some((key, item)) = of_session.range((kind, 0, 0)..).next() else { break };
        if !refused.contains(&key.0) {
            heads.push((*key, item));
        }
        from = key.0.checked_add(1);
    }
    heads.sort_unstable_by_key(|((_, deadline_ns, number), _)| (*deadline_ns, *number));
    heads
}

#[cfg(test)]
mod tests;
