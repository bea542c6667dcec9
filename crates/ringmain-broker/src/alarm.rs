//! The one timer of an exchange. Whoever waits says for what; the timer is moved when it goes off,
//! not when something happens, so that an exchange in time costs one registration.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use ringmain_policy::{Deadline, DeadlineOrigin};
use ringmain_shm::monotonic_ns;
use ringmain_upstream::Progress;
use ringmain_wire::Stage;
use tokio::time::{Instant, sleep_until};

/// What an exchange waits for now. Used by the exchange's own task alone; it is shared by reference
/// between what waits and the timer around it.
pub(crate) struct Alarm {
    /// Not later than the next limit. Read at every poll.
    look_ns: AtomicU64,
    state: Mutex<State>,
    /// How far the present request upstream has come.
    progress: Progress,
}

#[derive(Clone, Copy)]
struct State {
    deadline: Deadline,
    waiting: Waiting,
    since_ns: u64,
}

/// What is waited for, and for how long at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Something of the broker's own: only the deadline counts.
    Nothing,
    /// A request on its way to an endpoint; the limit depends on how far it has come.
    Dispatch { connect: Duration, write: Duration, head: Duration },
    /// The head of an answer.
    Head(Duration),
    /// The first content of an answer.
    FirstContent(Duration),
    /// Further content.
    Idle(Duration),
    /// Room for a frame: the consumer has to read.
    Room(Duration),
}

/// A limit that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    Deadline(DeadlineOrigin),
    Write(Duration),
    Head(Duration),
    FirstContent(Duration),
    Idle(Duration),
    Room(Duration),
}

impl Alarm {
    pub fn new(deadline: Deadline, progress: Progress) -> Alarm {
        let state = State { deadline, waiting: Waiting::Nothing, since_ns: 0 };
        Alarm { look_ns: AtomicU64::new(deadline.at_ns), state: Mutex::new(state), progress }
    }

    /// Puts another deadline in the place of the one so far.
    pub fn set_deadline(&self, deadline: Deadline) {
        self.state.lock().deadline = deadline;
        self.look_ns.fetch_min(deadline.at_ns, Relaxed);
    }

    pub fn deadline(&self) -> Deadline {
        self.state.lock().deadline
    }

    /// The time, ns of the monotonic clock: one in each poll of what [`Alarm::over`] runs.
    pub fn now_ns(&self) -> u64 {
        self.progress.now_ns()
    }

    /// From now on this is waited for. Gives what was waited for before.
    pub fn wait_for(&self, waiting: Waiting) -> Waiting {
        self.wait_from(self.now_ns(), waiting)
    }

    /// The same, since this time, unless something else was waited for later.
    pub fn wait_from(&self, now_ns: u64, waiting: Waiting) -> Waiting {
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut state.waiting, waiting);
        state.since_ns = now_ns.max(state.since_ns);
        let due_ns = after(state.since_ns, waiting.shortest()).min(state.deadline.at_ns);
        self.look_ns.store(due_ns, Relaxed);
        before
    }

    /// Runs `work` until it is ready or a limit passes. It stays where it is pinned: taken by value
    /// it would stand here twice, and it is most of what an exchange takes of memory.
    ///
    /// The first poll is at this time, ns of the monotonic clock.
    pub async fn over<F: Future>(
        &self,
        now_ns: u64,
        mut work: Pin<&mut F>,
    ) -> Result<F::Output, Expired> {
        let mut first_ns = Some(now_ns);
        let mut armed_ns = self.look_ns.load(Relaxed);
        let mut timer = pin!(sleep_until(instant(armed_ns)));
        std::future::poll_fn(|cx| {
            let now_ns = first_ns.take().unwrap_or_else(monotonic_ns);
            let polled = self.progress.polled(now_ns, || work.as_mut().poll(cx));
            if let Poll::Ready(output) = polled {
                return Poll::Ready(Ok(output));
            }
            // Bound: each round but the last moves the timer into the future.
            loop {
                let look_ns = self.look_ns.load(Relaxed);
                if look_ns < armed_ns {
                    armed_ns = look_ns;
                    timer.as_mut().reset(instant(armed_ns));
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                match self.look(monotonic_ns()) {
                    Err(expired) => return Poll::Ready(Err(expired)),
                    Ok(later_ns) => {
                        armed_ns = later_ns;
                        self.look_ns.store(later_ns, Relaxed);
                        timer.as_mut().reset(instant(armed_ns));
                    }
                }
            }
        })
        .await
    }

    /// Whether a limit has passed by now, or else when to look again.
    fn look(&self, now_ns: u64) -> Result<u64, Expired> {
        let State { deadline, waiting, since_ns } = *self.state.lock();
        if deadline.has_passed(now_ns) {
            return Err(Expired::Deadline(deadline.origin));
        }
        let (limit, passed, expired) = match waiting {
            Waiting::Nothing => return Ok(deadline.at_ns),
            // The endpoint knows nothing of it yet. Its time begins with its place.
            Waiting::Dispatch { .. } if self.progress.is_queued() => {
                return Ok(after(now_ns, waiting.shortest()).min(deadline.at_ns));
            }
            Waiting::Dispatch { connect, write, head } => {
                let passed = self.progress.idle_for();
                match self.progress.stage() {
                    Stage::Send => (write, passed, Expired::Write(write)),
                    // Connecting has a limit of its own, which is told as such.
                    Stage::Connect => {
                        let both = connect.saturating_add(head);
                        (both, passed, Expired::Head(both))
                    }
                    // A request without a body shows nothing between connecting and its answer.
                    _ => (head, passed, Expired::Head(head)),
                }
            }
            Waiting::Head(limit) => (limit, since(since_ns, now_ns), Expired::Head(limit)),
            Waiting::FirstContent(limit) => {
                (limit, since(since_ns, now_ns), Expired::FirstContent(limit))
            }
            Waiting::Idle(limit) => (limit, since(since_ns, now_ns), Expired::Idle(limit)),
            Waiting::Room(limit) => (limit, since(since_ns, now_ns), Expired::Room(limit)),
        };
        let left = limit.saturating_sub(passed);
        if left.is_zero() {
            return Err(expired);
        }
        // A stage may change meanwhile, to one with a shorter limit.
        Ok(after(now_ns, left.min(waiting.shortest())).min(deadline.at_ns))
    }
}

impl Waiting {
    /// The least time after which it can be too late.
    fn shortest(self) -> Duration {
        match self {
            Waiting::Nothing => Duration::MAX,
            Waiting::Dispatch { write, head, .. } => write.min(head),
            Waiting::Head(limit)
            | Waiting::FirstContent(limit)
            | Waiting::Idle(limit)
            | Waiting::Room(limit) => limit,
        }
    }
}

fn since(then_ns: u64, now_ns: u64) -> Duration {
    Duration::from_nanos(now_ns.saturating_sub(then_ns))
}

fn after(now_ns: u64, time: Duration) -> u64 {
    now_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// The timer's words for an instant of the monotonic clock.
fn instant(at_ns: u64) -> Instant {
    ringmain_upstream::instant(at_ns).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    use bytes::Bytes;
    use ringmain_upstream::{Call, Endpoint, EndpointConfig};
    use ringmain_wire::{Flags, Mode, RequestHead};

    const MS: Duration = Duration::from_millis(1);

    fn alarm(deadline: Duration) -> Alarm {
        let deadline = Deadline::capped(monotonic_ns(), None, deadline);
        Alarm::new(deadline, Progress::default())
    }

    #[tokio::test]
    async fn what_is_in_time_goes_through() {
        let alarm = alarm(Duration::MAX);
        assert_eq!(alarm.over(monotonic_ns(), pin!(async { 7 })).await, Ok(7));
    }

    #[test]
    fn a_time_before_a_wait_for_room_does_not_count() {
        let alarm = alarm(Duration::MAX);
        let came_ns = monotonic_ns() - 10_000_000;
        alarm.wait_for(Waiting::Room(MS));
        alarm.wait_from(came_ns, Waiting::Idle(10 * MS));
        assert!(alarm.look(monotonic_ns()).is_ok_and(|later_ns| later_ns > came_ns + 10_000_000));
    }

    #[tokio::test]
    async fn each_limit_has_its_own_end() {
        for (waiting, expired) in [
            (Waiting::Head(5 * MS), Expired::Head(5 * MS)),
            (Waiting::FirstContent(5 * MS), Expired::FirstContent(5 * MS)),
            (Waiting::Idle(5 * MS), Expired::Idle(5 * MS)),
            (Waiting::Room(5 * MS), Expired::Room(5 * MS)),
            // Of one whose connection does not stand yet.
            (
                Waiting::Dispatch { connect: 20 * MS, write: 900 * MS, head: 5 * MS },
                Expired::Head(25 * MS),
            ),
            (Waiting::Nothing, Expired::Deadline(DeadlineOrigin::Total)),
        ] {
            let alarm = alarm(if waiting == Waiting::Nothing { 5 * MS } else { 10_000 * MS });
            let work = async {
                alarm.wait_for(waiting);
                pending::<()>().await;
            };
            assert_eq!(alarm.over(monotonic_ns(), pin!(work)).await, Err(expired));
        }
    }

    /// Work that gives way for ever, and never waits, is stopped all the same.
    #[tokio::test]
    async fn a_limit_passes_in_the_middle_of_a_burst() {
        let alarm = alarm(5 * MS);
        let begun = Instant::now();
        let work = std::future::poll_fn(|cx| {
            assert!(begun.elapsed() < 5_000 * MS, "the limit was never asked for");
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        let expired = Expired::Deadline(DeadlineOrigin::Total);
        assert_eq!(alarm.over(monotonic_ns(), pin!(work)).await, Err(expired));
    }

    /// A limit that is moved before it passes never goes off, and one that is made shorter does.
    #[tokio::test]
    async fn limits_move_both_ways() {
        let alarm = alarm(10_000 * MS);
        let begun = Instant::now();
        let work = async {
            for _ in 0..10 {
                alarm.wait_for(Waiting::Idle(200 * MS));
                tokio::time::sleep(5 * MS).await;
            }
            let before = alarm.wait_for(Waiting::Room(10 * MS));
            assert_eq!(before, Waiting::Idle(200 * MS));
            pending::<()>().await;
        };
        assert_eq!(alarm.over(monotonic_ns(), pin!(work)).await, Err(Expired::Room(10 * MS)));
        assert!(begun.elapsed() >= 60 * MS);
    }

    /// A request waits for the one connection of an endpoint that answers nobody.
    #[tokio::test]
    async fn what_waits_for_a_place_runs_into_its_deadline_alone() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", silent.local_addr().unwrap());
        let mut config = EndpointConfig::new("e", address);
        config.connections_max = 1;
        let endpoint = Endpoint::new(config).unwrap();
        let head = RequestHead::new("m", "/chat/completions");
        let call = || Call::new(&head, Bytes::from_static(b"{}"), Mode::Events, Flags::NONE);
        let alarm = alarm(200 * MS);
        let waits = pin!(async {
            let mut call = call();
            call.progress = alarm.progress.clone();
            alarm.wait_for(Waiting::Dispatch { connect: 10 * MS, write: 10 * MS, head: 10 * MS });
            endpoint.send(call).await.map(|answer| answer.status)
        });
        let expired = tokio::select! {
            biased;
            held = endpoint.send(call()) => panic!("{:?}", held.map(|answer| answer.status)),
            expired = alarm.over(monotonic_ns(), waits) => expired,
        };
        assert_eq!(expired, Err(Expired::Deadline(DeadlineOrigin::Total)));
    }

    #[tokio::test]
    async fn another_deadline_counts_at_once() {
        let alarm = alarm(10_000 * MS);
        let work = async {
            alarm.wait_for(Waiting::Idle(10_000 * MS));
            tokio::task::yield_now().await;
            alarm.set_deadline(Deadline::capped(monotonic_ns(), Some(1), 5 * MS));
            pending::<()>().await;
        };
        assert_eq!(
            alarm.over(monotonic_ns(), pin!(work)).await,
            Err(Expired::Deadline(DeadlineOrigin::Caller))
        );
    }
}
