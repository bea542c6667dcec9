//! One endpoint: an address, a credential, and the connections to it.

mod address;
mod attempt;
pub(crate) mod failure;
mod head;
mod header;
mod probe;
mod repeats;
mod uris;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Response};
use ringmain_wire::{Code, Flags, Mode, Sent, Stage};
use thiserror::Error;
use tokio::runtime::Handle;

pub use header::check_header;
pub use probe::{Health, check_probe};

use self::attempt::Manner;
use self::repeats::Repeats;
use self::uris::Uris;
use crate::answer::{Answer, AnswerBody};
use crate::body::Witness;
use crate::call::Call;
use crate::compress::Encoder;
use crate::config::{EndpointConfig, Stored, UsageSplice};
use crate::decode::DecoderConfig;
use crate::dialect::Translation;
use crate::encoding::Expander;
use crate::error::UpstreamError;
use crate::flow::Flow;
use crate::key::{Credential, KeyError};
use crate::pool::{AnswerStream, Lease, Pool, PoolGauges, Unfit};
use crate::reach;

/// An endpoint, ready to be called from any task.
pub struct Endpoint {
    config: EndpointConfig,
    uris: Uris,
    pool: Pool,
    /// Held for a clone only, never across an await.
    credential: RwLock<Option<Credential>>,
    /// Whether the endpoint has refused to be asked for usage.
    usage_refused: AtomicBool,
    requests: AtomicU64,
    answers: AtomicU64,
    witness: OnceLock<Witness>,
    encoder: Encoder,
    repeats: Repeats,
    /// Sent with every request.
    headers: HeaderMap,
    pulse: probe::Pulse,
    is_probed: AtomicBool,
}

/// A key that was read and is not yet in use.
#[derive(Debug)]
pub struct FreshKey(Option<Credential>);

/// Why an endpoint could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The address cannot be used.
    #[error("base_url {url:?} of endpoint {endpoint}: {reason}")]
    BaseUrl {
        /// Name of the endpoint.
        endpoint: String,
        /// The address as given, without what may be a secret.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The key cannot be used.
    #[error("key of endpoint {endpoint}: {source}")]
    Key {
        /// Name of the endpoint.
        endpoint: String,
        /// What is wrong.
        source: KeyError,
    },
    /// No connection could be made as it is configured.
    #[error("endpoint {endpoint}: {reason}")]
    Client {
        /// Name of the endpoint.
        endpoint: String,
        /// The key of its configuration.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl EndpointError {
    /// The key of the endpoint's configuration that is at fault.
    pub fn key(&self) -> &'static str {
        match self {
            EndpointError::BaseUrl { .. } => "base_url",
            EndpointError::Key { .. } => "key_file",
            EndpointError::Client { key, .. } => key,
        }
    }
}

/// Counts since the endpoint was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Connections opened.
    pub connections_opened: u64,
    /// Answers that needed no new connection.
    pub connections_reused: u64,
    /// Requests that were given to a connection, or waited for one.
    pub requests: u64,
    /// Answers whose head arrived.
    pub answers: u64,
}

impl Endpoint {
    /// Checks the configuration and reads the key. No connection is made yet.
    ///
    /// # Errors
    /// [`EndpointError`] names the endpoint and what is wrong with it.
    pub fn new(config: EndpointConfig) -> Result<Endpoint, EndpointError> {
        let address::Address { base, unix } = address::check(&config)?;
        let credential = load_key(&config)?;
        let client = |Unfit { key, reason }| EndpointError::Client {
            endpoint: config.name.clone(),
            key,
            reason,
        };
        let headers = header::fields(&config.headers);
        let headers = headers.map_err(Unfit::of("headers")).map_err(client)?;
        let pool = Pool::new(&config, &base, unix).map_err(client)?;
        let encoder = Encoder::new(config.request_encoding, config.encode_above);
        Ok(Endpoint {
            config,
            uris: Uris::below(base.as_str().trim_end_matches('/').to_owned()),
            pool,
            credential: RwLock::new(credential),
            usage_refused: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            witness: OnceLock::new(),
            encoder,
            repeats: Repeats::default(),
            headers,
            pulse: probe::Pulse::default(),
            is_probed: AtomicBool::new(false),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its configuration.
    pub fn config(&self) -> &EndpointConfig {
        &self.config
    }

    /// Reads the key again and leaves the one in use alone: a reload changes something only after
    /// everything that it needs was read.
    ///
    /// # Errors
    /// [`EndpointError::Key`].
    pub fn read_key(&self) -> Result<FreshKey, EndpointError> {
        load_key(&self.config).map(FreshKey)
    }

    /// Uses this key from now on. Requests that are under way keep the one that they were sent
    /// with.
    pub fn use_key(&self, key: FreshKey) {
        *self.credential.write().unwrap_or_else(PoisonError::into_inner) = key.0;
    }

    /// Lets a test see where the bodies stand that connections take. The first witness stays.
    pub fn set_witness(&self, witness: Witness) {
        let _ = self.witness.set(witness);
    }

    /// Counts since it was made.
    pub fn stats(&self) -> EndpointStats {
        let answers = self.answers.load(Relaxed);
        let gauges = self.pool.gauges();
        EndpointStats {
            connections_opened: gauges.opened,
            connections_reused: gauges.reused,
            requests: self.requests.load(Relaxed),
            answers,
        }
    }

    /// Has its connections kept from now on: those of the floor are made, and made again when they
    /// are lost. Without it they are from the first request on. Has it probed, too, if that is
    /// configured. Told again it changes nothing; without a runtime it does nothing.
    pub fn start(self: &Arc<Endpoint>) {
        self.pool.keep();
        if let Some(probe) = &self.config.probe
            && Handle::try_current().is_ok()
            && !self.is_probed.swap(true, Relaxed)
        {
            probe::start(self, probe);
        }
    }

    /// What the last probe has shown.
    pub fn health(&self) -> Health {
        self.pulse.health()
    }

    /// Has each probe told from now on: whether it was answered well. Whoever asks last is told.
    pub fn on_check(&self, tell: impl Fn(bool) + Send + Sync + 'static) {
        self.pulse.listen(Arc::new(tell));
    }

    /// Its connections now.
    pub fn gauges(&self) -> PoolGauges {
        self.pool.gauges()
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// No time limit but the connect timeout is applied here, and nothing is tried twice, with one
    /// exception: an endpoint that refuses what we did to a request gets it once more without. It
    /// refuses the `stream_options` that we put in (400 or 422), or our content coding (415, or
    /// 400 while it has not taken one), and what it refused is not tried again. Not so where the
    /// caller wants the request done once, nor while too many requests of late were refused
    /// either way. [`Progress`](crate::Progress) counts both.
    ///
    /// Of an answer 401 or 403 the provider's words are withheld, in every mode.
    ///
    /// Cancel-safe: dropping the future drops the request; [`Call::progress`] tells what was known
    /// of it.
    ///
    /// # Errors
    /// [`UpstreamError`] with the stage, and with `sent` = no only where that is proven.
    pub async fn send(&self, call: Call<'_>) -> Result<Box<Answer>, UpstreamError> {
        self.keep_stored(&call)?;
        self.keep_as_judged(&call)?;
        let Some(translation) = Translation::of(&self.config, &call)? else {
            return self.send_own(call).await;
        };
        let head = translation.head(call.head);
        let answer = self.send_own(translation.call(&head, &call)).await?;
        Ok(translation.answer(answer))
    }

    /// Sends a request in the endpoint's own dialect.
    async fn send_own(&self, call: Call<'_>) -> Result<Box<Answer>, UpstreamError> {
        let usage = self.may_ask_for_usage(&call);
        let (mut answer, mut sent) = self.attempt(&call, Manner { usage, plain: false }).await?;
        if let Some(coding) = sent.coding
            && self.may_repeat(&call)
            && self.encoder.may_object(coding, answer.status)
        {
            answer.body.settle().await;
            (answer, sent) = self.attempt(&call, Manner { usage, plain: true }).await?;
            // A refusal of the plain body, too, is one of the request, which a caller made.
            match answer.status < 400 {
                true => self.encoder.refused(coding),
                false => self.repeats.was_fruitless(Instant::now()),
            }
        }
        let refused = sent.usage_injected && matches!(answer.status, 400 | 422);
        if refused && self.may_repeat(&call) && answer.body.names("stream_options").await {
            answer.body.settle().await;
            (answer, _) = self.attempt(&call, Manner { usage: false, plain: true }).await?;
            // What a refusal says, a caller can have put into its mouth. That the same request
            // is good without our words proves that they were what was refused.
            match (200..300).contains(&answer.status) {
                true => self.usage_refused.store(true, Relaxed),
                false => self.repeats.was_fruitless(Instant::now()),
            }
        }
        if matches!(answer.status, 401 | 403) {
            answer.withhold_words().await;
        }
        Ok(answer)
    }

    /// Whether a call that was refused may be made once more.
    fn may_repeat(&self, call: &Call<'_>) -> bool {
        !call.flags.has(Flags::ONCE) && self.repeats.may(Instant::now())
    }

    /// Whether the body of this call will be looked into. If not, it goes out from where it lies
    /// and may be lent by its writer; once no, it stays no.
    pub fn looks_into(&self, call: &Call<'_>) -> bool {
        call.model.is_some()
            || self.may_ask_for_usage(call)
            || self.encoder.is_on()
            || Translation::is_needed(self.config.dialect, call.head)
    }

    /// A request whose model is put in must be one that the provider reads like we do.
    fn keep_as_judged(&self, call: &Call<'_>) -> Result<(), UpstreamError> {
        if call.model.is_none() {
            return Ok(());
        }
        reach::reads_as_judged(call.head).map_err(|error| {
            let message = format!("endpoint {}: {error}", self.config.name);
            UpstreamError::new(Code::InvalidRequest, Stage::Intake, Sent::No, message)
        })
    }

    /// What the provider stored for one caller is not for the others.
    fn keep_stored(&self, call: &Call<'_>) -> Result<(), UpstreamError> {
        let (method, path) = (call.head.method, call.head.path);
        if self.config.stored == Stored::Shared || !reach::touches_stored(method, path) {
            return Ok(());
        }
        let message = format!(
            "endpoint {} serves no DELETE, no GET but that of models, and no POST that acts on what is \
             stored, unless its configuration says stored = \"shared\"",
            self.config.name
        );
        Err(UpstreamError::new(Code::NotAllowed, Stage::Intake, Sent::No, message))
    }

    fn may_ask_for_usage(&self, call: &Call<'_>) -> bool {
        self.config.usage == UsageSplice::Inject
            && !self.usage_refused.load(Relaxed)
            && matches!(call.mode, Mode::Deltas | Mode::Events)
            && !call.flags.has(Flags::USAGE_REQUESTED)
            && reach::without_query(call.head.path).ends_with("/completions")
    }

    fn answer(
        &self,
        call: &Call<'_>,
        response: Response<AnswerStream>,
        lease: Lease,
        sent: attempt::Outline,
    ) -> Result<Box<Answer>, UpstreamError> {
        let status = response.status().as_u16();
        let kept = head::keep(response.headers(), SystemTime::now);
        let expander = Expander::for_answer(response.headers(), self.config.expanded_bytes_max)
            .map_err(|error| UpstreamError { http_status: Some(status), ..error })?;
        let reading = DecoderConfig {
            dialect: self.config.dialect,
            retry_after_ms: kept.retry_after_ms,
            event_bytes_max: self.config.event_bytes_max,
            plain_bytes_max: self.config.plain_bytes_max,
            withhold_usage: sent.usage_injected,
            ..DecoderConfig::new(call.mode, call.head.path, status, kept.content_type.clone())
        };
        let flow = Flow::new(response, lease, call.progress.clone(), sent.body_bytes);
        // It is handed through many a future, each of which would have it moved.
        Ok(Box::new(Answer {
            status,
            content_type: kept.content_type,
            request_id: kept.request_id,
            headers: kept.headers,
            retry_after_ms: kept.retry_after_ms,
            should_retry: kept.should_retry,
            body: AnswerBody::new(flow, expander),
            reading,
        }))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("name", &self.config.name)
            .field("base", &self.uris.base())
            .finish_non_exhaustive()
    }
}

fn load_key(config: &EndpointConfig) -> Result<Option<Credential>, EndpointError> {
    let named = |source| EndpointError::Key { endpoint: config.name.clone(), source };
    Credential::load(&config.key, config.dialect).map_err(named)
}
