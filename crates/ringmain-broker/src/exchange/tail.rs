//! What is left of an answer behind its terminal marker.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use ringmain_upstream::AnswerBody;
use tokio::time::timeout;

/// How long it is read, for the connection's sake.
const SETTLE: Duration = Duration::from_secs(1);
/// Answers of this process that are read so at once: their callers are charged no more.
const TAILS_MAX: usize = 256;
/// The same of one uid, which leaves as many for all others.
const TAILS_PER_UID_MAX: usize = 128;

// Bound: `TAILS_MAX`, each for `SETTLE`.
static TAILS: Tails = Tails::new(TAILS_MAX, TAILS_PER_UID_MAX);

/// Reads the rest of an answer whose caller has its END, so that its connection can be used again;
/// beyond the bounds the connection is dropped instead.
pub(crate) async fn settle(mut rest: Box<AnswerBody>, uid: u32) {
    settle_among(&TAILS, uid, rest.settle()).await;
}

async fn settle_among(tails: &Tails, uid: u32, rest: impl Future<Output = ()>) {
    let mut rest = pin!(rest);
    // Most have their end at hand, which nobody has to wait for.
    let is_over = poll_fn(|cx| Poll::Ready(rest.as_mut().poll(cx).is_ready())).await;
    if is_over {
        return;
    }
    if let Some(_tail) = tails.take(uid) {
        let _ = timeout(SETTLE, rest).await;
    }
}

/// How many are waited for.
struct Tails {
    total_max: usize,
    per_uid_max: usize,
    held: Mutex<Held>,
}

struct Held {
    total: usize,
    // Bound: one for each that is waited for.
    by_uid: BTreeMap<u32, usize>,
}

/// One that is waited for.
struct Tail<'a> {
    tails: &'a Tails,
    uid: u32,
}

impl Tails {
    const fn new(total_max: usize, per_uid_max: usize) -> Tails {
        let held = Mutex::new(Held { total: 0, by_uid: BTreeMap::new() });
        Tails { total_max, per_uid_max, held }
    }

    fn take(&self, uid: u32) -> Option<Tail<'_>> {
        let mut held = self.held.lock();
        let own = held.by_uid.get(&uid).copied().unwrap_or(0);
        if held.total >= self.total_max || own >= self.per_uid_max {
            return None;
        }
        held.total += 1;
        held.by_uid.insert(uid, own + 1);
        Some(Tail { tails: self, uid })
    }
}

impl Drop for Tail<'_> {
    fn drop(&mut self) {
        let mut held = self.tails.held.lock();
        held.total -= 1;
        if let Some(own) = held.by_uid.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                held.by_uid.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    use tokio::task::yield_now;

    /// Whether the rest of an answer of this uid, which is not at hand, is waited for.
    async fn is_read(tails: &Tails, uid: u32) -> bool {
        let mut is_read = false;
        let rest = async {
            yield_now().await;
            is_read = true;
        };
        settle_among(tails, uid, rest).await;
        is_read
    }

    #[tokio::test]
    async fn beyond_the_bounds_nothing_is_waited_for() {
        let tails = Tails::new(3, 2);
        let own: Vec<_> = (0..9).map_while(|_| tails.take(7)).collect();
        assert_eq!(own.len(), 2);
        assert!(!is_read(&tails, 7).await && is_read(&tails, 8).await, "another uid's is");
        let other = tails.take(8);
        assert!(!is_read(&tails, 9).await, "there are too many in all");
        drop(own);
        assert!(is_read(&tails, 7).await && is_read(&tails, 9).await);
        drop(other);
        assert!(tails.held.lock().by_uid.is_empty() && tails.held.lock().total == 0);
    }

    #[tokio::test]
    async fn what_is_at_hand_needs_no_leave() {
        let tails = Tails::new(0, 0);
        let mut is_read = false;
        settle_among(&tails, 7, async { is_read = true }).await;
        settle_among(&tails, 7, pending()).await;
        assert!(is_read);
    }
}
