//! What the provider saw: one record per request, bounded, readable while streams run.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use http::HeaderMap;
use http::request::Parts;
use serde::{Deserialize, Serialize};

use crate::clock::now_ns;
use crate::fault::Fault;
use crate::plan::Plan;
use crate::text::{hash_whole, mix};

/// Most records kept; older ones make room.
pub const RECORDS_MAX: usize = 65_536;
// Bound: of one record in a snapshot.
const HEADERS_MAX: usize = 64;
const HEADER_VALUE_BYTES_MAX: usize = 512;
/// Headers whose value is a secret; only `authorization` leaves a hash behind.
const SECRETS: [&str; 5] =
    ["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"];

/// One request as the provider saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProviderRecord {
    /// Number of the request, from 1, in the order of arrival.
    pub number: u64,
    /// Number of the connection that carried it, from 1.
    pub connection: u64,
    /// `1.1` or `2`.
    pub http: String,
    /// Method.
    pub method: String,
    /// Path with its query.
    pub path: String,
    /// Headers, without the secret ones.
    pub headers: Vec<(String, String)>,
    /// Whether an `authorization` header came.
    pub authorization: bool,
    /// Hash of its value, 0 without one; the value is kept nowhere.
    pub authorization_hash: u64,
    /// Bytes of the request's body.
    pub body_bytes: u64,
    /// [`hash_whole`] of them.
    pub body_hash: u64,
    /// What was to be answered, once the request had been understood.
    pub plan: Option<Plan>,
    /// When the head of the request arrived.
    pub arrived_ns: u64,
    /// When the head of the answer was ready.
    pub head_ns: Option<u64>,
    /// Status of the answer.
    pub status: Option<u16>,
    /// When the stream's schedule began: token i was due at this + ttft + i x gap.
    pub schedule_ns: Option<u64>,
    /// Token events handed to the connection.
    pub tokens_sent: u64,
    /// Body bytes handed to the connection. It holds back at most 16 KiB that the socket has not
    /// taken (HTTP/2: one write).
    pub bytes_sent: u64,
    /// Running hash of the body, for an answer that is not streamed.
    pub answer_hash: Option<u64>,
    /// Whether the terminal marker of a stream was handed to the connection.
    pub marker_sent: bool,
    /// How it ended; `None`: not yet.
    pub ended: Option<Ended>,
}

/// The end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at_ns: u64,
    /// How.
    pub how: How,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum How {
    /// The client went away.
    ClientGone,
    /// The whole body was handed to the connection.
    Completed,
    /// The provider ended it as scripted.
    Fault(Fault),
}

impl ProviderRecord {
    /// The correlation id that the prompt gave, empty without one.
    pub fn id(&self) -> &str {
        self.plan.as_ref().and_then(|plan| plan.script.id.as_deref()).unwrap_or("")
    }

    /// The fault that the prompt asked for.
    pub fn fault(&self) -> Option<Fault> {
        self.plan.as_ref().and_then(|plan| plan.script.fault)
    }

    /// How it ended.
    pub fn how(&self) -> Option<How> {
        self.ended.map(|ended| ended.how)
    }

    /// When the client was seen to have gone.
    pub fn client_gone_ns(&self) -> Option<u64> {
        self.ended.filter(|ended| ended.how == How::ClientGone).map(|ended| ended.at_ns)
    }

    /// Value of a header, if it came.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// All requests seen, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Log {
    exchanges: Mutex<VecDeque<Arc<Exchange>>>,
    seen: AtomicU64,
}

/// A request while it runs: written by the task that answers it, read by snapshots.
#[derive(Debug)]
pub(crate) struct Exchange {
    number: u64,
    connection: u64,
    version: http::Version,
    method: http::Method,
    uri: http::Uri,
    headers: HeaderMap,
    authorization_hash: Option<u64>,
    arrived_ns: u64,
    request: OnceLock<(u64, u64)>,
    plan: OnceLock<Arc<Plan>>,
    head: OnceLock<(u64, u16)>,
    schedule_ns: OnceLock<u64>,
    tokens_sent: AtomicU64,
    bytes_sent: AtomicU64,
    answer_hash: OnceLock<u64>,
    marker_sent: AtomicBool,
    ended: OnceLock<Ended>,
}

/// The one owner of a running request. Dropped without an end, the client went away: the server
/// drops a handler or a body only then.
#[derive(Debug)]
pub(crate) struct Running(Arc<Exchange>);

impl Log {
    /// Opens the record of a request.
    pub(crate) fn open(&self, connection: u64, parts: Parts) -> Running {
        let number = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        let exchange = Arc::new(Exchange::new(number, connection, parts));
        let mut exchanges = self.lock();
        if exchanges.len() == RECORDS_MAX {
            exchanges.pop_front();
        }
        exchanges.push_back(Arc::clone(&exchange));
        Running(exchange)
    }

    /// A copy of all records as they stand.
    pub(crate) fn snapshot(&self) -> Vec<ProviderRecord> {
        // The lock is held for the cheap part only: streams run on while records are rendered.
        let exchanges: Vec<_> = self.lock().iter().cloned().collect();
        exchanges.iter().map(|exchange| exchange.snapshot()).collect()
    }

    /// Forgets everything; what runs goes on unrecorded.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Exchange>>> {
        // Nothing panics while holding it; a queue of finished facts stays readable anyway.
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// A `OnceLock` that is set already keeps its first value: the first fact is the true one.
impl Running {
    /// A request that no log holds.
    pub(crate) fn unlogged(connection: u64, parts: Parts) -> Running {
        Running(Arc::new(Exchange::new(0, connection, parts)))
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }

    pub(crate) fn body(&self, body: &[u8]) {
        let _ = self.0.request.set((body.len() as u64, hash_whole(body)));
    }

    pub(crate) fn plan(&self, plan: &Arc<Plan>) {
        let _ = self.0.plan.set(Arc::clone(plan));
    }

    pub(crate) fn head(&self, status: u16) {
        let _ = self.0.head.set((now_ns(), status));
    }

    pub(crate) fn schedule(&self) {
        let _ = self.0.schedule_ns.set(now_ns());
    }

    pub(crate) fn answer_hash(&self, hash: u64) {
        let _ = self.0.answer_hash.set(hash);
    }

    pub(crate) fn sent(&self, tokens: u64, bytes: usize) {
        self.0.tokens_sent.fetch_add(tokens, Ordering::Relaxed);
        self.0.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn marker_sent(&self) {
        self.0.marker_sent.store(true, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, how: How) {
        let _ = self.0.ended.set(Ended { at_ns: now_ns(), how });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended(How::ClientGone);
    }
}

impl Exchange {
    fn new(number: u64, connection: u64, parts: Parts) -> Exchange {
        let mut headers = parts.headers;
        let authorization_hash =
            headers.get("authorization").map(|value| mix(hash_whole(value.as_bytes())));
        for secret in SECRETS {
            headers.remove(secret);
        }
        Exchange {
            number,
            connection,
            version: parts.version,
            method: parts.method,
            uri: parts.uri,
            headers,
            authorization_hash,
            arrived_ns: now_ns(),
            request: OnceLock::new(),
            plan: OnceLock::new(),
            head: OnceLock::new(),
            schedule_ns: OnceLock::new(),
            tokens_sent: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            answer_hash: OnceLock::new(),
            marker_sent: AtomicBool::new(false),
            ended: OnceLock::new(),
        }
    }

    fn snapshot(&self) -> ProviderRecord {
        let (body_bytes, body_hash) = self.request.get().copied().unwrap_or_default();
        let headers = self.headers.iter().take(HEADERS_MAX).map(|(name, value)| {
            let value = &value.as_bytes()[..value.len().min(HEADER_VALUE_BYTES_MAX)];
            (name.as_str().to_owned(), String::from_utf8_lossy(value).into_owned())
        });
        ProviderRecord {
            number: self.number,
            connection: self.connection,
            http: if self.version == http::Version::HTTP_2 { "2" } else { "1.1" }.to_owned(),
            method: self.method.as_str().to_owned(),
            path: self.uri.path_and_query().map_or("", |path| path.as_str()).to_owned(),
            headers: headers.collect(),
            authorization: self.authorization_hash.is_some(),
            authorization_hash: self.authorization_hash.unwrap_or(0),
            body_bytes,
            body_hash,
            plan: self.plan.get().map(|plan| Plan::clone(plan)),
            arrived_ns: self.arrived_ns,
            head_ns: self.head.get().map(|head| head.0),
            status: self.head.get().map(|head| head.1),
            schedule_ns: self.schedule_ns.get().copied(),
            tokens_sent: self.tokens_sent.load(Ordering::Relaxed),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            answer_hash: self.answer_hash.get().copied(),
            marker_sent: self.marker_sent.load(Ordering::Relaxed),
            ended: self.ended.get().copied(),
        }
    }
}
