//! What is left of an answer behind its terminal marker.

use std::time::Duration;

use ringmain_upstream::AnswerBody;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long it is read, for the connection's sake.
const SETTLE: Duration = Duration::from_secs(1);
/// Answers of this process that are read so at once: their callers are charged no more.
const TAILS_MAX: usize = 256;

// Bound: `TAILS_MAX`, each for `SETTLE`.
static TAILS: Semaphore = Semaphore::const_new(TAILS_MAX);

/// Reads the rest of an answer whose caller has its END, so that its connection can be used again;
/// beyond the bound the connection is dropped instead.
pub(crate) async fn settle(rest: AnswerBody) {
    settle_among(&TAILS, rest.settle()).await;
}

async fn settle_among(tails: &Semaphore, rest: impl Future<Output = ()>) {
    if let Ok(_tail) = tails.try_acquire() {
        let _ = timeout(SETTLE, rest).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beyond_the_bound_nothing_is_waited_for() {
        let tails = Semaphore::new(1);
        let mut read = 0;
        settle_among(&tails, async { read += 1 }).await;
        let held = tails.try_acquire();
        settle_among(&tails, async { read += 1 }).await;
        drop(held);
        settle_among(&tails, async { read += 1 }).await;
        assert_eq!((read, tails.available_permits()), (2, 1));
    }
}
