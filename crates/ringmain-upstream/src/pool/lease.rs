//! A request's place on a connection, and what becomes of both when the request ends.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HeaderName;
use http::{Request, Response};
use ringmain_shm::SocketHandle;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::gauges::Cause;
use super::line::{Made, Protocol, Stream};
use super::link::{AnswerStream, Link, LinkError, Unanswered};
use super::roster::SlotId;
use super::slot::{Opened, Slot};
use super::{Broken, Shared, idle};
use crate::body::RequestBody;
use crate::call::{Phase, Progress};
use crate::error::UpstreamError;
use crate::http1;

/// How long a connection may hold a request that was given up, on a connection that nobody
/// else uses.
const LET_GO: Duration = Duration::from_millis(50);
/// The same where others would be cut with it: they get no company any more, and the time that
/// most of them need to end.
const LET_GO_SHARED: Duration = Duration::from_secs(10);
/// When such a connection gets no further requests.
const LET_GO_RETIRED: Duration = Duration::from_millis(500);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Longest time that others wait for a server to say how many requests it takes at once.
const GREETING: Duration = Duration::from_secs(1);

/// Bytes from which on whoever waits is woken all the same: a quarter of what Linux lets come over
/// a connection at first, so that its sender goes on meanwhile.
const HUSHED_BYTES: u16 = 32 * 1024;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// A place on a connection. Dropping it gives the request up: what it held is let go, and over
/// HTTP/1 the connection is cut.
pub(crate) struct Lease {
    pool: Arc<Shared>,
    id: SlotId,
    slot: Arc<Slot>,
    end: End,
    /// When it ended, if that is known.
    ended_at: Option<Instant>,
    /// How long the connection was unused before; `None` if it had served nothing yet.
    unused: Option<Duration>,
    /// Whether anything came back.
    answered: bool,
    /// Its share of the connection, once that stands.
    opened: Option<Opened>,
    /// Kept while the connection may hold something of the request.
    stream: Option<Stream>,
}

/// What comes over a connection wakes nobody.
pub(crate) struct Hush(Arc<SocketHandle>);

impl Drop for Hush {
    fn drop(&mut self) {
        self.0.tell_from(1);
    }
}

/// How a request left its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing was sent.
    Unused,
    Aborted,
    Done,
    /// The connection is not fit for another.
    Failed(Cause),
}

impl Lease {
    pub(super) fn new(
        pool: Arc<Shared>,
        id: SlotId,
        slot: Arc<Slot>,
        unused: Option<Duration>,
    ) -> Lease {
        let (end, ended_at, answered, opened, stream) = (End::Unused, None, false, None, None);
        Lease { pool, id, slot, end, ended_at, unused, answered, opened, stream }
    }

    /// Waits for the connection, which is made now if it does not stand yet.
    pub async fn ready(&mut self) -> Result<(), Broken> {
        let opened = match self.is_made() {
            true => self.slot.take(),
            false => Some(self.open().await?),
        };
        let opened = self.opened.insert(opened.ok_or(Broken::Spent)?);
        match poll_fn(|cx| opened.link.poll_ready(cx)).await {
            true => Ok(()),
            false => Err(Broken::Spent),
        }
    }

    /// Makes the connection of the slot.
    async fn open(&mut self) -> Result<Opened, Broken> {
        let Made { transport, protocol, is_forwarded, proven } =
            self.pool.maker.connect(&self.slot.line).await?;
        let line = &self.slot.line;
        if protocol == Protocol::Http1 {
            let link = Link::http1(transport);
            line.speaks(protocol);
            self.slot.watch();
            line.opened(protocol, proven, Some(1));
            return Ok(Opened { link, is_forwarded });
        }
        let weak = Arc::downgrade(line);
        let told = weak.clone();
        let greeted = Box::new(move |takes| {
            if let Some(line) = told.upgrade()
                && !line.opened(protocol, proven, takes)
            {
                // Others were let onto it before: the server took its time.
                line.takes(takes);
            }
        });
        let told = weak.clone();
        let takes = move |streams| {
            if let Some(line) = told.upgrade() {
                line.takes(streams);
            }
        };
        let opening = Link::http2(transport, self.pool.streams_max, greeted, takes);
        let (link, running) = opening.await.map_err(Broken::Unspoken)?;
        let opened = Opened { link, is_forwarded };
        // Before the server is heard, upon which others come.
        if let Some(share) = opened.shared() {
            self.slot.put(share);
        }
        line.speaks(protocol);
        self.slot.watch();
        tokio::spawn(async move {
            let mut running = pin!(running);
            // A server that does not say what it takes is given all: whoever waits for it then
            // has a limit of his own.
            if timeout(GREETING, &mut running).await.is_err() {
                if let Some(line) = weak.upgrade() {
                    line.opened(protocol, proven, None);
                }
                running.await;
            }
            if let Some(line) = weak.upgrade() {
                line.closed();
            }
        });
        Ok(opened)
    }

    /// Puts the address of a request, which has the whole one, as the connection wants it.
    pub fn address(&self, request: &mut Request<RequestBody>) {
        if let Some(opened) = &self.opened {
            self.pool.address(request, &opened.link, opened.is_forwarded);
        }
    }

    /// Sends a request that was addressed, and waits for the head of the answer. From here on a
    /// drop is an abort.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<AnswerStream>, Broken> {
        self.end = End::Aborted;
        let Some(opened) = &mut self.opened else { return Err(Broken::Spent) };
        let response = opened.link.send(request).await.map_err(|unanswered| match unanswered {
            Unanswered::Unsent => Broken::Spent,
            Unanswered::Broken(error) => Broken::Unanswered(error),
        })?;
        self.answered(&response);
        Ok(response)
    }

    /// The next bytes of the answer; `None` at its end.
    pub fn poll_body(
        &mut self,
        body: &mut AnswerStream,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, LinkError>>> {
        match &mut self.opened {
            Some(opened) => opened.link.poll_body(body, cx),
            None => Poll::Ready(None),
        }
    }

    /// Has nobody woken by what comes over a connection of its own until the guard is dropped,
    /// unless it is much. `None` where the connection is shared, or its socket was not found.
    pub fn hush(&self) -> Option<Hush> {
        let is_own = self.protocol() == Protocol::Http1;
        let socket = self.slot.line.socket().filter(|_| is_own)?;
        socket.tell_from(HUSHED_BYTES);
        Some(Hush(socket))
    }

    /// What its connection speaks, once it stands.
    pub(super) fn protocol(&self) -> Protocol {
        self.slot.line.protocol()
    }

    /// Whether its connection stands, or has stood.
    pub fn is_made(&self) -> bool {
        self.protocol() != Protocol::Unknown
    }

    /// Stands for the request where its connection speaks HTTP/2.
    pub fn stream(&mut self) -> Option<Stream> {
        if self.protocol() != Protocol::Http2 {
            return None;
        }
        self.stream = Some(Stream::default());
        self.stream.clone()
    }

    /// Tells the progress of the request from when on nothing shows whether its head has gone out:
    /// HTTP/2 sends the head before it asks for the body, and a silent request has none. False when
    /// the request was given up.
    pub fn tell_blind(&self, progress: &Progress, silent: bool) -> bool {
        let is_shown = self.protocol() == Protocol::Http1 && !silent;
        progress.reach(if is_shown { Phase::Connecting } else { Phase::Blind })
    }

    /// The head of the answer has come.
    fn answered(&mut self, head: &Response<AnswerStream>) {
        self.answered = true;
        if self.unused.is_some() {
            self.pool.counts.reused.fetch_add(1, Relaxed);
        }
        if self.protocol() == Protocol::Http2 {
            self.pool.thrives(self.id);
            return;
        }
        let keep_alive = head.headers().get(&KEEP_ALIVE).and_then(|value| value.to_str().ok());
        if let Some(limit) = keep_alive.and_then(idle::told_by) {
            self.pool.told_idle(limit);
        }
        if http1::is_last(head) {
            self.slot.line.set_last();
        }
    }

    /// Waits until the connection takes requests of others, too; false when it ended before.
    pub async fn is_open(&mut self) -> bool {
        let line = self.slot.line.clone();
        line.is_open().await
    }

    /// The answer was read to its end, now.
    pub fn done(mut self, now: Instant) {
        (self.end, self.ended_at) = (End::Done, Some(now));
    }

    /// The request failed: with its connection, or alone.
    pub fn failed(mut self, cause: Option<Cause>) {
        self.end = match (cause, self.slot.line.protocol()) {
            (Some(cause), _) => End::Failed(cause),
            (None, Protocol::Http2) => End::Done,
            (None, _) => End::Failed(Cause::Failed),
        };
        // Most likely the server has closed what was unused for too long.
        if let (Some(Cause::Failed), Some(unused), false) = (cause, self.unused, self.answered)
            && self.protocol() == Protocol::Http1
        {
            self.pool.broke_after(unused);
        }
    }

    /// The connection could not be made.
    pub fn not_made(self, error: &UpstreamError) {
        if self.protocol() == Protocol::Unknown {
            self.pool.not_made(error);
        }
        self.failed(Some(Cause::Failed));
    }

    /// The connection had ended, or takes nothing new, before the request was sent; true if it had
    /// stood before.
    pub fn spent(self) -> bool {
        let stood = self.unused.is_some();
        let cause = match self.protocol() {
            Protocol::Http2 => Cause::GoAway,
            _ => Cause::ClosedByPeer,
        };
        self.failed(Some(cause));
        stood
    }

    /// The provider refused one stream more; true if it takes no more than stand there now, and
    /// false if there are none.
    pub fn refused(self) -> bool {
        let was_crowded = self.pool.refused(self.id);
        self.failed(None);
        was_crowded
    }

    /// Why the connection takes no further request, if so; and whether it is cut.
    fn verdict(&self) -> (Option<Cause>, bool) {
        let line = &self.slot.line;
        match (self.end, line.protocol()) {
            (End::Failed(cause), protocol) => (Some(cause), protocol == Protocol::Http1),
            (End::Unused | End::Done, _) if line.is_last() => (Some(Cause::ClosedByPeer), false),
            (End::Unused | End::Done, _) => (None, false),
            (End::Aborted, Protocol::Http1) => (Some(Cause::Aborted), true),
            (End::Aborted, Protocol::Http2) => {
                let may_go_on = line.may_reset(!self.answered, Instant::now());
                ((!may_go_on).then_some(Cause::Aborted), false)
            }
            // Its connection is not made any more.
            (End::Aborted, Protocol::Unknown) => (None, false),
        }
    }

    /// Sees to it that a stream that was given up is let go, if need be by cutting the connection.
    fn follow(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if stream.is_let_go() {
            return;
        }
        let (pool, id, line) = (self.pool.clone(), self.id, self.slot.line.clone());
        // Outside of a runtime the tasks of connections are gone, and what they held with them.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let since = Instant::now();
            let mut is_retired = false;
            // Bound: the longer of the two limits.
            while !stream.is_let_go() {
                let passed = since.elapsed();
                // A retired slot without a request has another connection already, or none.
                let others = pool.streams_on(id);
                if passed >= LET_GO && others == 0 || passed >= LET_GO_SHARED {
                    pool.retire(id, Cause::Aborted);
                    line.cut();
                    return;
                }
                if passed >= LET_GO_RETIRED && !is_retired {
                    pool.retire(id, Cause::Aborted);
                    is_retired = true;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (mut cause, cut) = self.verdict();
        let opened = self.opened.take();
        if cut {
            self.slot.line.cut();
        } else if let (None, Some(opened)) = (cause, opened)
            && let Link::Http1(_) = opened.link
            // Before anybody can be given its place.
            && !self.slot.put(opened)
        {
            cause = Some(Cause::ClosedByPeer);
        }
        self.pool.leave(self.id, cause, self.ended_at.unwrap_or_else(Instant::now));
        if self.end != End::Unused {
            self.follow();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", &self.id)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
