//! The client: clone it anywhere.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ringmain_shm::ForkMark;
use ringmain_wire::{Code, Geometry, Stage};

use crate::attach::arena_for;
use crate::body::Body;
use crate::call::{Call, Chat};
use crate::config::{Config, Wait};
use crate::error::{Error, Result};
use crate::outbox::{chunk_bytes, encode_head};
use crate::request::Request;
use crate::session::{Reserved, Session};
use crate::stream::Stream;

/// A client of this host's broker. Cloning is cheap, and clones share their sessions.
///
/// Nothing is attached before the first call, and nothing has to be repaired: when the broker
/// restarts, or after a `fork`, the next call attaches anew.
///
/// ```no_run
/// use ringmain_client::Client;
///
/// let client = Client::new()?;
/// let mut stream = client.chat("tiny").user("hello").stream()?;
/// while let Some(text) = stream.next_text()? {
///     print!("{text}");
/// }
/// # Ok::<(), ringmain_client::Error>(())
/// ```
///
/// Raw requests reach any API path of the endpoint, with a body written in place:
///
/// ```no_run
/// use std::io::Write;
/// use ringmain_client::Client;
///
/// let client = Client::new()?;
/// let reply = client
///     .request("tiny", "/embeddings")
///     .body_with(1024, |out| write!(out, r#"{{"model":"tiny","input":"{}"}}"#, "hello"))
///     .send()?;
/// println!("{} {}", reply.status(), String::from_utf8_lossy(&reply.body));
/// # Ok::<(), ringmain_client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
}

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
#[must_use = "nothing is built before `build`"]
pub struct ClientBuilder {
    config: Config,
    sessions_max: usize,
}

/// The sessions of a client.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) config: Config,
    pub(crate) sessions_max: usize,
    pub(crate) latest_epoch: Arc<AtomicU64>,
    fork: ForkMark,
    /// What a forked child uses in place of this pool, whose locks another thread may have held.
    child: OnceLock<Arc<Pool>>,
    // Bound: SESSIONS_IDLE_MAX.
    idle: Mutex<Vec<Session>>,
    /// Sessions that exist, idle or not.
    sessions: Arc<AtomicUsize>,
    #[cfg(feature = "tokio")]
    pub(crate) hubs: crate::hub::Hubs,
}

/// One session of a client's bound; counted down when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge(Arc<AtomicUsize>);

/// Sessions of one client, which is what a broker grants a uid by default.
const SESSIONS_MAX_DEFAULT: usize = 1024;
/// Sessions that are kept for the next call: one for each thread of a busy program.
const SESSIONS_IDLE_MAX: usize = 64;

// --- Client ----------------------------------------------------------------------------------

impl Client {
    /// A client with the defaults, at the socket that discovery finds (see [`Config::socket`]).
    ///
    /// # Errors
    /// Only when the kernel refuses a page of memory.
    pub fn new() -> Result<Client> {
        Client::builder().build()
    }

    /// A client with the defaults, with the broker at `socket`.
    ///
    /// # Errors
    /// Those of [`Client::new`].
    pub fn at(socket: impl AsRef<Path>) -> Result<Client> {
        Client::builder().socket(socket).build()
    }

    /// Settings other than the defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder { config: Config::default(), sessions_max: SESSIONS_MAX_DEFAULT }
    }

    /// A chat completion with `model`, the name of a route.
    pub fn chat<'a>(&'a self, model: &'a str) -> Chat<'a> {
        Chat::new(self, model)
    }

    /// A request to any API path of the endpoint that serves `route`. Its answer comes as plain
    /// bytes unless another [`Mode`](crate::Mode) is chosen; an error status of the provider is an
    /// answer then, told by [`Reply::status`](crate::Reply::status).
    pub fn request<'a>(&'a self, route: &'a str, path: &'a str) -> Call<'a> {
        Call::new(self, route, path)
    }

    /// Sends a request and returns the stream of its answer.
    ///
    /// # Errors
    /// `BrokerAbsent` naming every path tried, `NotAllowed`, `BodyTooLarge` with its limit,
    /// `InvalidHead`, `DeadlineExceeded`, and `WouldBlock` when no further session may be opened.
    /// Nothing was sent then.
    pub fn submit<B: Body>(&self, request: &Request<'_>, body: B) -> Result<Stream> {
        let pool = self.pool()?;
        let (mut session, reserved) = pool.check_out(request, body.bytes_max())?;
        match session.send(reserved, request, body) {
            Ok(exchange) => Ok(Stream::new(session, exchange, Arc::clone(pool))),
            Err(error) => {
                pool.give_back(session);
                Err(error)
            }
        }
    }

    /// [`Client::submit`] for async code: the exchange shares a session with others. The runtime
    /// needs I/O and time enabled, as `Builder::enable_all` and `#[tokio::main]` have it.
    ///
    /// # Errors
    /// Those of [`Client::submit`]; `InvalidRequest` outside of a tokio runtime.
    #[cfg(feature = "tokio")]
    pub async fn submit_async<B: Body>(
        &self,
        request: &Request<'_>,
        body: B,
    ) -> Result<crate::AsyncStream> {
        crate::hub::submit(self.pool()?, request, body).await
    }

    #[cfg(test)]
    pub(crate) fn pretend_fork(&self) {
        self.pool.fork.wipe();
    }

    /// The pool of this process.
    // Bound: one step per generation of forks.
    fn pool(&self) -> Result<&Arc<Pool>> {
        let mut pool = &self.pool;
        while pool.fork.is_child() {
            pool = match pool.child.get() {
                Some(child) => child,
                None => {
                    let child = Pool::new(pool.config.clone(), pool.sessions_max)?;
                    pool.child.get_or_init(|| Arc::new(child))
                }
            };
        }
        Ok(pool)
    }
}

// --- ClientBuilder ---------------------------------------------------------------------------

impl ClientBuilder {
    /// Path of the broker's socket, instead of discovery.
    pub fn socket(mut self, path: impl AsRef<Path>) -> Self {
        self.config.socket = Some(path.as_ref().to_owned());
        self
    }

    /// Lanes and arena of each session.
    pub fn geometry(mut self, geometry: Geometry) -> Self {
        self.config.geometry = geometry;
        self
    }

    /// How long an absent, draining or busy broker is asked again.
    pub fn attach_wait(mut self, wait: Duration) -> Self {
        self.config.attach_wait = wait;
        self
    }

    /// How blocking calls wait.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.config.wait = wait;
        self
    }

    /// A credential beyond that of the kernel (a JWT).
    pub fn credential(mut self, credential: impl Into<String>) -> Self {
        self.config.credential = credential.into();
        self
    }

    /// Most sessions to hold at once.
    pub fn sessions_max(mut self, sessions: usize) -> Self {
        self.sessions_max = sessions;
        self
    }

    /// Everything else, as a [`Session`] takes it.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The client. Nothing is attached yet.
    ///
    /// # Errors
    /// Only when the kernel refuses a page of memory.
    pub fn build(self) -> Result<Client> {
        Ok(Client { pool: Arc::new(Pool::new(self.config, self.sessions_max)?) })
    }
}

// --- Pool ------------------------------------------------------------------------------------

impl Pool {
    fn new(config: Config, sessions_max: usize) -> Result<Pool> {
        let fork = ForkMark::new().map_err(|error| {
            let text = format!("no page could be mapped: {error}");
            Error::new(Code::Internal, Stage::Attach, text).with_source(error)
        })?;
        Ok(Pool {
            config,
            sessions_max,
            latest_epoch: Arc::default(),
            fork,
            child: OnceLock::new(),
            idle: Mutex::default(),
            sessions: Arc::default(),
            #[cfg(feature = "tokio")]
            hubs: crate::hub::Hubs::default(),
        })
    }

    /// A session with lane and chunk taken: an idle one that has them, else a new one, with a
    /// larger arena when the body needs it.
    fn check_out(&self, request: &Request<'_>, body_bytes_max: u64) -> Result<(Session, Reserved)> {
        let mut head = encode_head(&request.head)?;
        let chunk_bytes = chunk_bytes(head.len(), body_bytes_max);
        let mut passed_over = Vec::new();
        // Bound: the idle sessions there are.
        loop {
            let Some(mut session) = self.idle().pop() else {
                self.put_back(passed_over);
                return self.open(request, head, body_bytes_max, chunk_bytes);
            };
            match session.reserve(request, head, body_bytes_max) {
                Ok(reserved) => {
                    self.put_back(passed_over);
                    return Ok((session, reserved));
                }
                Err((_, Some(same))) => {
                    passed_over.push(session);
                    head = same;
                }
                Err((error, None)) => {
                    passed_over.push(session);
                    self.put_back(passed_over);
                    return Err(error);
                }
            }
        }
    }

    fn open(
        &self,
        request: &Request<'_>,
        head: Vec<u8>,
        body_bytes_max: u64,
        chunk_bytes: u64,
    ) -> Result<(Session, Reserved)> {
        let config = self.config_for(chunk_bytes, body_bytes_max)?;
        let charge = Some(self.charge()?);
        let latest_epoch = Arc::clone(&self.latest_epoch);
        let mut session = Session::detached(config.clone(), latest_epoch, charge);
        match session.reserve(request, head, body_bytes_max) {
            Ok(reserved) => Ok((session, reserved)),
            Err((error, _)) => Err(self.too_large(error, &config, body_bytes_max)),
        }
    }

    /// The configuration of a session whose arena holds a chunk of this size.
    pub(crate) fn config_for(&self, chunk_bytes: u64, body_bytes_max: u64) -> Result<Config> {
        let Some(geometry) = arena_for(&self.config.geometry, chunk_bytes) else {
            let limit = ringmain_wire::limits::ARENA_BYTES_MAX;
            return Err(Error::body_too_large(limit, body_bytes_max));
        };
        let mut config = self.config.clone();
        config.quota_is_final = geometry != config.geometry;
        config.geometry = geometry;
        Ok(config)
    }

    /// What the refusal of a session with a larger arena means for the body.
    pub(crate) fn too_large(&self, error: Error, config: &Config, body_bytes_max: u64) -> Error {
        let default_bytes = self.config.geometry.arena_bytes();
        let enlarged = config.geometry.arena_bytes() != default_bytes;
        if enlarged && error.code() == Code::QuotaExceeded {
            return Error::body_too_large(default_bytes, body_bytes_max);
        }
        error
    }

    /// Counts one more session.
    pub(crate) fn charge(&self) -> Result<Charge> {
        let below_max = |sessions| (sessions < self.sessions_max).then_some(sessions + 1);
        let charged = self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below_max);
        charged.map(|_| Charge(Arc::clone(&self.sessions))).map_err(|_| {
            let text = format!(
                "all {} sessions of this client are taken; read or drop a stream first",
                self.sessions_max
            );
            Error::new(Code::WouldBlock, Stage::Submit, text)
        })
    }

    /// Takes a session back whose stream is over.
    pub(crate) fn give_back(&self, session: Session) {
        if self.fork.is_child() {
            // Its lock may be held for ever here; the session itself knows what to leave alone.
            return;
        }
        self.put_back(vec![session]);
    }

    fn put_back(&self, sessions: Vec<Session>) {
        for session in sessions {
            let mut idle = self.idle();
            if idle.len() < SESSIONS_IDLE_MAX && session.is_idle() {
                idle.push(session);
            }
        }
    }

    /// A panic elsewhere leaves the list whole, so a poisoned lock is none.
    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
