//! Sockets, connections, and the end of both.

use std::fs::DirBuilder;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use parking_lot::RwLock;
use ringmain_broker::counters::State;
use ringmain_broker::{Broker, Identity};
use ringmain_shm::{Peer as KernelPeer, StreamListener};
use ringmain_wire::Code;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::caller::Peer;
use crate::config::{HttpConfig, Listen};
use crate::connection;
use crate::expand::Expansions;
use crate::metrics::Metrics;
use crate::paths;
use crate::pipelines::Pipelines;
use crate::watch::{Limits, Watch};

/// The share of all connections that one address may have open without having called as somebody
/// who may; and how many those are at least.
const STRANGERS_SHARE: usize = 16;
const STRANGERS_MIN: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// How long connections may take to be gone once their answers were cut.
const CUT: Duration = Duration::from_secs(1);

/// Why there is no server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// A TCP address cannot be had.
    #[error("[http] cannot listen on {addr}: {source}")]
    Tcp {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A Unix socket cannot be had.
    #[error("[http] cannot listen: {0}")]
    Unix(#[from] ringmain_shm::BindError),
    /// The folder of a Unix socket cannot be made, or the socket cannot be waited for.
    #[error("[http] cannot listen on {path}: {source}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An address that other hosts can reach would be open to everybody.
    #[error(
        "[http] listens on {0}, which other hosts can reach: without a [[client]] it would be open \
         to everybody"
    )]
    Open(Listen),
}

/// The HTTP face of a broker, listening and not yet serving.
pub struct Server {
    face: Arc<Face>,
    sockets: Vec<Socket>,
}

/// Changes a server while it serves.
#[derive(Clone)]
pub struct Handle(Arc<Face>);

enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Removes the path at the end.
        _place: StreamListener,
    },
}

/// What all connections share.
pub(crate) struct Face {
    broker: Arc<Broker>,
    /// What is in effect: its `listen` are the addresses that are bound.
    config: RwLock<Arc<HttpConfig>>,
    watch: Arc<Watch>,
    drain: watch::Sender<bool>,
    /// Told whenever a connection ends.
    left: Notify,
    pub expansions: Expansions,
    pub metrics: Metrics,
    pub pipelines: Arc<Pipelines>,
}

impl Server {
    /// Binds every address of the configuration, or none.
    ///
    /// Must be called inside a runtime.
    ///
    /// # Errors
    /// [`HttpError`] names the address.
    pub fn bind(mut config: HttpConfig, broker: Arc<Broker>) -> Result<Server, HttpError> {
        judge_open(&config)?;
        let sockets = config.listen.iter().map(|listen| Socket::bind(listen, &config));
        let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
        for (listen, socket) in config.listen.iter_mut().zip(&sockets) {
            socket.tell_port(listen);
        }
        let face = Arc::new(Face {
            broker,
            config: RwLock::new(Arc::new(config)),
            watch: Watch::new(),
            drain: watch::Sender::new(false),
            left: Notify::new(),
            expansions: Expansions::default(),
            metrics: Metrics::default(),
            pipelines: Arc::default(),
        });
        Ok(Server { face, sockets })
    }

    /// Where it listens, with the ports that it was given.
    pub fn addresses(&self) -> Vec<Listen> {
        self.face.config().listen.clone()
    }

    /// Changes it while it serves.
    pub fn handle(&self) -> Handle {
        Handle(self.face.clone())
    }

    /// Serves until `drain` is ready; then takes no new connection, lets the ones it has finish
    /// what they are answering within the drain limit of the broker, and closes them.
    pub async fn serve(self, drain: impl Future<Output = ()>) {
        let Server { face, sockets } = self;
        let router = paths::router(face.clone());
        let accepting = accept_all(&face, &router, &sockets);
        tokio::select! {
            () = drain => {}
            () = accepting => {}
            never = face.watch.run(|| face.limits()) => match never {},
        }
        drop(sockets);
        face.drain.send_replace(true);
        let limit = face.broker.config().drain;
        tokio::select! {
            () = end(&face, limit) => {}
            never = face.watch.run(|| face.limits()) => match never {},
        }
    }
}

impl Handle {
    /// Takes a configuration over, but for the addresses, which stay: it is judged by those.
    ///
    /// # Errors
    /// [`HttpError::Open`]: it names no client while other hosts reach an address that is bound.
    /// Then the old one stays.
    pub fn reconfigure(&self, mut config: HttpConfig) -> Result<(), HttpError> {
        let mut in_effect = self.0.config.write();
        config.listen.clone_from(&in_effect.listen);
        judge_open(&config)?;
        *in_effect = Arc::new(config);
        Ok(())
    }
}

fn judge_open(config: &HttpConfig) -> Result<(), HttpError> {
    match config.listen.iter().find(|listen| listen.is_remote()) {
        Some(remote) if config.clients.is_empty() => Err(HttpError::Open(remote.clone())),
        _ => Ok(()),
    }
}

async fn end(face: &Face, limit: Duration) {
    // The broker asks what is left then to end; those that nobody polls do not hear it.
    if timeout(limit + CUT / 2, face.emptied()).await.is_err() {
        face.watch.cut_answers();
        if timeout(CUT, face.emptied()).await.is_err() {
            face.watch.cut_connections();
            let _ = timeout(CUT, face.emptied()).await;
        }
    }
}

impl Face {
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    pub fn config(&self) -> Arc<HttpConfig> {
        self.config.read().clone()
    }

    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    pub fn is_serving(&self) -> bool {
        !*self.drain.borrow() && self.broker.snapshot().state == State::Serving
    }

    /// A request was refused before it became an exchange.
    pub fn count_refusal(&self, code: Code) {
        self.metrics.refused(code);
    }

    /// A connection has ended.
    pub fn left(&self) {
        self.left.notify_waiters();
    }

    /// Waits for the drain.
    pub async fn drained(&self) {
        // The sender lives as long as this does.
        let _ = self.drain.subscribe().wait_for(|drains| *drains).await;
    }

    async fn emptied(&self) {
        // Bound: by the caller's time limit.
        loop {
            let left = self.left.notified();
            if self.watch.connection_count() == 0 {
                return;
            }
            left.await;
        }
    }

    fn limits(&self) -> Limits {
        let config = self.config.read();
        Limits { head: config.head, idle: config.idle, slow_consumer: config.slow_consumer }
    }

    /// Whether one more connection of this peer is taken.
    fn has_room(&self, peer: &Peer) -> bool {
        let most = self.config.read().connections_max;
        let all = self.watch.connection_count();
        let strangers_max = (most / STRANGERS_SHARE).max(STRANGERS_MIN);
        // Below a quarter nobody is counted one by one, but for those who have not said who they
        // are: they could fill the rest from one place.
        all < most
            && (all < most / 4 || self.watch.connections_of(peer.uid()) < most / 2)
            && (all < strangers_max || self.watch.strangers_of(peer) < strangers_max)
    }
}

impl Socket {
    /// Puts the port that it was given where any was asked for.
    fn tell_port(&self, listen: &mut Listen) {
        if let Socket::Tcp(listener) = self
            && let Ok(addr) = listener.local_addr()
        {
            *listen = Listen::Tcp(addr);
        }
    }

    fn bind(listen: &Listen, config: &HttpConfig) -> Result<Socket, HttpError> {
        match listen {
            Listen::Tcp(addr) => {
                let bound = bind_tcp(*addr);
                bound.map(Socket::Tcp).map_err(|source| HttpError::Tcp { addr: *addr, source })
            }
            Listen::Unix(path) => {
                let failed = |source| HttpError::Path { path: path.clone(), source };
                make_folder(path).map_err(failed)?;
                let place = StreamListener::bind(path, config.socket_mode, config.socket_group)?;
                let listener = place.socket().try_clone().and_then(UnixListener::from_std);
                Ok(Socket::Unix { listener: listener.map_err(failed)?, _place: place })
            }
        }
    }

    async fn accept(&self, face: &Arc<Face>, router: &Router) -> io::Result<()> {
        match self {
            Socket::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                take_tcp(face, router, stream, from);
            }
            Socket::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                // A peer that the kernel does not name is nobody's.
                if let Ok(peer) = KernelPeer::of_socket(stream.as_fd()) {
                    let peer = Peer::Unix(Identity::of(&peer));
                    if face.has_room(&peer) {
                        connection::start(face, router.clone(), stream, peer);
                    }
                }
            }
        }
        Ok(())
    }
}

fn take_tcp(face: &Arc<Face>, router: &Router, stream: TcpStream, from: SocketAddr) {
    let peer = Peer::Tcp(from.ip().to_canonical());
    // Tokens are small and must not wait for each other; a socket that is gone says so later.
    let _ = stream.set_nodelay(true);
    if face.has_room(&peer) {
        connection::start(face, router.clone(), stream, peer);
    }
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

fn make_folder(socket: &Path) -> io::Result<()> {
    let Some(folder) = socket.parent() else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o755).create(folder)
}

/// Accepts on every socket, for ever.
async fn accept_all(face: &Arc<Face>, router: &Router, sockets: &[Socket]) {
    let mut tasks: Vec<_> =
        sockets.iter().map(|socket| Box::pin(accept_on(face, router, socket))).collect();
    std::future::poll_fn(|cx| {
        for task in &mut tasks {
            // None of them ever ends.
            let _ = task.as_mut().poll(cx);
        }
        std::task::Poll::<()>::Pending
    })
    .await;
}

async fn accept_on(face: &Arc<Face>, router: &Router, socket: &Socket) {
    loop {
        match socket.accept(face, router).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}
