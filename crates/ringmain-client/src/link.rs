//! One attachment as one thread uses it: submit, look, sleep, notice that the broker went away.

use std::hint;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use ringmain_ring::{Armed, LaneReader};
use ringmain_shm::{Sleeper, Woken, WriteMap, monotonic_ns};
use ringmain_wire::{Code, ExchangeId, Geometry, LaneId, Stage};

use crate::attach::Attachment;
use crate::config::{Wait, may_spin};
use crate::error::{Error, Result};
use crate::item::Item;
use crate::news::{Fault, read_news};
use crate::outbox::{Draft, Outbox};
use crate::reader::{Progress, Reader, Ready};
use crate::request::Request;

/// A session's attachment, its lanes, and its place to sleep.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) serial: u32,
    attachment: Attachment,
    outbox: Outbox,
    // Bound: one row per lane of the geometry.
    lanes: Vec<Lane>,
    sleeper: Sleeper,
    armed: Armed<WriteMap>,
    fault: Option<Fault>,
    draining: bool,
    wait: Wait,
    may_spin: bool,
    /// The lane whose terminal item is on loan to the caller: its frames are not released yet.
    finished: Option<LaneId>,
    sleeps: u64,
    looks: u32,
}

#[derive(Debug)]
struct Lane {
    reader: Reader,
    owner: Owner,
    deadline_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    /// A running exchange of the caller.
    Caller(ExchangeId),
    /// An exchange that the caller gave up; what still comes is thrown away.
    Drain,
}

/// Gap between frames below which an adaptive wait spins, and how long it spins at most: about
/// the price of a sleep and its wake-up.
const SPIN_NS_MAX: u64 = 50_000;
/// Looks between two readings of the clock while spinning.
const SPINS_PER_CLOCK: u32 = 256;
/// Readings of the clock between two looks at the socket while spinning for ever.
const CLOCKS_PER_CHECK: u32 = 64;
/// Looks in vain between two looks at the socket for a caller that polls.
const LOOKS_PER_CHECK: u32 = 1024;
impl Link {
    pub(crate) fn new(serial: u32, attachment: Attachment, wait: Wait) -> Result<Link> {
        let control = attachment.control.as_fd();
        let sleeper = Sleeper::new(&attachment.bell, control, attachment.pidfd.as_fd());
        let sleeper = sleeper.map_err(|error| {
            let text = format!("no epoll instance could be made: {error}");
            Error::new(Code::Internal, Stage::Attach, text).with_source(error)
        })?;
        let geometry = attachment.welcome.geometry;
        let lane = |id| Lane {
            reader: new_reader(&attachment, id),
            owner: Owner::Nobody,
            deadline_ns: None,
        };
        Ok(Link {
            serial,
            outbox: Outbox::new(&attachment),
            lanes: geometry.all_lanes().map(lane).collect(),
            sleeper,
            armed: Armed::new(attachment.own.clone(), Geometry::CALLER_ARMED),
            fault: None,
            draining: false,
            wait,
            may_spin: may_spin(),
            finished: None,
            sleeps: 0,
            looks: 0,
            attachment,
        })
    }

    // --- Submitting --------------------------------------------------------------------------

    pub(crate) fn reserve(
        &mut self,
        head: Vec<u8>,
        body_bytes_max: u64,
    ) -> Result<Draft, (Error, Vec<u8>)> {
        self.settle();
        self.drain();
        self.outbox.reserve(head, body_bytes_max)
    }

    pub(crate) fn publish(
        &mut self,
        draft: Draft,
        request: &Request<'_>,
        deadline_ns: Option<u64>,
    ) -> (LaneId, ExchangeId) {
        let lane = draft.lane;
        let told = deadline_ns.map(|ns| self.attachment.clock.to_broker(ns));
        let (exchange, due) = self.outbox.publish(draft, request, told);
        self.begin(lane, exchange, self.attachment.cap(deadline_ns));
        self.ring(due);
        (lane, exchange)
    }

    pub(crate) fn abandon(&mut self, draft: Draft) {
        self.outbox.abandon(draft);
    }

    /// Publishes a ping that may take so long.
    pub(crate) fn ping(&mut self, ns_max: u64) -> Result<(LaneId, ExchangeId)> {
        self.settle();
        let (lane, exchange, due) = match self.outbox.ping() {
            Ok(published) => published,
            Err(_) => {
                self.drain();
                self.outbox.ping()?
            }
        };
        self.ring(due);
        // The clock is looked at while the answer is under way.
        self.begin(lane, exchange, Some(monotonic_ns().saturating_add(ns_max)));
        Ok((lane, exchange))
    }

    /// Gives an exchange up: the broker is told, and what still comes is thrown away.
    pub(crate) fn give_up(&mut self, lane: LaneId) {
        self.settle();
        if self.lanes[lane.index()].owner == Owner::Nobody {
            return;
        }
        self.cancel(lane);
        self.lanes[lane.index()].owner = Owner::Drain;
        self.drain();
    }

    /// Asks the broker to end an exchange; its terminal frame still comes.
    pub(crate) fn cancel(&mut self, lane: LaneId) {
        let due = self.outbox.cancel(lane);
        self.ring(due);
    }

    fn begin(&mut self, lane: LaneId, exchange: ExchangeId, deadline_ns: Option<u64>) {
        let lane = &mut self.lanes[lane.index()];
        lane.reader.begin(exchange);
        lane.owner = Owner::Caller(exchange);
        lane.deadline_ns = deadline_ns;
    }

    // --- Reading -----------------------------------------------------------------------------

    /// Looks once. An error ends the exchange.
    #[inline(always)]
    pub(crate) fn poll(&mut self, lane: LaneId) -> Result<Ready> {
        self.settle();
        let row = &mut self.lanes[lane.index()];
        let ready = row.reader.poll();
        if row.reader.take_ring() {
            self.ring(true);
        }
        if ready.is_err() {
            self.spoil(lane);
        }
        ready
    }

    /// Whether [`Link::take_short_text`] has something to take; false says nothing.
    #[inline(always)]
    pub(crate) fn has_short_text(&mut self, lane: LaneId, exchange: ExchangeId) -> bool {
        let Some(row) = self.lanes.get_mut(lane.index()) else { return false };
        row.owner == Owner::Caller(exchange)
            && self.finished.is_none()
            && row.reader.has_short_text()
    }

    /// Takes the text that [`Link::has_short_text`] found. An error ends the exchange.
    #[inline(always)]
    pub(crate) fn take_short_text(&mut self, lane: LaneId) -> Result<&str> {
        let row = &mut self.lanes[lane.index()];
        let text = row.reader.take_short_text();
        if text.is_err() {
            row.owner = Owner::Drain;
            refuse(&mut self.outbox, &self.attachment, lane);
        }
        text
    }

    /// Looks once, and asks whether the exchange is over when there is nothing.
    pub(crate) fn look(&mut self, lane: LaneId, latest_epoch: u64) -> Result<Ready> {
        let ready = self.poll(lane)?;
        if ready != Ready::No {
            return Ok(ready);
        }
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS_PER_CHECK) {
            self.check()?;
            // What was published before the broker went counts before its going.
            let ready = self.poll(lane)?;
            if ready != Ready::No {
                return Ok(ready);
            }
        }
        self.verdict(lane, latest_epoch).map_or(Ok(Ready::No), Err)
    }

    /// Takes what a look found. An error ends the exchange.
    #[inline]
    pub(crate) fn take(&mut self, lane: LaneId, ready: Ready) -> Result<Item<'_>> {
        let row = &mut self.lanes[lane.index()];
        if ready == Ready::Terminal {
            row.owner = Owner::Nobody;
            self.finished = Some(lane);
        }
        let item = row.reader.take();
        if item.is_err() && ready != Ready::Terminal {
            row.owner = Owner::Drain;
            refuse(&mut self.outbox, &self.attachment, lane);
        }
        item
    }

    /// Takes a text that a look found. An error ends the exchange.
    #[inline]
    pub(crate) fn take_text(&mut self, lane: LaneId) -> Result<&str> {
        let row = &mut self.lanes[lane.index()];
        let text = row.reader.take_text();
        if text.is_err() {
            row.owner = Owner::Drain;
            refuse(&mut self.outbox, &self.attachment, lane);
        }
        text
    }

    /// Why nothing more comes on this lane, if that is so. The exchange is over then.
    pub(crate) fn verdict(&mut self, lane: LaneId, latest_epoch: u64) -> Option<Error> {
        let row = &mut self.lanes[lane.index()];
        let progress = row.reader.progress();
        if let Some(fault) = &self.fault {
            row.owner = Owner::Nobody;
            return Some(progress.mark(fault.error(&self.attachment, latest_epoch)));
        }
        if row.deadline_ns.is_some_and(|deadline_ns| monotonic_ns() >= deadline_ns) {
            self.give_up(lane);
            return Some(progress.mark(deadline_error()));
        }
        None
    }

    /// Waits until a lane may have something, its deadline passes or the broker goes away; the
    /// caller looks again then.
    pub(crate) fn wait(&mut self, lane: LaneId) -> Result<()> {
        let row = &self.lanes[lane.index()];
        let until_ns = row.deadline_ns;
        let gap_ns = row.reader.progress().gap_ns;
        let spin_ns = match self.wait {
            Wait::Spin => u64::MAX,
            Wait::Adaptive if self.may_spin && (1..SPIN_NS_MAX).contains(&gap_ns) => SPIN_NS_MAX,
            Wait::Adaptive | Wait::Block => 0,
        };
        if spin_ns > 0 && self.spin(lane, spin_ns, until_ns)? {
            return Ok(());
        }
        let reader = &mut self.lanes[lane.index()].reader;
        reader.settle();
        let due = reader.take_ring();
        self.ring(due);
        self.sleep(Some(lane), until_ns)
    }

    /// Sleeps until any running exchange may have something, or at most until `until_ns`.
    pub(crate) fn wait_any(&mut self, until_ns: Option<u64>) -> Result<()> {
        let nearest = self.lanes.iter().filter(|lane| lane.is_running());
        let nearest = nearest.filter_map(|lane| lane.deadline_ns).chain(until_ns).min();
        if self.wait == Wait::Spin {
            hint::spin_loop();
            return Ok(());
        }
        self.sleep(None, nearest)
    }

    /// Spins until a frame is there. False: the time was up first.
    // Bound: `spin_ns`, the deadline, and the life of the broker.
    fn spin(&mut self, lane: LaneId, spin_ns: u64, until_ns: Option<u64>) -> Result<bool> {
        let start_ns = monotonic_ns();
        let until_ns = until_ns.unwrap_or(u64::MAX);
        for round in 1u32.. {
            for _ in 0..SPINS_PER_CLOCK {
                if self.lanes[lane.index()].reader.is_ready() {
                    return Ok(true);
                }
                hint::spin_loop();
            }
            let now_ns = monotonic_ns();
            if now_ns >= until_ns {
                return Ok(true);
            }
            if now_ns - start_ns >= spin_ns {
                return Ok(false);
            }
            if round.is_multiple_of(CLOCKS_PER_CHECK) {
                self.check()?;
                if self.fault.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn sleep(&mut self, lane: Option<LaneId>, until_ns: Option<u64>) -> Result<()> {
        let left_ns = until_ns.map(|until_ns| until_ns.saturating_sub(monotonic_ns()));
        if left_ns == Some(0) {
            return Ok(());
        }
        let (lanes, sleeper) = (&self.lanes, &self.sleeper);
        let is_ready = || match lane {
            Some(lane) => lanes[lane.index()].reader.is_ready(),
            None => lanes.iter().any(|lane| lane.is_running() && lane.reader.is_ready()),
        };
        let timeout = left_ns.map(Duration::from_nanos);
        let woken = self.armed.park(is_ready, || sleeper.sleep(timeout));
        match woken {
            None => Ok(()),
            Some(woken) => {
                self.sleeps += 1;
                self.heed(woken.map_err(sleep_error)?);
                Ok(())
            }
        }
    }

    // --- Liveness ----------------------------------------------------------------------------

    /// Looks at the control socket and the broker's process without waiting.
    pub(crate) fn check(&mut self) -> Result<()> {
        let woken = self.sleeper.sleep(Some(Duration::ZERO)).map_err(sleep_error)?;
        self.heed(woken);
        Ok(())
    }

    /// Whether new exchanges can go here.
    pub(crate) fn is_open(&self) -> bool {
        self.fault.is_none() && !self.draining
    }

    /// Whether the broker still answers what runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.fault.is_none()
    }

    /// Whether an exchange of the caller runs.
    pub(crate) fn is_idle(&self) -> bool {
        !self.lanes.iter().any(Lane::is_running)
    }

    #[inline]
    pub(crate) fn is_running(&self, lane: LaneId, exchange: ExchangeId) -> bool {
        self.lanes.get(lane.index()).is_some_and(|row| row.owner == Owner::Caller(exchange))
    }

    /// The caller's exchange that runs on a lane.
    pub(crate) fn running_on(&self, lane: LaneId) -> Option<ExchangeId> {
        match self.lanes[lane.index()].owner {
            Owner::Caller(exchange) => Some(exchange),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    pub(crate) fn progress(&self, lane: LaneId) -> Progress {
        self.lanes[lane.index()].reader.progress()
    }

    pub(crate) fn body_limit(&self, head_bytes: usize) -> u64 {
        self.outbox.body_limit(head_bytes)
    }

    pub(crate) fn sleeps(&self) -> u64 {
        self.sleeps
    }

    fn heed(&mut self, woken: Woken) {
        if woken.control {
            let news = read_news(&self.attachment.control);
            self.draining |= news.draining;
            self.fault = self.fault.take().or(news.fault);
        }
        if woken.exited && self.fault.is_none() {
            self.fault = Some(Fault::Gone);
        }
    }

    // --- Lanes -------------------------------------------------------------------------------

    /// Releases the terminal item that the caller held until now.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if let Some(lane) = self.finished.take() {
            self.close(lane);
        }
    }

    fn close(&mut self, lane: LaneId) {
        self.lanes[lane.index()].owner = Owner::Drain;
        self.drain_lane(lane);
    }

    /// Frees lanes whose abandoned exchange has ended by now.
    fn drain(&mut self) {
        for lane in self.attachment.welcome.geometry.all_lanes() {
            if self.lanes[lane.index()].owner == Owner::Drain {
                self.drain_lane(lane);
            }
        }
    }

    fn drain_lane(&mut self, lane: LaneId) {
        let row = &mut self.lanes[lane.index()];
        // A lane that holds nonsense is never used again.
        let ended = matches!(row.reader.drain(), Ok(true));
        let due = row.reader.take_ring();
        if ended {
            row.owner = Owner::Nobody;
            self.outbox.end(lane);
        }
        self.ring(due);
    }

    /// A frame could not be read: the exchange is over, and nothing on this lane can be trusted.
    #[cold]
    fn spoil(&mut self, lane: LaneId) {
        self.cancel(lane);
        self.lanes[lane.index()].owner = Owner::Nobody;
    }

    #[inline]
    fn ring(&mut self, due: bool) {
        // A bell that cannot be rung belongs to a broker that is gone; the socket tells so.
        if due && self.attachment.ringer.ring().is_err() {
            self.fault.get_or_insert(Fault::Gone);
        }
    }
}

impl Lane {
    fn is_running(&self) -> bool {
        matches!(self.owner, Owner::Caller(_))
    }
}

impl Attachment {
    /// When this side stops waiting: at the caller's deadline or the broker's own cap.
    pub(crate) fn cap(&self, deadline_ns: Option<u64>) -> Option<u64> {
        let cap_ns = match self.welcome.deadline_ns_max {
            u64::MAX => None,
            longest_ns => Some(monotonic_ns().saturating_add(longest_ns)),
        };
        deadline_ns.into_iter().chain(cap_ns).min()
    }
}

/// Ends an exchange of which something cannot be read: nothing that could be follows.
#[cold]
fn refuse(outbox: &mut Outbox, attachment: &Attachment, lane: LaneId) {
    if outbox.cancel(lane) {
        let _ = attachment.ringer.ring();
    }
}

pub(crate) fn new_reader(attachment: &Attachment, lane: LaneId) -> Reader {
    let (caller, responder) = (attachment.own.clone(), attachment.theirs.clone());
    Reader::new(LaneReader::new(caller, responder, attachment.welcome.geometry, lane))
}

pub(crate) fn deadline_error() -> Error {
    let text = "the deadline passed and the exchange was cancelled; allow more time";
    Error::new(Code::DeadlineExceeded, Stage::Relay, text)
}

fn sleep_error(error: io::Error) -> Error {
    let text = format!("waiting failed: {error}");
    Error::new(Code::Internal, Stage::Relay, text).with_source(error)
}
