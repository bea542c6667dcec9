//! An OpenAI-compatible provider over real HTTP/1.1 and HTTP/2, in clear text or over TLS, steered
//! by prompts, by a header field `x-sim` that holds the same, or by a file of [`Rules`].
//!
//! [`Server`] is the provider inside a runtime that the caller owns, [`Provider`] the same on a
//! thread of its own, for tests and programs that have no runtime. Neither prints anything.
//!
//! | method, path (with or without `/v1`) | answer |
//! |---|---|
//! | `POST /chat/completions`, `/completions` | a stream or a whole answer |
//! | `POST /messages` | the same in the dialect of Anthropic |
//! | `POST /responses` | a recording |
//! | `POST /embeddings` | deterministic vectors, as numbers or base64 |
//! | `GET /models`, `/models/NAME` | a few names; any name is served |
//! | `GET /sim/log` | the log, one [`ProviderRecord`] as JSON per line |
//! | `POST /sim/reset` | empties the log |

mod answer;
mod anthropic;
mod ask;
mod connection;
mod frames;
mod log;
mod preset;
pub(crate) mod replay;
mod rules;
mod socket;
mod stage;
mod stream;
mod tls;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

pub use answer::embedding_of;
pub use log::{Ended, How, ProviderRecord, RECORDS_MAX};
pub use rules::{RuleError, Rules};

use crate::fault::{Fault, Place};
use crate::script::Script;
use log::Log;
use tls::Identity;

/// Most correlation ids that are remembered for faults that only the first request meets.
const MET_MAX: usize = 65_536;

/// How a provider is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderConfig {
    /// Address to listen on; port 0: any free one.
    pub listen: SocketAddr,
    /// Folder that `replay=` reads from; without one, replays are refused.
    pub replay_dir: Option<PathBuf>,
    /// Seed of what no script decides.
    pub seed: u64,
    /// Bytes of each socket's send buffer; `None`: the system's choice. A small one makes
    /// back-pressure show after little data.
    pub send_buffer_bytes: Option<u32>,
    /// Most concurrent streams on one HTTP/2 connection.
    pub h2_streams_max: u32,
    /// Whether TLS is spoken; clients trust the authority that [`Provider::ca_pem`] gives.
    pub tls: bool,
    /// What every connection meets: a fault of [`Place::Connection`].
    pub connections: Option<Fault>,
    /// What requests and connections meet by their number.
    pub rules: Rules,
}

impl Default for ProviderConfig {
    fn default() -> ProviderConfig {
        ProviderConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            replay_dir: None,
            seed: 0,
            send_buffer_bytes: None,
            h2_streams_max: 256,
            tls: false,
            connections: None,
            rules: Rules::default(),
        }
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    config: ProviderConfig,
    log: Log,
    identity: Option<Identity>,
    /// Faults with the correlation ids that have met them.
    met: Mutex<HashSet<String>>,
}

impl Shared {
    fn new(config: ProviderConfig) -> io::Result<Shared> {
        let identity = match config.tls {
            true => Some(Identity::new(config.connections)?),
            false => None,
        };
        Ok(Shared { config, log: Log::default(), identity, met: Mutex::default() })
    }

    /// What the connection with this number meets.
    fn connection_fault(&self, number: u64) -> Option<Fault> {
        self.config.connections.or_else(|| self.config.rules.connection(number))
    }

    /// Lays rules over the script of a request, and takes a fault away that was met before.
    fn adapt(&self, number: u64, script: &mut Script) {
        if !self.config.rules.is_empty() {
            self.config.rules.apply(number, script);
        }
        if let Some(fault) = script.fault.filter(|fault| fault.is_transient()) {
            let id = format!("{fault} {}", script.id.as_deref().unwrap_or_default());
            let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
            // Bound: what is forgotten meets its fault once more.
            if met.len() >= MET_MAX {
                met.clear();
            }
            if !met.insert(id) {
                script.fault = None;
            }
        }
    }

    fn base_url(&self, addr: SocketAddr) -> String {
        let scheme = if self.config.tls { "https" } else { "http" };
        match self.config.connections {
            Some(Fault::DnsFailure) => {
                format!("{scheme}://nobody.ringmain-sim.invalid:{}/v1", addr.port())
            }
            _ => format!("{scheme}://{addr}/v1"),
        }
    }
}

/// A provider that listens and is yet to be served.
///
/// Connections are taken from the moment it exists and answered once [`Server::serve`] runs.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// What stands at the address.
#[derive(Debug)]
enum Listener {
    /// The address is taken, and nobody listens.
    Closed(TcpSocket),
    Open(TcpListener),
}

/// Access to a provider's log from anywhere, also after the provider is gone.
#[derive(Clone)]
pub struct LogHandle(Arc<Shared>);

/// A provider on a thread of its own. Dropped, it stops: its connections break off.
#[derive(Debug)]
pub struct Provider {
    addr: SocketAddr,
    log: LogHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens. Must be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(config: ProviderConfig) -> io::Result<Server> {
        let socket = match config.listen {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        if let Some(bytes) = config.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        socket.bind(config.listen)?;
        let addr = socket.local_addr()?;
        let listener = match config.connections {
            Some(Fault::ConnectRefused) => Listener::Closed(socket),
            // Bound: connections not yet accepted.
            _ => Listener::Open(socket.listen(4096)?),
        };
        if let Some(fault) = config.connections.filter(|fault| fault.place() != Place::Connection) {
            let reason = format!("{fault} is no fault of connections");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let shared = Arc::new(Shared::new(config)?);
        Ok(Server { listener, addr, shared })
    }

    /// The address listened on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL of its API.
    pub fn base_url(&self) -> String {
        self.shared.base_url(self.addr)
    }

    /// The authority that its clients are to trust, where TLS is spoken.
    pub fn ca_pem(&self) -> Option<&str> {
        self.shared.identity.as_ref().map(|identity| identity.ca_pem.as_str())
    }

    /// Its log.
    pub fn log(&self) -> LogHandle {
        LogHandle(Arc::clone(&self.shared))
    }

    /// Serves until `shutdown` is ready; what still runs is broken off then.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let listener = match self.listener {
            Listener::Open(listener) => listener,
            Listener::Closed(_socket) => return shutdown.await,
        };
        tokio::select! {
            () = connection::accept_all(listener, self.shared) => {}
            () = shutdown => {}
        }
    }
}

/// Serves on the calling thread until `shutdown` is ready. `ready` is told the address.
///
/// # Errors
/// When no runtime can be made or the address cannot be bound.
pub fn run_until(
    config: ProviderConfig,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    runtime()?.block_on(async {
        let server = Server::bind(config)?;
        ready(server.addr());
        server.serve(shutdown).await;
        Ok(())
    })
}

impl Provider {
    /// Starts a provider on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be made or the address cannot be bound.
    pub fn start(config: ProviderConfig) -> io::Result<Provider> {
        let runtime = runtime()?;
        let server = {
            let _inside = runtime.enter();
            Server::bind(config)?
        };
        let (addr, log) = (server.addr(), server.log());
        let (stop, stopped) = oneshot::channel::<()>();
        let thread =
            std::thread::Builder::new().name("sim-provider".to_owned()).spawn(move || {
                runtime.block_on(server.serve(async {
                    let _ = stopped.await;
                }));
            })?;
        Ok(Provider { addr, log, stop: Some(stop), thread: Some(thread) })
    }

    /// The address listened on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL of its API.
    pub fn base_url(&self) -> String {
        self.log.0.base_url(self.addr)
    }

    /// The authority that its clients are to trust, where TLS is spoken.
    pub fn ca_pem(&self) -> Option<&str> {
        self.log.0.identity.as_ref().map(|identity| identity.ca_pem.as_str())
    }

    /// All records as they stand now.
    pub fn log(&self) -> Vec<ProviderRecord> {
        self.log.records()
    }

    /// Access to the log that outlives the provider.
    pub fn log_handle(&self) -> LogHandle {
        self.log.clone()
    }

    /// Empties the log.
    pub fn reset_log(&self) {
        self.log.reset();
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has shown itself already; there is nobody to pass it to.
            let _ = thread.join();
        }
    }
}

impl LogHandle {
    /// All records as they stand now.
    pub fn records(&self) -> Vec<ProviderRecord> {
        self.0.log.snapshot()
    }

    /// Empties the log.
    pub fn reset(&self) {
        self.0.log.clear();
    }

    /// Waits until the records satisfy `done`, at most `patience`, and returns them; `None` when
    /// they did not in time.
    pub fn wait_for(
        &self,
        patience: Duration,
        mut done: impl FnMut(&[ProviderRecord]) -> bool,
    ) -> Option<Vec<ProviderRecord>> {
        let start = Instant::now();
        loop {
            let records = self.records();
            if done(&records) {
                return Some(records);
            }
            if start.elapsed() > patience {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").finish_non_exhaustive()
    }
}

/// One thread is enough for any load that two cores can consume, and costs least per token.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
