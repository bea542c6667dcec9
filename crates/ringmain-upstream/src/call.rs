//! What is asked of an endpoint, and how far the asking has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use ringmain_shm::monotonic_ns;
use ringmain_wire::{Flags, Mode, RequestHead, Sent, Stage};

use crate::clock::Clock;
use crate::memory::Account;

/// One request to an endpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// The judged head.
    pub head: &'a RequestHead<'a>,
    /// The body; it goes out from where it lies unless something must be spliced into it.
    pub body: Bytes,
    /// The endpoint's own name of the model, when it differs from the one in the body.
    pub model: Option<&'a str>,
    /// Whose it is: uids take turns where requests wait for a connection.
    pub uid: u32,
    /// Whom memory is charged to that it takes beside its body; `None`: nobody.
    pub account: Option<&'a dyn Account>,
    /// How long a connection for it may take to be made, where that is less than the endpoint's own
    /// limit.
    pub connect: Option<Duration>,
    /// What the frames of the answer will carry.
    pub mode: Mode,
    /// What the caller said.
    pub flags: Flags,
    /// Tells an observer how far the request has come.
    pub progress: Progress,
}

impl<'a> Call<'a> {
    /// A call in the caller's own words, of uid 0.
    pub fn new(head: &'a RequestHead<'a>, body: Bytes, mode: Mode, flags: Flags) -> Call<'a> {
        Call::observed(head, body, mode, flags, Progress::default())
    }

    /// The same with an observer of its own.
    pub fn observed(
        head: &'a RequestHead<'a>,
        body: Bytes,
        mode: Mode,
        flags: Flags,
        progress: Progress,
    ) -> Call<'a> {
        let (model, account, connect) = (None, None, None);
        Call { head, body, model, uid: 0, account, connect, mode, flags, progress }
    }
}

/// How far a request has come, for whoever puts a time limit around
/// [`Endpoint::send`](crate::Endpoint::send) and has to say afterwards what is known. Clones share
/// one state.
#[derive(Clone, Debug)]
pub struct Progress(Arc<State>);

#[derive(Debug)]
struct State {
    phase: AtomicU8,
    /// What was known of the requests before the present one, as a number of [`Sent`].
    before: AtomicU8,
    attempts: AtomicU16,
    body_bytes: AtomicU64,
    /// When something last changed, ns of the monotonic clock.
    changed_ns: AtomicU64,
    clock: Clock,
}

impl State {
    fn new(now_ns: u64) -> State {
        State {
            phase: AtomicU8::new(Phase::Connecting as u8),
            before: AtomicU8::new(Sent::No as u8),
            attempts: AtomicU16::new(0),
            body_bytes: AtomicU64::new(0),
            changed_ns: AtomicU64::new(now_ns),
            clock: Clock::default(),
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new(monotonic_ns())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// It is made ready here, or waits for its place on a connection.
    Queued = 0,
    /// Nothing can have gone out: the body comes into the connection's hands with the head or
    /// before it, and it was not asked for.
    Connecting = 1,
    /// Like connecting, but nothing tells whether the head has gone out: there is no body, or the
    /// head travels before it.
    Blind = 2,
    Sending = 3,
    Sent = 4,
    Answered = 5,
    /// Given up before or while connecting: the body is given to nobody any more.
    GivenUp = 6,
}

impl Progress {
    /// Nothing was asked yet, at this time of the monotonic clock.
    pub fn new(now_ns: u64) -> Progress {
        Progress(Arc::new(State::new(now_ns)))
    }

    /// The time, ns of the monotonic clock: while its observer polls, the one of that poll.
    pub fn now_ns(&self) -> u64 {
        self.0.clock.now_ns()
    }

    /// From here on the present poll has another time: it may have read, translated or compressed a
    /// long body, for which no endpoint answers.
    pub(crate) fn renew(&self) {
        self.0.clock.renew();
    }

    /// Runs one poll of the observer, in which everything happens at this time.
    pub fn polled<T>(&self, now_ns: u64, poll: impl FnOnce() -> T) -> T {
        self.0.clock.poll(now_ns, poll)
    }

    /// The stage of the attempt: connect, send, await the head, await content.
    pub fn stage(&self) -> Stage {
        match self.0.phase.load(Relaxed) {
            phase if phase <= Phase::Blind as u8 || phase == Phase::GivenUp as u8 => Stage::Connect,
            phase if phase == Phase::Sending as u8 => Stage::Send,
            phase if phase == Phase::Sent as u8 => Stage::AwaitHead,
            _ => Stage::AwaitContent,
        }
    }

    /// Whether the provider may have seen the request, or one before it that this one repeats. For
    /// whoever ends the exchange: [`give_up`](Progress::give_up) makes a no hold.
    pub fn sent(&self) -> Sent {
        let before = Sent::from_number(self.0.before.load(Relaxed)).unwrap_or(Sent::Maybe);
        self.present().max(before)
    }

    /// Ends the request from outside: what did not begin to go out never will, whichever thread
    /// serves its connection. Tells whether the provider may have seen it.
    pub fn give_up(&self) -> Sent {
        let (last, given_up) = (Phase::Connecting as u8, Phase::GivenUp as u8);
        // Decided in one word: either the body was asked for before, or it is refused after.
        let give_up = |phase| (phase <= last).then_some(given_up);
        let _ = self.0.phase.fetch_update(Relaxed, Relaxed, give_up);
        self.sent()
    }

    /// Whether the request has no place on a connection yet: the endpoint knows nothing of it, and
    /// what passes speaks neither for nor against it.
    pub fn is_queued(&self) -> bool {
        self.0.phase.load(Relaxed) == Phase::Queued as u8
    }

    /// Time since a stage was reached or bytes of the body were taken.
    pub fn idle_for(&self) -> Duration {
        let changed_ns = self.0.changed_ns.load(Relaxed);
        Duration::from_nanos(monotonic_ns().saturating_sub(changed_ns))
    }

    /// For how long the endpoint has had something to answer and has not: since bytes of the
    /// request went out, or since the head of its answer came. `None` before.
    pub fn silent_for(&self) -> Option<Duration> {
        (self.stage() >= Stage::Send).then(|| self.idle_for())
    }

    fn present(&self) -> Sent {
        match self.0.phase.load(Relaxed) {
            phase if phase <= Phase::Connecting as u8 || phase == Phase::GivenUp as u8 => Sent::No,
            phase if phase == Phase::Answered as u8 => Sent::Yes,
            _ => Sent::Maybe,
        }
    }

    fn changed(&self) {
        self.0.changed_ns.store(self.now_ns(), Relaxed);
    }

    /// Bytes of the body handed to the connection so far.
    pub fn body_bytes(&self) -> u64 {
        self.0.body_bytes.load(Relaxed)
    }

    /// Requests made so far, the present one included, and those that the provider refused for
    /// their connection.
    pub fn attempts(&self) -> u16 {
        self.0.attempts.load(Relaxed)
    }

    /// Starts over: another request has not been seen yet, but those before it stay seen.
    pub(crate) fn restart(&self, phase: Phase) {
        self.0.before.fetch_max(self.present() as u8, Relaxed);
        self.count();
        self.0.body_bytes.store(0, Relaxed);
        self.0.phase.store(phase as u8, Relaxed);
        self.changed();
    }

    /// The provider is sent one request more.
    pub(crate) fn count(&self) {
        self.0.attempts.fetch_add(1, Relaxed);
    }

    /// It is proven that the present request was not processed: it has to find another connection,
    /// or ends here, and what it came to leaves nothing behind.
    pub(crate) fn again(&self) {
        self.0.body_bytes.store(0, Relaxed);
        let given_up = Phase::GivenUp as u8;
        let again = |phase| (phase != given_up).then_some(Phase::Queued as u8);
        let _ = self.0.phase.fetch_update(Relaxed, Relaxed, again);
    }

    /// Notes a phase. False when the request was given up before anything of it went out: then
    /// nothing of it may go out.
    pub(crate) fn reach(&self, phase: Phase) -> bool {
        let before = self.0.phase.fetch_max(phase as u8, Relaxed);
        if before < phase as u8 {
            self.changed();
        }
        before != Phase::GivenUp as u8
    }

    /// Bytes of the body are taken by the connection, the last of them or not. False as for
    /// [`reach`](Progress::reach).
    pub(crate) fn sends(&self, bytes: u64, is_last: bool) -> bool {
        let phase = if is_last { Phase::Sent } else { Phase::Sending };
        let before = self.0.phase.fetch_max(phase as u8, Relaxed);
        if before == Phase::GivenUp as u8 {
            return false;
        }
        self.0.body_bytes.fetch_add(bytes, Relaxed);
        self.changed();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_given_up_goes_out_no_more() {
        let progress = Progress::default();
        progress.restart(Phase::Connecting);
        assert_eq!(progress.give_up(), Sent::No);
        assert!(!progress.reach(Phase::Sending));
        assert_eq!((progress.stage(), progress.sent()), (Stage::Connect, Sent::No));
        let sending = Progress::default();
        sending.restart(Phase::Connecting);
        assert!(sending.reach(Phase::Sending));
        assert_eq!(sending.give_up(), Sent::Maybe);
        assert!(sending.reach(Phase::Sent), "what began goes on");
    }

    #[test]
    fn a_request_that_waits_for_its_place_is_nowhere_yet() {
        let progress = Progress::default();
        progress.restart(Phase::Queued);
        assert!(progress.is_queued());
        assert!(progress.reach(Phase::Connecting));
        assert!(!progress.is_queued());
        progress.reach(Phase::Sent);
        progress.again();
        assert!(progress.is_queued(), "a refused one looks for another place");
        assert_eq!((progress.stage(), progress.give_up()), (Stage::Connect, Sent::No));
        assert!(!progress.reach(Phase::Connecting), "nor does it take a place any more");
    }

    #[test]
    fn what_was_proven_unprocessed_was_not_seen() {
        let progress = Progress::default();
        progress.restart(Phase::Queued);
        progress.reach(Phase::Sent);
        assert_eq!(progress.sent(), Sent::Maybe);
        progress.again();
        progress.restart(Phase::Queued);
        assert_eq!((progress.sent(), progress.attempts()), (Sent::No, 2));
        progress.reach(Phase::Sent);
        progress.restart(Phase::Queued);
        progress.again();
        assert_eq!(progress.sent(), Sent::Maybe, "of the one before nothing is proven");
    }

    #[test]
    fn an_endpoint_is_silent_from_when_it_has_something_to_answer() {
        let progress = Progress::default();
        for (phase, has_it) in [
            (Phase::Queued, false),
            (Phase::Connecting, false),
            (Phase::Blind, false),
            (Phase::Sending, true),
            (Phase::Sent, true),
            (Phase::Answered, true),
        ] {
            progress.reach(phase);
            assert_eq!(progress.silent_for().is_some(), has_it);
        }
        progress.restart(Phase::Queued);
        assert_eq!(progress.silent_for(), None);
    }

    #[test]
    fn what_was_seen_once_stays_seen() {
        let progress = Progress::default();
        progress.restart(Phase::Connecting);
        progress.reach(Phase::Answered);
        progress.restart(Phase::Connecting);
        assert_eq!((progress.stage(), progress.sent()), (Stage::Connect, Sent::Yes));
        assert_eq!(progress.give_up(), Sent::Yes);
    }
}
