//! One thread's session with the broker.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use ringmain_shm::monotonic_ns;
use ringmain_wire::{Code, ExchangeId, LaneId, Stage};

use crate::attach;
use crate::body::Body;
use crate::client::Charge;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::item::Item;
use crate::link::{Link, deadline_error};
use crate::outbox::{Draft, encode_head};
use crate::reader::Ready;
use crate::request::Request;

/// A session with the broker: many exchanges at once, used by one thread at a time, without locks.
///
/// It survives its broker: when the broker went away, everything that ran ends with
/// [`Code::BrokerGone`] (or [`Code::BrokerRestarted`] once a new one was reached), and the next
/// [`Session::submit`] attaches anew. In a forked child it starts empty.
///
/// ```no_run
/// use ringmain_client::{ChatBody, Config, Item, Mode, Request, Session};
///
/// let mut session = Session::attach(Config::default())?;
/// let request = Request::new("tiny", "/chat/completions").mode(Mode::Deltas).usage_requested();
/// let body = ChatBody::new("tiny").message("user", "hello");
/// let exchange = session.submit(&request, &body)?;
/// while let Some(item) = session.next(exchange)? {
///     if let Item::Delta { text, .. } = item {
///         print!("{text}");
///     }
/// }
/// # Ok::<(), ringmain_client::Error>(())
/// ```
#[derive(Debug)]
pub struct Session {
    config: Config,
    // Bound: LINKS_MAX. The last one takes new exchanges; older ones end what they run.
    links: Vec<Link>,
    next_serial: u32,
    /// Links below this number were made by the parent process.
    inherited_below: u32,
    /// Lane that [`Session::next_any`] served last: the others come first the next time.
    served: Option<LaneId>,
    /// Epoch of the broker reached last, shared with the sessions of one client.
    latest_epoch: Arc<AtomicU64>,
    _charge: Option<Charge>,
    one_thread: PhantomData<Cell<()>>,
}

/// Names a running exchange of a [`Session`]. Dropping it does nothing: see
/// [`Session::give_up`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exchange {
    link: u32,
    lane: LaneId,
    id: ExchangeId,
}

/// A request with its lane and chunk taken and nothing written yet.
pub(crate) struct Reserved {
    link: usize,
    draft: Draft,
    deadline_ns: Option<u64>,
}

/// Attachments that one session holds at most: the present one, and earlier ones whose exchanges
/// were not read to their end.
const LINKS_MAX: usize = 8;
/// Time between two looks when exchanges of several attachments are waited for at once.
const SLICE_NS: u64 = 5_000_000;
/// How long a ping may take.
const PING_NS_MAX: u64 = 5_000_000_000;

// --- Attaching -------------------------------------------------------------------------------

impl Session {
    /// Attaches to the broker.
    ///
    /// # Errors
    /// `BrokerAbsent` names every path tried, after [`Config::attach_wait`]; `NotAllowed`, `Abi`
    /// and other final refusals come at once.
    pub fn attach(config: Config) -> Result<Session> {
        let mut session = Session::detached(config, Arc::default(), None);
        session.link(None)?;
        Ok(session)
    }

    /// A session that attaches with its first exchange.
    pub(crate) fn detached(
        config: Config,
        latest_epoch: Arc<AtomicU64>,
        charge: Option<Charge>,
    ) -> Session {
        Session {
            config,
            links: Vec::new(),
            next_serial: 0,
            inherited_below: 0,
            served: None,
            latest_epoch,
            _charge: charge,
            one_thread: PhantomData,
        }
    }

    /// The attachment that takes new exchanges, made when there is none.
    fn link(&mut self, deadline_ns: Option<u64>) -> Result<usize> {
        if let Some(last) = self.links.last_mut() {
            last.check()?;
            if last.is_open() {
                return Ok(self.links.len() - 1);
            }
        }
        self.links.retain(|link| !link.is_idle());
        if self.links.len() == LINKS_MAX {
            let text =
                format!("exchanges of {LINKS_MAX} ended sessions were not read to their end");
            return Err(Error::new(Code::WouldBlock, Stage::Submit, text));
        }
        let attachment = attach::attach(&self.config, deadline_ns)?;
        self.latest_epoch.store(attachment.welcome.epoch, Ordering::Relaxed);
        let link = Link::new(self.next_serial, attachment, self.config.wait)?;
        self.next_serial += 1;
        self.links.push(link);
        Ok(self.links.len() - 1)
    }

    /// In a forked child: leaves everything of the parent alone. Nothing of it may be dropped,
    /// for closing is the parent's business, and its memory is not mapped here.
    #[inline]
    fn leave_inherited(&mut self) {
        if self.links.last().is_some_and(|link| link.attachment().fork.is_child()) {
            self.forget_links();
        }
    }

    #[cfg(test)]
    pub(crate) fn pretend_fork(&self) {
        self.links.iter().for_each(|link| link.attachment().fork.wipe());
    }

    #[cold]
    fn forget_links(&mut self) {
        mem::forget(mem::take(&mut self.links));
        self.inherited_below = self.next_serial;
    }
}

// --- Submitting ------------------------------------------------------------------------------

impl Session {
    /// Sends a request: its body is written straight into the memory that the broker reads.
    /// Returning `Ok` means published.
    ///
    /// # Errors
    /// `WouldBlock` when no lane or no arena space is free, `BodyTooLarge` with its limit,
    /// `InvalidHead`, `DeadlineExceeded`, and those of [`Session::attach`].
    pub fn submit<B: Body>(&mut self, request: &Request<'_>, body: B) -> Result<Exchange> {
        let head = encode_head(&request.head)?;
        let reserved = self.reserve(request, head, body.bytes_max()).map_err(|(error, _)| error)?;
        self.send(reserved, request, body)
    }

    /// Takes lane and chunk; the head comes back when there are none.
    pub(crate) fn reserve(
        &mut self,
        request: &Request<'_>,
        head: Vec<u8>,
        body_bytes_max: u64,
    ) -> Result<Reserved, (Error, Option<Vec<u8>>)> {
        self.leave_inherited();
        let final_error = |error| (error, None);
        let deadline_ns = deadline_ns(request.deadline).map_err(final_error)?;
        let link = self.link(deadline_ns).map_err(final_error)?;
        match self.links[link].reserve(head, body_bytes_max) {
            Ok(draft) => Ok(Reserved { link, draft, deadline_ns }),
            Err((error, head)) => Err((error, Some(head))),
        }
    }

    /// Writes the body and publishes.
    pub(crate) fn send(
        &mut self,
        mut reserved: Reserved,
        request: &Request<'_>,
        body: impl Body,
    ) -> Result<Exchange> {
        let link = &mut self.links[reserved.link];
        if let Err(error) = reserved.draft.fill(body) {
            link.abandon(reserved.draft);
            return Err(error);
        }
        let (lane, id) = link.publish(reserved.draft, request, reserved.deadline_ns);
        Ok(Exchange { link: link.serial, lane, id })
    }

    /// Asks the broker's session for a sign of life and waits for it: one full hop, validated and
    /// charged like a request.
    ///
    /// # Errors
    /// `WouldBlock` without a free lane; `BrokerGone`; `DeadlineExceeded` after 5 s.
    pub fn ping(&mut self) -> Result<()> {
        self.leave_inherited();
        let link = match self.links.len() {
            0 => self.link(None)?,
            links if self.links[links - 1].is_open() => links - 1,
            _ => self.link(None)?,
        };
        let (lane, id) = self.links[link].ping(PING_NS_MAX)?;
        let exchange = Exchange { link: self.links[link].serial, lane, id };
        while self.next(exchange)?.is_some() {}
        Ok(())
    }

    /// Asks the broker to end an exchange. Its last item still comes, normally
    /// [`Code::Cancelled`]; asking twice does nothing.
    pub fn cancel(&mut self, exchange: Exchange) {
        self.leave_inherited();
        if let Some(link) = self.find(exchange) {
            self.links[link].cancel(exchange.lane);
        }
    }

    /// Cancels an exchange and forgets it: nothing of it is shown any more. Its lane is free again
    /// when the broker has ended it.
    pub fn give_up(&mut self, exchange: Exchange) {
        self.leave_inherited();
        match self.find(exchange) {
            Some(link) => self.links[link].give_up(exchange.lane),
            None => self.links.iter_mut().for_each(Link::settle),
        }
    }
}

// --- Reading ---------------------------------------------------------------------------------

impl Session {
    /// The next item of an exchange, borrowed in place; waits for it. `None` after the last one.
    ///
    /// # Errors
    /// Whatever ended the exchange, once; `None` follows. A deadline ends the call by itself,
    /// whatever the broker does.
    pub fn next(&mut self, exchange: Exchange) -> Result<Option<Item<'_>>> {
        match self.await_ready(exchange)? {
            Some((index, ready)) => self.links[index].take(exchange.lane, ready).map(Some),
            None => Ok(None),
        }
    }

    /// The next piece of the first choice's text; other items are passed over.
    ///
    /// # Errors
    /// Those of [`Session::next`].
    #[inline]
    pub fn next_text(&mut self, exchange: Exchange) -> Result<Option<&str>> {
        // The short way for what nearly all items of an answer are: nothing else is to be done.
        let is_short = self.links.last_mut().is_some_and(|link| {
            !link.attachment().fork.is_child()
                && link.serial == exchange.link
                && link.has_short_text(exchange.lane, exchange.id)
        });
        if !is_short {
            return self.await_text(exchange);
        }
        let Some(link) = self.links.last_mut() else { return Ok(None) };
        link.take_short_text(exchange.lane).map(Some)
    }

    #[inline(never)]
    fn await_text(&mut self, exchange: Exchange) -> Result<Option<&str>> {
        self.leave_inherited();
        let Some(index) = self.find(exchange) else { return self.not_running(exchange) };
        let lane = exchange.lane;
        // Bound: each turn consumes an item of an exchange that ends, or waits.
        loop {
            let link = &mut self.links[index];
            match link.poll(lane)? {
                Ready::Text => break,
                Ready::No => self.wait_for(index, lane)?,
                Ready::Item => drop(link.take(lane, Ready::Item)?),
                Ready::Terminal => return link.take(lane, Ready::Terminal).map(|_| None),
            }
        }
        self.links[index].take_text(lane).map(Some)
    }

    /// Waits until the exchange has an item to take. `None`: it does not run.
    #[inline]
    fn await_ready(&mut self, exchange: Exchange) -> Result<Option<(usize, Ready)>> {
        self.leave_inherited();
        let Some(index) = self.find(exchange) else { return self.not_running(exchange) };
        // Bound: the deadline of the exchange, or the life of the broker.
        loop {
            let ready = self.links[index].poll(exchange.lane)?;
            if ready != Ready::No {
                return Ok(Some((index, ready)));
            }
            self.wait_for(index, exchange.lane)?;
        }
    }

    /// Waits until a running exchange may have something.
    #[cold]
    fn wait_for(&mut self, index: usize, lane: LaneId) -> Result<()> {
        let latest_epoch = self.latest_epoch.load(Ordering::Relaxed);
        let link = &mut self.links[index];
        match link.verdict(lane, latest_epoch) {
            Some(error) => Err(error),
            None => link.wait(lane),
        }
    }

    /// Like [`Session::next`], without waiting: [`Poll::Pending`] when there is nothing yet.
    pub fn try_next(&mut self, exchange: Exchange) -> Poll<Result<Option<Item<'_>>>> {
        self.leave_inherited();
        let Some(index) = self.find(exchange) else {
            return Poll::Ready(self.not_running(exchange));
        };
        let latest_epoch = self.latest_epoch.load(Ordering::Relaxed);
        let link = &mut self.links[index];
        match link.look(exchange.lane, latest_epoch) {
            Ok(Ready::No) => Poll::Pending,
            Ok(ready) => Poll::Ready(link.take(exchange.lane, ready).map(Some)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// The next item of any running exchange, in turn; waits for it. `None` when nothing runs.
    pub fn next_any(&mut self) -> Option<(Exchange, Result<Item<'_>>)> {
        self.leave_inherited();
        // Bound: the nearest deadline, or the life of the broker.
        let (index, exchange, ready) = loop {
            match self.scan()? {
                Scan::Found(index, exchange, ready) => break (index, exchange, ready),
                Scan::Nothing => self.wait_any(),
            }
        };
        Some((exchange, ready.and_then(|ready| self.links[index].take(exchange.lane, ready))))
    }

    /// Whether an exchange still runs.
    pub fn is_running(&self, exchange: Exchange) -> bool {
        self.find(exchange).is_some()
    }

    /// How long ago the broker published the item returned last for this exchange.
    pub fn age(&self, exchange: Exchange) -> Option<Duration> {
        let link = self.links.iter().find(|link| link.serial == exchange.link)?;
        Some(link.attachment().clock.age(link.progress(exchange.lane).time_ns))
    }

    /// The start of a broker that took an exchange, as `ringmain status` shows it. Differs after
    /// each restart; `None` once the session holds nothing of that broker any more.
    pub fn broker_epoch(&self, exchange: Exchange) -> Option<u64> {
        let link = self.links.iter().find(|link| link.serial == exchange.link)?;
        Some(link.attachment().welcome.epoch)
    }

    /// Number of sleeps so far: how often this session had to be woken.
    pub fn sleeps(&self) -> u64 {
        self.links.iter().map(Link::sleeps).sum()
    }

    /// Most bytes of a body that this session can send, `None` while it is not attached.
    pub fn body_bytes_max(&self) -> Option<u64> {
        self.links.last().map(|link| link.body_limit(0))
    }

    /// Whether nothing of the caller runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.links.iter().all(Link::is_idle)
    }

    #[inline]
    fn find(&self, exchange: Exchange) -> Option<usize> {
        let runs = |link: &Link| {
            link.serial == exchange.link && link.is_running(exchange.lane, exchange.id)
        };
        self.links.iter().rposition(runs)
    }

    /// What to say about an exchange that does not run: over, or the parent's.
    fn not_running<T>(&self, exchange: Exchange) -> Result<Option<T>> {
        if exchange.link >= self.inherited_below {
            return Ok(None);
        }
        Err(inherited())
    }

    /// Looks at every running exchange once. `None` when nothing runs.
    fn scan(&mut self) -> Option<Scan> {
        let latest_epoch = self.latest_epoch.load(Ordering::Relaxed);
        let mut runs = false;
        for index in 0..self.links.len() {
            let link = &mut self.links[index];
            let geometry = link.attachment().welcome.geometry;
            let from = self.served.map_or(0, |lane| lane.index() + 1);
            let turns = geometry.all_lanes().skip(from).chain(geometry.all_lanes().take(from));
            for lane in turns {
                let Some(id) = link.running_on(lane) else { continue };
                runs = true;
                let ready = link.look(lane, latest_epoch);
                if !matches!(ready, Ok(Ready::No)) {
                    let exchange = Exchange { link: link.serial, lane, id };
                    self.served = Some(lane);
                    return Some(Scan::Found(index, exchange, ready));
                }
            }
        }
        runs.then_some(Scan::Nothing)
    }

    fn wait_any(&mut self) {
        let waiting = self.links.iter_mut().filter(|link| !link.is_idle() && link.is_alive());
        let mut waiting = waiting.peekable();
        // A failing wait is a failing epoll: the following look finds it again and says so.
        while let Some(link) = waiting.next() {
            let alone = waiting.peek().is_none() && link.is_open();
            let until_ns = (!alone).then(|| monotonic_ns() + SLICE_NS);
            let _ = link.wait_any(until_ns);
        }
    }
}

enum Scan {
    Found(usize, Exchange, Result<Ready>),
    Nothing,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave_inherited();
    }
}

pub(crate) fn inherited() -> Error {
    Error::new(
        Code::SessionClosed,
        Stage::Relay,
        "the exchange belongs to the parent process; send the request again in this one",
    )
}

/// A deadline on this machine's monotonic clock.
pub(crate) fn deadline_ns(deadline: Option<Instant>) -> Result<Option<u64>> {
    let Some(deadline) = deadline else { return Ok(None) };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(deadline_error().at_submit());
    }
    let left_ns = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
    Ok(Some(monotonic_ns().saturating_add(left_ns)))
}
