//! One request on one connection.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderValue, USER_AGENT};
use http::{Request, Response};
use ringmain_wire::head::Method;
use ringmain_wire::{Code, Sent, Stage};
use tokio::time::timeout;

use super::{Endpoint, failure, head};
use crate::answer::Answer;
use crate::body::RequestBody;
use crate::call::{Call, Phase};
use crate::clock::instant;
use crate::compress::{Coding, Trial};
use crate::config::Dialect;
use crate::error::UpstreamError;
use crate::pool::{AnswerStream, Broken, Lease, NoPlace};
use crate::splice::{Spliced, Wanted, splice};

/// Most connections that may turn out to have no place for the request: they end just as they are
/// to take it, or take fewer streams than was known.
const ROUNDS_MAX: u32 = 3;

/// Who asks, where neither the caller nor the configuration says it.
const AGENT: &str = concat!("ringmain/", env!("CARGO_PKG_VERSION"));

/// Fields of most requests beside those of their callers and of the dialect: what is accepted twice,
/// what the body is, who asks, by which credential, and whom. The map has just room for those in
/// memory of a size that the allocator keeps at hand.
const FIELDS: usize = 6;

/// What is done to a request on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Usage is asked for, where the caller did not.
    pub usage: bool,
    /// The body is not compressed.
    pub plain: bool,
}

/// A body as it goes out.
struct Sending {
    pieces: Vec<Bytes>,
    outline: Outline,
}

/// What is remembered of a request that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outline {
    pub body_bytes: u64,
    /// Whether usage was asked for on behalf of the caller.
    pub usage_injected: bool,
    /// How the body was compressed.
    pub coding: Option<Coding>,
    trial: Option<Trial>,
}

impl Endpoint {
    /// One request. Also tells what was done to it.
    pub(super) async fn attempt(
        &self,
        call: &Call<'_>,
        manner: Manner,
    ) -> Result<(Box<Answer>, Outline), UpstreamError> {
        call.progress.restart(Phase::Queued);
        self.requests.fetch_add(1, Relaxed);
        let sending = self.prepare(call, manner).await?;
        call.progress.renew();
        let outline = sending.outline;
        let mut rounds = 0;
        // Bound: `ROUNDS_MAX` connections, and one more.
        loop {
            let mut lease = self.place(call).await?;
            call.progress.reach(Phase::Connecting);
            let error = match self.execute(call, &sending, &mut lease).await? {
                Ok(response) => {
                    self.answers.fetch_add(1, Relaxed);
                    call.progress.reach(Phase::Answered);
                    if let Some(trial) = outline.trial
                        && response.status().is_success()
                    {
                        self.encoder.took(trial);
                    }
                    let answer = self.answer(call, response, lease, outline)?;
                    return Ok((answer, outline));
                }
                Err(broken) => broken,
            };
            let is_refused = failure::is_refused_stream(&error);
            let may_go_on = match &error {
                _ if is_refused => lease.refused(),
                // One that never took a request is no stale one: its server is told of as failing.
                Broken::Spent => lease.spent(),
                Broken::Unconnected(_) | Broken::Unspoken(_) => {
                    let error = self.error_of(&error, call);
                    lease.not_made(&error);
                    return Err(error);
                }
                Broken::Unanswered(error) => {
                    lease.failed(failure::of_connection(error));
                    false
                }
            };
            rounds += 1;
            if !may_go_on || rounds > ROUNDS_MAX {
                return Err(self.error_of(&error, call));
            }
            // Those that were refused together are counted before one of them goes on.
            tokio::task::yield_now().await;
            // Nothing was processed: another connection takes the request.
            call.progress.again();
            if is_refused {
                // The provider has seen it, though.
                call.progress.count();
            }
        }
    }

    /// Sends a request on its place. The connection for it is made within the limit of the pool,
    /// which is that of the most patient route, or within the caller's own.
    async fn execute(
        &self,
        call: &Call<'_>,
        sending: &Sending,
        lease: &mut Lease,
    ) -> Result<Result<Response<AnswerStream>, Broken>, UpstreamError> {
        let mut request = self.request(call, sending)?;
        let limit = call.connect.filter(|limit| *limit < self.config.connect_timeout);
        let ready = match limit {
            Some(limit) if !lease.is_made() => {
                // What would have connected is dropped: nothing of the request goes out.
                timeout(limit, lease.ready()).await.map_err(|_| {
                    call.progress.again();
                    let message =
                        format!("endpoint {}: no connection within {limit:?}", self.config.name);
                    UpstreamError::new(Code::ConnectTimeout, Stage::Connect, Sent::No, message)
                })?
            }
            _ => lease.ready().await,
        };
        if let Err(broken) = ready {
            return Ok(Err(broken));
        }
        if !lease.tell_blind(&call.progress, sending.outline.body_bytes == 0) {
            let message = format!("endpoint {}: the request was given up", self.config.name);
            return Err(UpstreamError::new(Code::Cancelled, Stage::Connect, Sent::No, message));
        }
        if call.head.method == Method::Post {
            request.body_mut().put_on(lease.stream());
        }
        lease.address(&mut request);
        Ok(lease.send(request).await)
    }

    /// What a failed request is told of. What was proven not to be processed is forgotten of the
    /// progress, for whoever is asked next.
    fn error_of(&self, error: &Broken, call: &Call<'_>) -> UpstreamError {
        let error = failure::of_send(error, &self.config.name, &call.progress);
        if error.sent == Sent::No {
            call.progress.again();
        }
        error
    }

    async fn place(&self, call: &Call<'_>) -> Result<Lease, UpstreamError> {
        let now = instant(call.progress.now_ns());
        self.pool.acquire(call.uid, now).await.map_err(|none| match none {
            NoPlace::NotMade(error) => *error,
            none => {
                let message = format!("endpoint {}: {none}", self.config.name);
                UpstreamError::new(Code::EndpointUnavailable, Stage::Connect, Sent::No, message)
            }
        })
    }

    async fn prepare(&self, call: &Call<'_>, manner: Manner) -> Result<Sending, UpstreamError> {
        let Spliced { mut pieces, usage_injected } = match call.head.method {
            Method::Post => self.spliced(call, manner.usage)?,
            _ => Spliced { pieces: Vec::new(), usage_injected: false },
        };
        let (encoded, trial) = match self.encoder.is_on() {
            true => self.encoder.encode(&pieces, manner.plain, call.account).await,
            false => (None, None),
        };
        let coding = encoded.as_ref().map(|encoded| encoded.coding);
        if let Some(encoded) = encoded {
            pieces = vec![encoded.bytes];
        }
        let body_bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Ok(Sending { pieces, outline: Outline { body_bytes, usage_injected, coding, trial } })
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

    /// The request, with the whole address that it goes to.
    fn request(
        &self,
        call: &Call<'_>,
        sending: &Sending,
    ) -> Result<Request<RequestBody>, UpstreamError> {
        let uri = self.uris.of(call.head.path).map_err(|error| {
            let message = format!("the path cannot stand in an address: {error}");
            UpstreamError::new(Code::InvalidHead, Stage::Intake, Sent::No, message)
        })?;
        let has_body = call.head.method == Method::Post;
        let is_judged = call.model.is_some();
        let further = FIELDS + usize::from(self.config.dialect == Dialect::Anthropic);
        let mut headers = head::request_headers(call.head, has_body, is_judged, further);
        head::complete(&mut headers, self.config.dialect);
        if let Some(coding) = sending.outline.coding {
            headers.insert(CONTENT_ENCODING, coding.header());
        }
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        let pieces = if has_body { sending.pieces.clone() } else { Vec::new() };
        let body =
            RequestBody::new(pieces, call.progress.clone()).witnessed(self.witness.get().cloned());
        // Last, behind everything that a caller can have said.
        let credential = self.credential.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(credential) = &*credential {
            headers.insert(credential.name(), credential.header());
        }
        let mut request = Request::new(body);
        *request.method_mut() = head::method(call.head);
        (*request.uri_mut(), *request.headers_mut()) = (uri, headers);
        Ok(request)
    }
}
