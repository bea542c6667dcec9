//! An OpenAI-compatible provider over real HTTP/1.1 and HTTP/2 (cleartext), steered by prompts.
//!
//! [`Server`] is the provider inside a runtime that the caller owns, [`Provider`] the same on a
//! thread of its own, for tests and programs that have no runtime. Neither prints anything.
//!
//! | method, path (with or without `/v1`) | answer |
//! |---|---|
//! | `POST /chat/completions`, `/completions` | a stream or a whole answer |
//! | `POST /responses` | a recording |
//! | `POST /embeddings` | deterministic vectors, as numbers or base64 |
//! | `GET /models`, `/models/NAME` | a few names; any name is served |
//! | `GET /sim/log` | the log, one [`ProviderRecord`] as JSON per line |
//! | `POST /sim/reset` | empties the log |

mod answer;
mod ask;
mod connection;
mod log;
pub(crate) mod replay;
mod stream;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

pub use answer::embedding_of;
pub use log::{Ended, How, ProviderRecord, RECORDS_MAX};

use log::Log;

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
}

impl Default for ProviderConfig {
    fn default() -> ProviderConfig {
        ProviderConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            replay_dir: None,
            seed: 0,
            send_buffer_bytes: None,
            h2_streams_max: 256,
        }
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    config: ProviderConfig,
    log: Log,
}

/// A provider that listens and is yet to be served.
///
/// Connections are taken from the moment it exists and answered once [`Server::serve`] runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    shared: Arc<Shared>,
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
        // Bound: connections not yet accepted.
        let listener = socket.listen(4096)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { config, log: Log::default() });
        Ok(Server { listener, addr, shared })
    }

    /// The address listened on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its log.
    pub fn log(&self) -> LogHandle {
        LogHandle(Arc::clone(&self.shared))
    }

    /// Serves until `shutdown` is ready; what still runs is broken off then.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = connection::accept_all(self.listener, self.shared) => {}
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
        format!("http://{}/v1", self.addr)
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
