//! A request's place on a connection, and what becomes of both when the request ends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use reqwest::Client;
use tokio::runtime::Handle;

use super::gauges::Cause;
use super::line::{Line, Protocol, Stream};
use super::roster::SlotId;
use super::{Shared, idle};
use crate::call::{Phase, Progress};
use crate::error::UpstreamError;

/// How long the HTTP client may hold a request that was given up, on a connection that nobody
/// else uses.
const LET_GO: Duration = Duration::from_millis(50);
/// The same where others would be cut with it: they get no company any more, and the time that
/// most of them need to end.
const LET_GO_SHARED: Duration = Duration::from_secs(10);
/// When such a connection gets no further requests.
const LET_GO_RETIRED: Duration = Duration::from_millis(500);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The HTTP client of one connection.
pub(super) struct Slot {
    pub client: Client,
    pub line: Arc<Line>,
}

/// A place on a connection. Dropping it gives the request up: what it held is let go, and over
/// HTTP/1 the connection is cut.
pub(crate) struct Lease {
    pool: Arc<Shared>,
    id: SlotId,
    slot: Arc<Slot>,
    end: End,
    /// How long the connection was unused before; `None` if it had served nothing yet.
    unused: Option<Duration>,
    /// Whether anything came back.
    answered: bool,
    /// Kept while the HTTP client may hold something of the request.
    stream: Option<Stream>,
}

/// How a request left its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was never sent.
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
        let (end, answered, stream) = (End::Unused, false, None);
        Lease { pool, id, slot, end, unused, answered, stream }
    }

    /// The client to send the request with. From here on a drop is an abort.
    pub fn client(&mut self) -> &Client {
        self.end = End::Aborted;
        &self.slot.client
    }

    /// Where its connection goes.
    pub fn address(&self) -> &str {
        &self.pool.base
    }

    /// What its connection speaks, once it stands.
    pub(super) fn protocol(&self) -> Protocol {
        self.slot.line.protocol()
    }

    /// Whether its connection stands, or has stood.
    pub fn is_made(&self) -> bool {
        self.protocol() != Protocol::Unknown
    }

    /// Stands for the request where its connection speaks HTTP/2, or may.
    pub fn stream(&mut self) -> Option<Stream> {
        if !self.may_speak_http2() {
            return None;
        }
        let stream = Stream::new(&self.slot.line, Instant::now());
        self.stream = Some(stream.clone());
        Some(stream)
    }

    /// Tells the progress of the request from when on nothing shows whether its head has gone out:
    /// HTTP/2 sends the head before it asks for the body, and a silent request has none. False when
    /// the request was given up.
    pub fn tell_blind(&self, progress: &Progress, silent: bool) -> bool {
        match self.slot.line.protocol() {
            Protocol::Unknown => {
                self.slot.line.set_maker(progress, silent);
                true
            }
            Protocol::Http1 if !silent => true,
            _ => progress.reach(Phase::Blind),
        }
    }

    /// Whether the head of a request may be sent before its body is asked for.
    fn may_speak_http2(&self) -> bool {
        match self.slot.line.protocol() {
            Protocol::Unknown => self.pool.may_speak_http2(),
            protocol => protocol == Protocol::Http2,
        }
    }

    /// The head of the answer has come.
    pub fn answered(&mut self, head: &reqwest::Response) {
        self.answered = true;
        if self.unused.is_some() {
            self.pool.counts.reused.fetch_add(1, Relaxed);
        }
        if self.slot.line.protocol() == Protocol::Http2 {
            self.slot.line.sign();
            self.pool.thrives(self.id);
            return;
        }
        let text = |name| head.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(limit) = text("keep-alive").and_then(idle::told_by) {
            self.pool.told_idle(limit);
        }
        let connection = text("connection").unwrap_or_default();
        let says =
            |word: &str| connection.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
        let old = head.version() < http::Version::HTTP_11;
        if says("close") || old && !says("keep-alive") {
            self.slot.line.set_last();
        }
    }

    /// A part of the answer has come.
    pub fn sign(&self) {
        if self.stream.is_some() {
            self.slot.line.sign();
        }
    }

    /// The answer was read to its end.
    pub fn done(mut self) {
        self.end = End::Done;
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

    /// The connection had ended, or takes nothing new, before the request was sent.
    pub fn spent(self) {
        let cause = match self.protocol() {
            Protocol::Http2 => Cause::GoAway,
            _ => Cause::ClosedByPeer,
        };
        self.failed(Some(cause));
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
            (End::Unused, _) => (None, false),
            (End::Failed(cause), protocol) => (Some(cause), protocol == Protocol::Http1),
            (End::Done, _) if line.is_last() => (Some(Cause::ClosedByPeer), false),
            (End::Done, _) => (None, false),
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
        // Outside of a runtime the HTTP client's tasks are gone, and what they held with them.
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
        let (cause, cut) = self.verdict();
        if cut {
            self.slot.line.cut();
        }
        self.pool.clone().leave(self.id, cause);
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
