//! One connection: how it came about, the handle on its socket, and how it ends.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Instant;

use http::Extensions;
use hyper_util::client::legacy::connect::{Connection, HttpInfo};
use parking_lot::Mutex;
use ringmain_shm::{SocketHandle, UnixConnections};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Shared;
use super::link::Transport;
use super::resets::Resets;
use super::roster::SlotId;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Protocol {
    /// Not known before a connection stands.
    Unknown = 0,
    Http1 = 1,
    Http2 = 2,
}

/// The connection of one slot. A slot has one in its life.
pub(super) struct Line {
    pool: Weak<Shared>,
    id: SlotId,
    /// The connection, from when it stands until something is spoken on it.
    made: Mutex<Option<Made>>,
    over: AtomicBool,
    protocol: AtomicU8,
    /// The server said that the present answer is the last.
    last: AtomicBool,
    /// A second handle keeps the connection open, so it goes as soon as the connection is over.
    socket: Mutex<Option<Arc<SocketHandle>>>,
    watcher: Mutex<Option<AbortHandle>>,
    resets: Mutex<Resets>,
    /// Whether requests of others were let onto it.
    is_open: AtomicBool,
    /// Told when it is open, and when it is over.
    shows: Notify,
}

/// A connection that was made.
pub(super) struct Made {
    pub transport: Box<dyn Transport>,
    pub protocol: Protocol,
    /// Whether a proxy at its other end takes requests with whole addresses and passes them on.
    pub is_forwarded: bool,
    /// Over TLS: whether a certificate was proven for it.
    pub proven: bool,
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
            made: Mutex::new(None),
            over: AtomicBool::new(false),
            protocol: AtomicU8::new(Protocol::Unknown as u8),
            last: AtomicBool::new(false),
            socket: Mutex::new(None),
            watcher: Mutex::new(None),
            resets: Mutex::default(),
            is_open: AtomicBool::new(false),
            shows: Notify::new(),
        }
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

    /// The connection stands. Finds its socket.
    pub fn connected<T: Connection + Transport + 'static>(
        self: &Arc<Line>,
        transport: T,
        search: Search,
        proven: bool,
    ) {
        let Some(pool) = self.pool.upgrade() else { return };
        let connected = transport.connected();
        let is_http2 = pool.speaks_only_http2() || connected.is_negotiated_h2();
        let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
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
            *self.socket.lock() = Some(Arc::new(socket));
        }
        let is_forwarded = connected.is_proxied();
        let transport = Box::new(transport);
        *self.made.lock() = Some(Made { transport, protocol, is_forwarded, proven });
    }

    /// Takes the connection, for something to be spoken on it.
    pub fn take_made(&self) -> Option<Made> {
        self.made.lock().take()
    }

    /// From now on this is spoken on it.
    pub fn speaks(&self, protocol: Protocol) {
        self.protocol.store(protocol as u8, Relaxed);
    }

    /// It takes so many requests at once, of whomever; `None`: as many as there are. Told again it
    /// changes nothing; false then.
    pub fn opened(&self, protocol: Protocol, proven: bool, takes: Option<u32>) -> bool {
        if self.is_open.swap(true, Relaxed) {
            return false;
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.opened(self.id, protocol, proven, takes);
        }
        self.shows.notify_one();
        true
    }

    /// The server has changed how many requests it takes at once.
    pub fn takes(&self, streams: Option<u32>) {
        if let Some(pool) = self.pool.upgrade()
            && self.is_open.load(Relaxed)
        {
            pool.takes(self.id, streams);
        }
    }

    /// Waits until it takes requests of others, too; false when it ended before.
    pub async fn is_open(&self) -> bool {
        // Bound: one round more than there are events, of which there are two.
        while !self.is_open.load(Relaxed) && !self.is_over() {
            self.shows.notified().await;
        }
        !self.is_over()
    }

    /// The handle on its socket, if that was found.
    pub fn socket(&self) -> Option<Arc<SocketHandle>> {
        self.socket.lock().clone()
    }

    /// This task tells when the connection has ended.
    pub fn watched_by(&self, watcher: AbortHandle) {
        *self.watcher.lock() = Some(watcher);
    }

    /// Cuts the connection, whatever it waits for.
    pub fn cut(&self) {
        self.over.store(true, Relaxed);
        if let Some(socket) = self.socket.lock().take() {
            socket.cut();
        }
        self.stop_watching();
    }

    /// Both directions are shut down, or nobody uses it and the server has ended it.
    pub fn ended(&self) {
        *self.socket.lock() = None;
        self.closed();
    }

    /// It takes nothing new. What is under way may still have to be cut.
    pub fn closed(&self) {
        self.over.store(true, Relaxed);
        self.shows.notify_one();
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
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop_watching();
    }
}

/// A request on an HTTP/2 connection. Everything of it that the connection holds has a clone of
/// this, so whoever has the last one knows that nothing is held any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream(Arc<()>);

impl Stream {
    /// Whether the connection holds nothing of the request.
    pub fn is_let_go(&self) -> bool {
        Arc::strong_count(&self.0) == 1
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
