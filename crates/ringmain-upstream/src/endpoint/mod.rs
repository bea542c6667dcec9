//! One endpoint: an address, a credential, and the connections to it.

mod count;
pub(crate) mod failure;
mod head;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use reqwest::{Client, Request, Url, redirect, retry};
use ringmain_wire::head::Method;
use ringmain_wire::{Code, Flags, Mode, Sent, Stage};
use thiserror::Error;

use crate::answer::{Answer, AnswerBody};
use crate::body::{RequestBody, Witness};
use crate::call::{Call, Phase};
use crate::config::{EndpointConfig, Http2, Stored, UsageSplice};
use crate::decode::DecoderConfig;
use crate::dialect::Translation;
use crate::encoding::Expander;
use crate::error::UpstreamError;
use crate::key::{Credential, KeyError};
use crate::reach;
use crate::splice::{Spliced, Wanted, splice};

/// Most unused connections that are kept.
const IDLE_CONNECTIONS_MAX: usize = 256;
/// How long a server may leave sent bytes untaken before the kernel gives its connection up. The
/// HTTP client flushes before it closes, so an abandoned request that the server does not read
/// keeps its connection, and a body that was lent to it, for this long at most.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an unused connection is probed by TCP.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// An endpoint, ready to be called from any task.
pub struct Endpoint {
    config: EndpointConfig,
    /// The base address without a slash at its end.
    base: String,
    client: Client,
    /// Held for a clone only, never across an await.
    credential: RwLock<Option<Credential>>,
    /// Whether the endpoint has refused to be asked for usage.
    usage_refused: AtomicBool,
    opened: count::CountConnections,
    requests: AtomicU64,
    answers: AtomicU64,
    witness: OnceLock<Witness>,
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
    /// The HTTP client could not be built.
    #[error("endpoint {endpoint}: the HTTP client could not be built: {reason}")]
    Client {
        /// Name of the endpoint.
        endpoint: String,
        /// What it said.
        reason: String,
    },
}

/// Counts since the endpoint was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Connections opened.
    pub connections_opened: u64,
    /// Answers that needed no new connection.
    pub connections_reused: u64,
    /// Requests handed to the HTTP client.
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
        let base = check_base(&config)?;
        let credential = load_key(&config)?;
        let opened = count::CountConnections::default();
        let client = build_client(&config, opened.clone()).map_err(|error| {
            let (endpoint, reason) = (config.name.clone(), error.to_string());
            EndpointError::Client { endpoint, reason }
        })?;
        Ok(Endpoint {
            config,
            base,
            client,
            credential: RwLock::new(credential),
            usage_refused: AtomicBool::new(false),
            opened,
            requests: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            witness: OnceLock::new(),
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

    /// Lets a test see where the bodies stand that the HTTP client takes. The first witness stays.
    pub fn set_witness(&self, witness: Witness) {
        let _ = self.witness.set(witness);
    }

    /// Counts since it was made.
    pub fn stats(&self) -> EndpointStats {
        let answers = self.answers.load(Relaxed);
        let connections_opened = self.opened.0.load(Relaxed);
        EndpointStats {
            connections_opened,
            connections_reused: answers.saturating_sub(connections_opened),
            requests: self.requests.load(Relaxed),
            answers,
        }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// No time limit but the connect timeout is applied here, and nothing is tried twice, with one
    /// exception: an endpoint that refuses a request (400 or 422) for the `stream_options` that we
    /// put in gets it once more without them, unless the caller wants it done once; if that is
    /// good, it is not asked for usage again. [`Progress`](crate::Progress) counts both.
    ///
    /// Of an answer 401 or 403 the provider's words are withheld, in every mode.
    ///
    /// Cancel-safe: dropping the future drops the request; [`Call::progress`] tells what was known
    /// of it.
    ///
    /// # Errors
    /// [`UpstreamError`] with the stage, and with `sent` = no only where that is proven.
    pub async fn send(&self, call: Call<'_>) -> Result<Answer, UpstreamError> {
        self.keep_stored(&call)?;
        let Some(translation) = Translation::of(&self.config, &call)? else {
            return self.send_own(call).await;
        };
        let head = translation.head(call.head);
        let answer = self.send_own(translation.call(&head, &call)).await?;
        Ok(translation.answer(answer))
    }

    /// Sends a request in the endpoint's own dialect.
    async fn send_own(&self, call: Call<'_>) -> Result<Answer, UpstreamError> {
        let (mut answer, injected) = self.attempt(&call, self.may_ask_for_usage(&call)).await?;
        let refused = injected && matches!(answer.status, 400 | 422);
        let may_repeat = !call.flags.has(Flags::ONCE);
        if refused && may_repeat && answer.body.names("stream_options").await {
            answer.body.settle().await;
            (answer, _) = self.attempt(&call, false).await?;
            // What a refusal says, a caller can have put into its mouth. That the same request
            // is good without our words proves that they were what was refused.
            if (200..300).contains(&answer.status) {
                self.usage_refused.store(true, Relaxed);
            }
        }
        if matches!(answer.status, 401 | 403) {
            answer.withhold_words().await;
        }
        Ok(answer)
    }

    /// Whether the body of this call will be looked into. If not, it goes out from where it lies
    /// and may be lent by its writer; once no, it stays no.
    pub fn looks_into(&self, call: &Call<'_>) -> bool {
        call.model.is_some()
            || self.may_ask_for_usage(call)
            || Translation::is_needed(self.config.dialect, call.head)
    }

    /// What the provider stored for one caller is not for the others.
    fn keep_stored(&self, call: &Call<'_>) -> Result<(), UpstreamError> {
        let (method, path) = (call.head.method, call.head.path);
        if self.config.stored == Stored::Shared || !reach::touches_stored(method, path) {
            return Ok(());
        }
        let message = format!(
            "endpoint {} serves no DELETE, and no GET but that of models, unless its configuration \
             says stored = \"shared\"",
            self.config.name
        );
        Err(UpstreamError::new(Code::NotAllowed, Stage::Intake, Sent::No, message))
    }

    fn may_ask_for_usage(&self, call: &Call<'_>) -> bool {
        let path = call.head.path.split('?').next().unwrap_or_default();
        self.config.usage == UsageSplice::Inject
            && !self.usage_refused.load(Relaxed)
            && matches!(call.mode, Mode::Deltas | Mode::Events)
            && !call.flags.has(Flags::USAGE_REQUESTED)
            && path.ends_with("/completions")
    }

    /// One request. Also tells whether usage was asked for on behalf of the caller.
    async fn attempt(&self, call: &Call<'_>, usage: bool) -> Result<(Answer, bool), UpstreamError> {
        let has_body = call.head.method == Method::Post;
        let spliced = match has_body {
            true => self.spliced(call, usage)?,
            false => Spliced { pieces: Vec::new(), usage_injected: false },
        };
        let usage_injected = spliced.usage_injected;
        let request = self.request(call, spliced, has_body)?;
        self.requests.fetch_add(1, Relaxed);
        let sent = self.client.execute(request).await;
        let response = sent.map_err(|e| failure::of_send(e, &self.config.name, &call.progress))?;
        self.answers.fetch_add(1, Relaxed);
        call.progress.reach(Phase::Answered);
        self.answer(call, response, usage_injected).map(|answer| (answer, usage_injected))
    }

    fn spliced(&self, call: &Call<'_>, usage: bool) -> Result<Spliced, UpstreamError> {
        splice(&call.body, Wanted { model: call.model, usage }).map_err(|error| {
            let message = format!(
                "endpoint {} needs its own model name in the request: {error}",
                self.config.name
            );
            UpstreamError::new(Code::InvalidRequest, Stage::Intake, Sent::No, message)
        })
    }

    fn request(
        &self,
        call: &Call<'_>,
        spliced: Spliced,
        has_body: bool,
    ) -> Result<Request, UpstreamError> {
        let url = Url::parse(&format!("{}{}", self.base, call.head.path)).map_err(|error| {
            let message = format!("the path cannot stand in an address: {error}");
            UpstreamError::new(Code::InvalidHead, Stage::Intake, Sent::No, message)
        })?;
        let mut request = Request::new(head::method(call.head), url);
        *request.headers_mut() = head::request_headers(call.head, has_body);
        head::complete(request.headers_mut(), self.config.dialect);
        let silent = spliced.pieces.iter().all(|piece| piece.is_empty());
        call.progress.restart(if silent { Phase::Blind } else { Phase::Connecting });
        if has_body {
            let body = RequestBody::new(spliced.pieces, call.progress.clone());
            let body = body.witnessed(self.witness.get().cloned());
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        // Last, behind everything that a caller can have said.
        let credential = self.credential.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(credential) = &*credential {
            request.headers_mut().insert(credential.name(), credential.header());
        }
        Ok(request)
    }

    fn answer(
        &self,
        call: &Call<'_>,
        response: reqwest::Response,
        usage_injected: bool,
    ) -> Result<Answer, UpstreamError> {
        let status = response.status().as_u16();
        let kept = head::keep(response.headers(), SystemTime::now());
        let expander = Expander::for_answer(response.headers(), self.config.expanded_bytes_max)
            .map_err(|error| UpstreamError { http_status: Some(status), ..error })?;
        let reading = DecoderConfig {
            dialect: self.config.dialect,
            retry_after_ms: kept.retry_after_ms,
            event_bytes_max: self.config.event_bytes_max,
            plain_bytes_max: self.config.plain_bytes_max,
            withhold_usage: usage_injected,
            ..DecoderConfig::new(call.mode, call.head.path, status, kept.content_type.clone())
        };
        Ok(Answer {
            status,
            content_type: kept.content_type,
            request_id: kept.request_id,
            headers: kept.headers,
            retry_after_ms: kept.retry_after_ms,
            should_retry: kept.should_retry,
            body: AnswerBody::new(response, expander),
            reading,
        })
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("name", &self.config.name)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

fn load_key(config: &EndpointConfig) -> Result<Option<Credential>, EndpointError> {
    let named = |source| EndpointError::Key { endpoint: config.name.clone(), source };
    Credential::load(&config.key, config.dialect).map_err(named)
}

/// Judges the base address and takes the slash off its end.
fn check_base(config: &EndpointConfig) -> Result<String, EndpointError> {
    let fail = |url: String, reason| {
        Err(EndpointError::BaseUrl { endpoint: config.name.clone(), url, reason })
    };
    // What cannot be taken apart is not repeated: it could be a key in the wrong place.
    let Ok(url) = Url::parse(&config.base_url) else {
        return fail(String::new(), "it is not an address such as https://host/v1");
    };
    let shown = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
    match () {
        () if !matches!(url.scheme(), "http" | "https") => fail(shown, "neither http nor https"),
        () if url.host_str().is_none_or(str::is_empty) => fail(shown, "it names no host"),
        () if !url.username().is_empty() || url.password().is_some() => {
            fail(shown, "it holds a user name or password; use key_file")
        }
        () if url.query().is_some() || url.fragment().is_some() => {
            fail(shown, "it holds a query or fragment")
        }
        () => Ok(url.as_str().trim_end_matches('/').to_owned()),
    }
}

fn build_client(
    config: &EndpointConfig,
    opened: count::CountConnections,
) -> Result<Client, reqwest::Error> {
    let builder = Client::builder()
        .user_agent(concat!("ringmain/", env!("CARGO_PKG_VERSION")))
        // The environment of a broker is not its configuration.
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(config.idle_timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .tcp_nodelay(true)
        .tcp_keepalive(TCP_KEEPALIVE)
        .tcp_user_timeout(TCP_USER_TIMEOUT)
        .connector_layer(opened);
    match config.http2 {
        Http2::Negotiated => builder,
        Http2::PriorKnowledge => builder.http2_prior_knowledge(),
        Http2::Off => builder.http1_only(),
    }
    .build()
}
