//! Rings that wait for the tasks beside them.
//!
//! Tokens of many streams come together: one look at the reactor makes many tasks ready, and each
//! of them has a frame for the same sleeper. Were each to ring, the sleeper would be woken for the
//! first frame, read one or two and sleep again, and to wake and to be woken costs either side more
//! than everything else that a token needs. So a task whose session has other exchanges leaves the
//! bell here. It is rung behind all tasks that are ready by now, once for all that they wrote; a
//! session with one exchange is rung at once.
//!
//! A frame waits for [`HELD_NS_MAX`] at most where others follow it, and in any case until the
//! tasks that were ready before have run once.

use std::convert::Infallible;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::PeerBell;

/// Longest time after which frames that follow let a bell wait on: about what a dozen tokens take.
pub(crate) const HELD_NS_MAX: u64 = 100_000;

/// The bells that wait to be rung.
#[derive(Default)]
pub(crate) struct HeldBells {
    queue: Mutex<Queue>,
    told: Notify,
}

#[derive(Default)]
struct Queue {
    /// Bound: each session's bell once; it knows that it is here.
    bells: Vec<Arc<PeerBell>>,
    /// Whether somebody comes to ring them.
    is_served: bool,
}

/// Rings what is left when nobody will come any more.
struct Serving<'a>(&'a HeldBells);

impl HeldBells {
    /// Keeps a bell until all tasks that are ready have run. False when nobody would come for it.
    pub fn hold(&self, bell: &Arc<PeerBell>) -> bool {
        let mut queue = self.queue.lock();
        if !queue.is_served {
            return false;
        }
        queue.bells.push(bell.clone());
        let is_first = queue.bells.len() == 1;
        drop(queue);
        if is_first {
            self.told.notify_one();
        }
        true
    }

    /// Rings what was left here, each time behind the tasks that are ready. Until then, and after
    /// this is dropped, nothing is held.
    pub async fn serve(&self) -> Infallible {
        self.queue.lock().is_served = true;
        let serving = Serving(self);
        // Bound: the life of the broker; each round was asked for.
        loop {
            self.told.notified().await;
            to_the_back().await;
            serving.ring_all();
        }
    }
}

impl Serving<'_> {
    fn ring_all(&self) {
        let bells = mem::take(&mut self.0.queue.lock().bells);
        bells.iter().for_each(PeerBell::release);
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().is_served = false;
        self.ring_all();
    }
}

/// Lets every task run that is ready. Where several threads run tasks, one that was just woken is
/// the next; one that wakes itself goes behind the others everywhere.
async fn to_the_back() {
    let mut is_back = false;
    // Bound: two polls.
    poll_fn(|cx| {
        if mem::replace(&mut is_back, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    use ringmain_ring::{Armed, Ring};
    use ringmain_shm::{
        Bell, Compat, PeerSegment, Ringer, WriteMap, bell_pair, monotonic_ns, own_uid,
    };
    use ringmain_wire::Geometry;
    use tokio::task::{JoinHandle, yield_now};

    use super::*;
    use crate::session::Bells;

    /// A sleeper and the bell that wakes it.
    struct Sleeper {
        bells: Bells,
        bell: Arc<PeerBell>,
        armed: Option<Armed<WriteMap>>,
        counter: File,
    }

    fn sleeper() -> Sleeper {
        let bytes = Geometry::new(1, 4096, 1 << 16).unwrap().caller_bytes();
        let segment = PeerSegment::create("test", bytes, &Compat::default()).unwrap();
        let caller = WriteMap::attach(segment.fd, bytes).unwrap();
        let armed = Some(Armed::new(caller, Geometry::CALLER_ARMED));
        let (waiting, ringing): (Bell, OwnedFd) = bell_pair().unwrap();
        let bells = Bells::default();
        let ring = Ring::new(segment.map, Geometry::CALLER_ARMED);
        let bell = bells.bell(own_uid(), ring, Ringer::write(ringing));
        Sleeper { bells, bell, armed, counter: File::from(OwnedFd::from(waiting)) }
    }

    impl Sleeper {
        /// From here on bells are held.
        async fn served(&self) -> JoinHandle<Infallible> {
            let held = self.bells.held().clone();
            let serving = tokio::spawn(async move { held.serve().await });
            yield_now().await;
            serving
        }

        fn arm(&mut self) {
            self.armed.as_mut().unwrap().arm();
        }

        /// Rings since the last look.
        fn rings(&mut self) -> u64 {
            let mut count = [0; 8];
            self.counter.read_exact(&mut count).map_or(0, |()| u64::from_ne_bytes(count))
        }
    }

    #[tokio::test]
    async fn tasks_that_are_ready_together_ring_once() {
        let mut sleeper = sleeper();
        let serving = sleeper.served().await;
        let armed = Arc::new(Mutex::new(sleeper.armed.take().unwrap()));
        for round in 1..=3 {
            let written = Arc::new(AtomicU32::new(0));
            for _ in 0..5 {
                let (bell, armed, written) = (sleeper.bell.clone(), armed.clone(), written.clone());
                tokio::spawn(async move {
                    // On another CPU it reads what there is at once, and sleeps again.
                    armed.lock().arm();
                    bell.ring_with_others();
                    written.fetch_add(1, Relaxed);
                });
            }
            let mut rings = 0;
            // Bound: by the test runner.
            while rings == 0 {
                yield_now().await;
                rings = sleeper.rings();
            }
            assert_eq!((rings, written.load(Relaxed)), (1, 5), "round {round}");
            armed.lock().disarm();
            sleeper.bell.ring_with_others();
            yield_now().await;
            assert_eq!(sleeper.rings(), 0, "nobody sleeps");
        }
        serving.abort();
    }

    /// Frames that keep coming do not keep a sleeper waiting.
    #[tokio::test]
    async fn a_bell_that_was_held_for_long_is_rung_by_the_next_frame() {
        let mut sleeper = sleeper();
        let serving = sleeper.served().await;
        sleeper.arm();
        sleeper.bell.ring_with_others();
        assert_eq!(sleeper.rings(), 0);
        let begun_ns = monotonic_ns();
        while monotonic_ns() <= begun_ns + HELD_NS_MAX {
            std::hint::spin_loop();
        }
        sleeper.bell.ring_with_others();
        assert_eq!(sleeper.rings(), 1);
        serving.abort();
    }

    #[tokio::test]
    async fn nothing_is_left_behind_when_nobody_comes_for_it() {
        let mut sleeper = sleeper();
        sleeper.arm();
        sleeper.bell.ring_with_others();
        assert_eq!(sleeper.rings(), 1, "nobody serves yet");
        let serving = sleeper.served().await;
        sleeper.arm();
        sleeper.bell.ring_with_others();
        assert_eq!(sleeper.rings(), 0);
        serving.abort();
        assert!(serving.await.is_err());
        assert_eq!(sleeper.rings(), 1, "whoever stopped serving rang what was left");
        sleeper.arm();
        sleeper.bell.ring_with_others();
        assert_eq!(sleeper.rings(), 1);
    }
}
