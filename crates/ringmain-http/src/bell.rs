//! One task waits for many things: a socket, a pipeline, a timer, the drain. Whoever wakes it means
//! one of them, and asking the others again is most of the work of a token. A part that has a bell
//! of its own is asked when its bell was rung.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// Decides whether a part of a task is worth asking.
pub(crate) struct Part {
    bell: Arc<Bell>,
    /// The bell, for those who ring it.
    waker: Waker,
}

struct Bell {
    was_rung: AtomicBool,
    /// The task around the part, as it was polled last.
    task: Mutex<Option<Waker>>,
}

impl Part {
    /// A part that nobody has asked yet.
    pub fn new() -> Part {
        let bell = Arc::new(Bell { was_rung: AtomicBool::new(true), task: Mutex::default() });
        Part { waker: Waker::from(bell.clone()), bell }
    }

    /// Has it asked when it is polled next.
    pub fn ring(&self) {
        self.bell.was_rung.store(true, Ordering::Release);
    }

    /// Asks the part if somebody has woken it since it was asked last.
    pub fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        ask: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // Before the bell is looked at: who rings it from here on wakes this task.
        self.bell.serve(cx.waker());
        match self.bell.was_rung.swap(false, Ordering::AcqRel) {
            true => ask(&mut Context::from_waker(&self.waker)),
            false => Poll::Pending,
        }
    }
}

impl Bell {
    fn serve(&self, waker: &Waker) {
        let mut task = self.task.lock();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.was_rung.store(true, Ordering::Release);
        if let Some(task) = &*self.task.lock() {
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_part_is_asked_when_its_bell_was_rung() {
        let part = Part::new();
        let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let mut asked = 0;
        let mut rings = None;
        let mut poll = |task: &Arc<Task>| {
            let waker = Waker::from(task.clone());
            let polled = part.poll(&mut Context::from_waker(&waker), |cx| {
                asked += 1;
                rings = Some(cx.waker().clone());
                Poll::<()>::Pending
            });
            assert!(polled.is_pending());
            (asked, rings.clone().unwrap())
        };
        assert_eq!(poll(&first).0, 1, "a new part is asked");
        let (asked, bell) = poll(&first);
        assert_eq!(asked, 1, "nobody has woken it");
        bell.wake_by_ref();
        assert_eq!((poll(&first).0, first.0.load(Relaxed)), (2, 1));
        // It moved to another task without being asked.
        assert_eq!(poll(&second).0, 2);
        bell.wake();
        assert_eq!((first.0.load(Relaxed), second.0.load(Relaxed)), (1, 1));
        assert_eq!(poll(&second).0, 3);
    }
}
