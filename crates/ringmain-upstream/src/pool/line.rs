//! One connection: how it came about, the handle on its socket, and how it ends.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::Extensions;
use hyper_util::client::legacy::connect::{Connected, HttpInfo};
use parking_lot::Mutex;
use ringmain_shm::{SocketHandle, UnixConnections};
use tokio::task::AbortHandle;

use super::Shared;
use super::resets::Resets;
use super::roster::SlotId;
use crate::call::{Phase, Progress};

/// A stream that was not opened for longer than this, while others were answered, waits because
/// the server takes no more at once.
const QUEUED: Duration = Duration::from_millis(10);
/// Signs of life of other streams that prove that the connection itself was not waiting.
const SIGNS: u32 = 4;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Protocol {
    /// Not known before the connection stands.
    Unknown = 0,
    Http1 = 1,
    Http2 = 2,
}

/// The connection of one slot. A slot has one in its life: the HTTP client may not make another.
pub(super) struct Line {
    pool: Weak<Shared>,
    id: SlotId,
    begun: AtomicBool,
    over: AtomicBool,
    protocol: AtomicU8,
    /// The server said that the present answer is the last.
    last: AtomicBool,
    /// A second handle keeps the connection open, so it goes as soon as the connection is over.
    socket: Mutex<Option<Arc<SocketHandle>>>,
    watcher: Mutex<Option<AbortHandle>>,
    resets: Mutex<Resets>,
    /// The request that makes the connection, and whether it has nothing to show when it is sent.
    maker: Mutex<Option<(Progress, bool)>>,
    /// Streams that the connection has begun to send and that have not ended.
    opened: AtomicU32,
    signs: AtomicU32,
}

/// What is needed to find the socket of a connection that is being made.
pub(super) enum Search {
    Tcp,
    /// The connections that stood before.
    Unix(UnixConnections),
}

impl Line {
    pub fn new(pool: Weak<Shared>, id: SlotId) -> Line {
        Line {
            pool,
            id,
            begun: AtomicBool::new(false),
            over: AtomicBool::new(false),
            protocol: AtomicU8::new(Protocol::Unknown as u8),
            last: AtomicBool::new(false),
            socket: Mutex::new(None),
            watcher: Mutex::new(None),
            resets: Mutex::default(),
            maker: Mutex::new(None),
            opened: AtomicU32::new(0),
            signs: AtomicU32::new(0),
        }
    }

    /// Whether the connection may be made now: true once.
    pub fn begin(&self) -> bool {
        !self.begun.swap(true, Relaxed)
    }

    /// Whether the connection has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// What the connection speaks.
    pub fn protocol(&self) -> Protocol {
        match self.protocol.load(Relaxed) {
            1 => Protocol::Http1,
            2 => Protocol::Http2,
            _ => Protocol::Unknown,
        }
    }

    /// This request is sent as soon as the connection stands; `silent`: it has no body that would
    /// be asked for then.
    pub fn set_maker(&self, progress: &Progress, silent: bool) {
        *self.maker.lock() = Some((progress.clone(), silent));
    }

    /// The connection stands. Finds its socket and watches over it. False when the request that
    /// made it was given up, and must not go out.
    pub fn connected(
        self: &Arc<Line>,
        connected: &Connected,
        search: Search,
        proven: bool,
    ) -> bool {
        let Some(pool) = self.pool.upgrade() else { return false };
        let is_http2 = pool.speaks_only_http2() || connected.is_negotiated_h2();
        let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
        // From here on nothing tells whether its head has gone out.
        if let Some((progress, silent)) = self.maker.lock().take()
            && (silent || is_http2)
            && !progress.reach(Phase::Blind)
        {
            return false;
        }
        self.protocol.store(protocol as u8, Relaxed);
        let found = match search {
            Search::Tcp => {
                let mut extras = Extensions::new();
                connected.get_extras(&mut extras);
                let ends = extras.get::<HttpInfo>();
                ends.map(|ends| SocketHandle::of_tcp(ends.local_addr(), ends.remote_addr()))
            }
            Search::Unix(before) => Some(SocketHandle::of_unix_since(&before)),
        };
        // Without a handle an abandoned request ends when the kernel loses its patience.
        if let Some(Ok(socket)) = found {
            let socket = Arc::new(socket);
            *self.socket.lock() = Some(socket.clone());
            let line = Arc::downgrade(self);
            let watching = tokio::spawn(async move {
                socket.hung_up().await;
                drop(socket);
                if let Some(line) = line.upgrade() {
                    line.ended();
                }
            });
            *self.watcher.lock() = Some(watching.abort_handle());
        }
        pool.opened(self.id, protocol, proven);
        true
    }

    /// Cuts the connection, whatever it waits for.
    pub fn cut(&self) {
        self.over.store(true, Relaxed);
        if let Some(socket) = self.socket.lock().take() {
            socket.cut();
        }
        self.stop_watching();
    }

    /// Both directions are shut down.
    fn ended(&self) {
        self.over.store(true, Relaxed);
        *self.socket.lock() = None;
        if let Some(pool) = self.pool.upgrade() {
            pool.lost(self.id);
        }
    }

    fn stop_watching(&self) {
        if let Some(watcher) = self.watcher.lock().take() {
            watcher.abort();
        }
    }

    /// The server takes no request behind the present one.
    pub fn set_last(&self) {
        self.last.store(true, Relaxed);
    }

    /// Whether the present request is the last.
    pub fn is_last(&self) -> bool {
        self.last.load(Relaxed) || self.is_over()
    }

    /// A stream is reset; false when the connection should take no new ones.
    pub fn may_reset(&self, young: bool, now: Instant) -> bool {
        self.resets.lock().take(young, now)
    }

    /// A stream of this connection gave a sign of life.
    pub fn sign(&self) {
        self.signs.fetch_add(1, Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop_watching();
    }
}

/// A request on its way onto an HTTP/2 connection. When it is late while others are answered, the
/// server has said how many it takes at once, which the HTTP client does not tell.
///
/// Everything of the request that the HTTP client holds has a clone of this, so whoever has the
/// last one knows that nothing is held any more.
#[derive(Clone, Debug)]
pub(crate) struct Stream(Arc<State>);

#[derive(Debug)]
struct State {
    line: Arc<Line>,
    since: Instant,
    signs: u32,
    is_open: AtomicBool,
}

impl Stream {
    /// Of a connection without a pool.
    #[cfg(test)]
    pub fn alone() -> Stream {
        Stream::new(&Arc::new(Line::new(Weak::new(), SlotId::default())), Instant::now())
    }

    pub(super) fn new(line: &Arc<Line>, now: Instant) -> Stream {
        let signs = line.signs.load(Relaxed);
        Stream(Arc::new(State {
            line: line.clone(),
            since: now,
            signs,
            is_open: AtomicBool::new(false),
        }))
    }

    /// The connection takes the request; told again it changes nothing.
    pub fn opened(&self) {
        let Stream(state) = self;
        if state.is_open.swap(true, Relaxed) {
            return;
        }
        let others = state.line.opened.fetch_add(1, Relaxed);
        let signs = state.line.signs.load(Relaxed).wrapping_sub(state.signs);
        if signs >= SIGNS
            && others > 0
            && state.since.elapsed() > QUEUED
            && let Some(pool) = state.line.pool.upgrade()
        {
            pool.crowded(state.line.id, others + 1);
        }
    }

    /// Whether the HTTP client holds nothing of the request.
    pub fn is_let_go(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if *self.is_open.get_mut() {
            self.line.opened.fetch_sub(1, Relaxed);
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("id", &self.id)
            .field("protocol", &self.protocol())
            .field("over", &self.is_over())
            .finish_non_exhaustive()
    }
}
