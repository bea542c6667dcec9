//! The waker of a connection that is polled by the task that waits for it.
//!
//! An HTTP/1.1 connection and the body that comes over it hand each other on: to take a chunk wakes
//! the connection, to read one wakes whoever waits for it. Both are polled here by one task, one
//! after the other, so those wake-ups would only have the task polled once more for nothing. The
//! bell keeps them to itself while the task is inside, and passes on what comes from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::AcqRel, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// The task is polling the connection.
const INSIDE: u8 = 1;
/// The connection was woken meanwhile.
const RUNG: u8 = 2;
/// Most rounds of one poll in which the connection wakes itself; then the task is woken as usual.
const ROUNDS_MAX: u32 = 8;

/// The bell of one connection.
#[derive(Debug)]
pub(super) struct Bell {
    ringer: Arc<Ringer>,
    /// What the connection is given, made once.
    waker: Waker,
    /// As in the ringer, to be compared without its lock.
    task: Waker,
}

#[derive(Debug)]
struct Ringer {
    state: AtomicU8,
    /// The task that polled last.
    task: Mutex<Waker>,
}

impl Bell {
    pub fn new() -> Bell {
        let task = Waker::noop().clone();
        let ringer = Ringer { state: AtomicU8::new(0), task: Mutex::new(task.clone()) };
        let ringer = Arc::new(ringer);
        let waker = ringer.clone().into();
        Bell { ringer, waker, task }
    }

    /// Polls until there is something, or nothing is left to do but to wait. Every round is given
    /// the connection's own context. Of what rings beside something that was found the task is not
    /// told: it polls again before it waits.
    #[inline]
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        round: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let (polled, _) = self.rounds(cx, round);
        polled
    }

    /// The same for a task that may not poll again: it is told.
    pub fn poll_last<T>(
        &mut self,
        cx: &mut Context<'_>,
        round: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let (polled, has_rung) = self.rounds(cx, round);
        if has_rung {
            cx.waker().wake_by_ref();
        }
        polled
    }

    /// Also gives whether it rang in the last round.
    #[inline]
    fn rounds<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut round: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> (Poll<T>, bool) {
        if !self.task.will_wake(cx.waker()) {
            self.task.clone_from(cx.waker());
            self.ringer.task.lock().clone_from(cx.waker());
        }
        let mut inner = Context::from_waker(&self.waker);
        for _ in 0..ROUNDS_MAX {
            // What rang before has woken the task, which is here now.
            self.ringer.state.store(INSIDE, Relaxed);
            let polled = round(&mut inner);
            let has_rung = self.ringer.state.swap(0, AcqRel) & RUNG != 0;
            if polled.is_ready() || !has_rung {
                return (polled, has_rung);
            }
        }
        cx.waker().wake_by_ref();
        (Poll::Pending, false)
    }
}

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(RUNG, AcqRel) & INSIDE == 0 {
            let task = self.task.lock().clone();
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn what_rings_inside_is_polled_again_and_wakes_nobody() {
        let (mut bell, count) = (Bell::new(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let mut rounds = 0;
        let polled = bell.poll(&mut cx, |inner| {
            rounds += 1;
            if rounds < 3 {
                inner.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert_eq!((polled, rounds, count.0.load(Relaxed)), (Poll::Pending, 3, 0));
    }

    #[test]
    fn who_may_not_poll_again_is_told_of_what_rang() {
        for (is_last, wakes) in [(false, 0), (true, 1)] {
            let (mut bell, count) = (Bell::new(), Arc::new(Count::default()));
            let waker = Waker::from(count.clone());
            let mut cx = Context::from_waker(&waker);
            let round = |inner: &mut Context<'_>| {
                inner.waker().wake_by_ref();
                Poll::Ready(())
            };
            let polled = match is_last {
                true => bell.poll_last(&mut cx, round),
                false => bell.poll(&mut cx, round),
            };
            assert_eq!((polled, count.0.load(Relaxed)), (Poll::Ready(()), wakes));
        }
    }

    #[test]
    fn what_rings_outside_wakes_the_task_that_polled_last() {
        let mut bell = Bell::new();
        let counts = [(); 2].map(|()| Arc::new(Count::default()));
        let mut kept = None;
        for count in &counts {
            let waker = Waker::from(count.clone());
            let _ = bell.poll(&mut Context::from_waker(&waker), |inner| {
                kept = Some(inner.waker().clone());
                Poll::<()>::Pending
            });
        }
        kept.unwrap().wake();
        assert_eq!(counts.map(|count| count.0.load(Relaxed)), [0, 1]);
    }

    #[test]
    fn who_rings_for_ever_leaves_others_their_turn() {
        let (mut bell, count) = (Bell::new(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        let mut rounds = 0;
        let polled = bell.poll(&mut Context::from_waker(&waker), |inner| {
            rounds += 1;
            inner.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert_eq!((polled, rounds, count.0.load(Relaxed)), (Poll::Pending, ROUNDS_MAX, 1));
    }
}
