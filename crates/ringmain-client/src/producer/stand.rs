//! One attachment of a producer: requests in, frames out, one place to sleep.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ringmain_ring::{Armed, LaneError, LaneWriter, LoanWriter, Push, Ring, SubmissionReader};
use ringmain_shm::{Sleeper, TrustedMap, WriteMap, monotonic_ns};
use ringmain_wire::frame::lines_of;
use ringmain_wire::{
    Code, ErrorFrame, ExchangeId, Geometry, Kind, LaneId, Request, Stage, Submission,
};

use crate::attach::Attachment;
use crate::error::{Error, Result};
use crate::news::{Fault, read_news};

#[derive(Debug)]
pub(super) struct Stand {
    attachment: Attachment,
    sleeper: Sleeper,
    submissions: SubmissionReader<TrustedMap>,
    // Bound: one row per lane of the geometry.
    lanes: Vec<Lane>,
    /// Requests that came and were not taken yet.
    // Bound: one per lane.
    queue: VecDeque<Order>,
    armed: Armed<WriteMap>,
    ring: Ring<TrustedMap>,
    fault: Option<Fault>,
}

#[derive(Debug)]
struct Lane {
    writer: LaneWriter<WriteMap, TrustedMap>,
    loan: LoanWriter<WriteMap>,
    is_cancelled: bool,
}

/// A request that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub id: ExchangeId,
    pub request: Request,
}

impl Stand {
    pub fn new(attachment: Attachment) -> Result<Stand> {
        let control = attachment.control.as_fd();
        let sleeper = Sleeper::new(&attachment.bell, control, attachment.pidfd.as_fd());
        let sleeper = sleeper.map_err(|error| internal(Stage::Attach, &error))?;
        let geometry = attachment.welcome.geometry;
        let (own, theirs) = (&attachment.own, &attachment.theirs);
        let lane = |id| Lane {
            writer: LaneWriter::new(own.clone(), theirs.clone(), geometry, id),
            loan: LoanWriter::new(own.clone(), geometry, id),
            is_cancelled: false,
        };
        Ok(Stand {
            sleeper,
            submissions: SubmissionReader::new(theirs.clone(), geometry),
            lanes: geometry.all_lanes().map(lane).collect(),
            queue: VecDeque::new(),
            armed: Armed::new(own.clone(), Geometry::RESPONDER_ARMED),
            ring: Ring::new(theirs.clone(), Geometry::CALLER_ARMED),
            fault: None,
            attachment,
        })
    }

    /// Whether this process is a forked child of the one that attached.
    pub fn is_inherited(&self) -> bool {
        self.attachment.fork.is_child()
    }

    /// The next request that nobody has cancelled; `None` when the time is up.
    pub fn next(&mut self, until: Option<Instant>) -> Result<Option<Order>> {
        // Bound: every turn but the last sleeps until something comes.
        loop {
            self.hear()?;
            if let Some(order) = self.queue.pop_front() {
                return Ok(Some(order));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            self.sleep(left, |_| false)?;
        }
    }

    /// Where the broker writes requests, and the offset of the arena in it. It leaves the chunk
    /// of an exchange alone until its loan is returned.
    pub fn memory(&self) -> (TrustedMap, usize) {
        let arena_offset = self.attachment.welcome.geometry.arena_offset();
        (self.attachment.theirs.clone(), arena_offset)
    }

    /// Time left until a deadline on the broker's clock.
    pub fn left(&self, deadline_ns: u64) -> Duration {
        let now_ns = self.attachment.clock.to_broker(monotonic_ns());
        Duration::from_nanos(deadline_ns.saturating_sub(now_ns))
    }

    /// Writes a frame, waiting for room.
    pub fn push(&mut self, lane: LaneId, kind: Kind, choice: u16, payload: &[u8]) -> Result<()> {
        let mut rest = payload;
        // Bound: every turn writes something or sleeps until there is room or the end.
        loop {
            self.check(lane)?;
            let now_ns = self.now_ns();
            let pushed = self.lanes[lane.index()].writer.push(kind, choice, rest, now_ns);
            match pushed.map_err(broken)? {
                Push::Written => {
                    self.ring();
                    return Ok(());
                }
                Push::Partly(taken) => rest = &rest[taken..],
                Push::Full => {
                    self.ring();
                    self.wait_for_room(lane, rest.len())?;
                }
            }
        }
    }

    /// Writes the terminal frame, unless there is one.
    pub fn finish(&mut self, lane: LaneId, kind: Kind, payload: &[u8]) {
        let now_ns = self.now_ns();
        // Closed means that it was written before.
        if self.lanes[lane.index()].writer.finish(kind, payload, now_ns).is_ok() {
            self.ring();
        }
    }

    /// Gives the memory of a request back to the broker.
    pub fn return_loan(&mut self, lane: LaneId, id: ExchangeId) {
        self.lanes[lane.index()].loan.give_back(id);
        self.ring();
    }

    /// Whether the caller wants this exchange no more.
    pub fn is_cancelled(&mut self, lane: LaneId) -> bool {
        // A broker that is gone is told by the next call that can say so.
        self.hear().is_err() || self.lanes[lane.index()].is_cancelled
    }

    /// Whether the exchange may go on.
    fn check(&mut self, lane: LaneId) -> Result<()> {
        self.hear()?;
        match self.lanes[lane.index()].is_cancelled {
            true => {
                let text = "the caller gave the exchange up; end this job";
                Err(Error::new(Code::Cancelled, Stage::Relay, text))
            }
            false => Ok(()),
        }
    }

    fn wait_for_room(&mut self, lane: LaneId, bytes: usize) -> Result<()> {
        let quarter = self.attachment.welcome.geometry.lane_lines() / 4;
        let lines = lines_of(bytes).min(quarter);
        let writer = &mut self.lanes[lane.index()].writer;
        let is_full = writer.starve(lines).map_err(|error| broken(error.into()))?;
        match is_full {
            true => self.sleep(None, |lanes| {
                // An impossible cursor is found again by the push that follows.
                lanes[lane.index()].writer.has_room(lines).unwrap_or(true)
            }),
            false => Ok(()),
        }
    }

    /// Takes what the broker submitted.
    fn hear(&mut self) -> Result<()> {
        // Bound: the entries of the ring; the broker waits for lanes beyond that.
        while let Some((id, entry)) = self.submissions.next() {
            let geometry = self.attachment.welcome.geometry;
            let submission = Submission::parse(&entry, &geometry);
            match submission.map_err(|error| nonsense(error.to_string()))? {
                Submission::Request(request) => {
                    let lane = &mut self.lanes[request.lane.index()];
                    lane.writer.begin(id).map_err(|error| nonsense(error.to_string()))?;
                    lane.is_cancelled = false;
                    self.queue.push_back(Order { id, request });
                }
                Submission::Cancel { lane, target } => self.cancel(lane, target),
                _ => return Err(nonsense("an op that no producer serves".to_owned())),
            }
        }
        match &self.fault {
            Some(fault) => Err(fault.error(&self.attachment, self.attachment.welcome.epoch)),
            None => Ok(()),
        }
    }

    fn cancel(&mut self, lane: LaneId, target: ExchangeId) {
        let row = &mut self.lanes[lane.index()];
        if !row.writer.carries(target) {
            return;
        }
        row.is_cancelled = true;
        // One that nobody took yet ends here.
        let before = self.queue.len();
        self.queue.retain(|order| order.id != target);
        if self.queue.len() < before {
            let mut payload = Vec::new();
            let text = "cancelled before it was begun";
            ErrorFrame::new(Code::Cancelled, Stage::Admit, text).encode(&mut payload);
            self.finish(lane, Kind::Error, &payload);
            self.return_loan(lane, target);
        }
    }

    /// Sleeps until something was submitted, `is_ready` says so, or the broker has news.
    fn sleep(
        &mut self,
        timeout: Option<Duration>,
        mut is_ready: impl FnMut(&mut [Lane]) -> bool,
    ) -> Result<()> {
        let (lanes, submissions, sleeper) = (&mut self.lanes, &self.submissions, &self.sleeper);
        let is_ready = || submissions.is_ready() || is_ready(lanes);
        let Some(woken) = self.armed.park(is_ready, || sleeper.sleep(timeout)) else {
            return Ok(());
        };
        let woken = woken.map_err(|error| internal(Stage::Relay, &error))?;
        if woken.control {
            let news = read_news(&self.attachment.control);
            self.fault = self.fault.take().or(news.fault);
        }
        if woken.exited {
            self.fault.get_or_insert(Fault::Gone);
        }
        Ok(())
    }

    fn ring(&mut self) {
        // A bell that cannot be rung belongs to a broker that is gone.
        if self.ring.due() && self.attachment.ringer.ring().is_err() {
            self.fault.get_or_insert(Fault::Gone);
        }
    }

    fn now_ns(&self) -> u64 {
        self.attachment.clock.to_broker(monotonic_ns())
    }
}

fn broken(error: LaneError) -> Error {
    Error::new(Code::Internal, Stage::Relay, format!("{error}; end this job"))
}

fn nonsense(text: String) -> Error {
    let text = format!("the broker submitted nonsense: {text}; update the older of the two");
    Error::new(Code::ViolationEntry, Stage::Intake, text)
}

fn internal(stage: Stage, error: &std::io::Error) -> Error {
    Error::new(Code::Internal, stage, format!("waiting failed: {error}"))
}
