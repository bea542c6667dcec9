//! Answering: one request in, one response out.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Shared;
use super::anthropic;
use super::ask::{Asked, Embeddings, Target, target};
use super::connection::{Connection, Mark};
use super::frames;
use super::log::{How, Running};
use super::preset;
use super::replay::{self, Replay};
use super::stage;
use super::stream::{Broken, Source, Writes};
use crate::fault::{Fault, Place};
use crate::plan::{Api, Pieces, Plan};
use crate::render::{self, Renderer};
use crate::script::{Script, ScriptError};
use crate::text::{HASH_EMPTY, hash_on, mix, seed_of};

/// Most bytes of a request's body.
const BODY_BYTES_MAX: usize = 256 << 20;
/// Delay of the head where `slow_head` is asked for without one.
const SLOW_HEAD_US: u64 = 1_000_000;
/// How long the body of a request is left unread.
const UNREAD_MAX: Duration = Duration::from_secs(20);
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// One exchange on its way to an answer.
pub(super) struct Answering {
    running: Running,
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    /// Id of its stream in HTTP/2; `None` in HTTP/1.1.
    stream: Option<u32>,
}

/// Answers one request. Dropped when the client goes away, which the log then says.
pub(super) async fn answer(
    request: Request<Incoming>,
    connection: Arc<Connection>,
    shared: Arc<Shared>,
) -> Result<Response<Writes>, Broken> {
    let (parts, body) = request.into_parts();
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    let target = target(&method, &uri);
    if matches!(target, Some(Target::Log | Target::Reset)) {
        return Ok(look_after_log(target, parts, connection, &shared));
    }
    let stream = connection.next_stream();
    let stream = (parts.version == http::Version::HTTP_2).then_some(stream);
    let told = match told(&parts.headers) {
        Some(Err(error)) => {
            let running = shared.log.open(connection.number, parts);
            let answering = Answering { running, connection, shared, stream };
            return Ok(answering.refuse(400, &error.to_string()));
        }
        told => told.and_then(Result::ok),
    };
    let running = shared.log.open(connection.number, parts);
    let answering = Answering { running, connection, shared, stream };
    if let Some(fault) = answering.intake_fault(told.as_ref()) {
        return answering.leave_unread(fault).await;
    }
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Ok(answering.refuse(413, "the body is too large or broke off")),
    };
    answering.running.body(&body);
    match target {
        Some(Target::Api(api)) => match Asked::parse(api, &body, answering.shared.config.seed) {
            Ok(asked) => answering.follow(asked.told(told)).await,
            Err(error) => Ok(answering.refuse(400, &error.to_string())),
        },
        Some(Target::Messages) => {
            match Asked::parse(Api::Chat, &body, answering.shared.config.seed) {
                Ok(asked) => anthropic::follow(answering, asked.told(told)).await,
                Err(error) => Ok(answering.refuse(400, &error.to_string())),
            }
        }
        Some(Target::Recorded) => {
            match Asked::parse(Api::Chat, &body, answering.shared.config.seed) {
                Ok(asked) if asked.plan.script.replay.is_some() => answering.follow(asked).await,
                _ => Ok(answering.refuse(400, "this API has recordings only: ask for a replay")),
            }
        }
        Some(Target::Model(name)) => Ok(answering.value(&model(name))),
        Some(Target::Models) => {
            let models: Vec<Value> = ["tiny", "small", "embed"].map(model).into();
            Ok(answering.value(&json!({ "object": "list", "data": models })))
        }
        _ => Ok(answering.refuse(404, &format!("{method} {} does not exist", uri.path()))),
    }
}

/// The vector of an embedding input: the same for the same text (or JSON list of token numbers).
pub fn embedding_of(input: &str, dims: usize) -> Vec<f32> {
    let seed = seed_of(input);
    // 24 bits are exact in an f32, so the value survives JSON and base64 alike.
    let value =
        |index: usize| (mix(seed ^ mix(index as u64)) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (0..dims).map(value).collect()
}

impl Answering {
    /// Does what the script says.
    pub(super) async fn follow(self, asked: Asked) -> Result<Response<Writes>, Broken> {
        let Asked { mut plan, embeddings } = asked;
        self.shared.adapt(self.running.number(), &mut plan.script);
        preset::apply(&mut plan.script);
        let plan = Arc::new(plan);
        self.running.plan(&plan);
        let script = &plan.script;
        if let Some(fault) = script.fault {
            if let Some(reason) = self.unfit(&plan, fault) {
                return Ok(self.refuse(400, &reason));
            }
            if fault.place() == Place::Frames {
                self.send_frames(fault).await?;
            }
        }
        let delay = delay_of(&plan);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if script.fault == Some(Fault::RefuseHead) {
            std::future::pending::<()>().await;
        }
        let recording = match &script.replay {
            Some(path) => {
                // A local file of a few kilobytes: reading it here costs less than a thread.
                match replay::read(self.shared.config.replay_dir.as_deref(), path) {
                    Ok(bytes) => Some(bytes),
                    Err(error) => return Ok(self.refuse(400, &error.to_string())),
                }
            }
            None => None,
        };
        let (content_type, source) = match (recording, embeddings) {
            _ if script.status == 204 => (JSON, whole(Vec::new())),
            _ if script.status != 200 => (JSON, whole(render::error_body(script.status))),
            (Some(bytes), _) => {
                let replay = Replay::new(bytes, script.chunk, plan.seed);
                (recording_type(script.replay.as_deref()), Source::Replay(replay))
            }
            (_, Some(embeddings)) => (JSON, whole(vectors(&plan, &embeddings))),
            _ => match stage::of(&plan) {
                Some(staged) => {
                    if staged.is_verbatim {
                        self.connection.mark(Mark::Headless);
                    }
                    let is_events = plan.stream && !staged.is_json;
                    (if is_events { EVENTS } else { JSON }, Source::Staged(Box::new(staged)))
                }
                None => source_of(&plan),
            },
        };
        let source = spoil(source, script.fault);
        Ok(self.respond(plan, content_type, source))
    }

    /// Applies the rules of the provider to a plan and writes it into the log.
    pub(super) fn plan(&self, plan: &mut Plan) {
        self.shared.adapt(self.running.number(), &mut plan.script);
        preset::apply(&mut plan.script);
        self.running.plan(&Arc::new(plan.clone()));
    }

    /// Why this fault cannot be shown to this request.
    fn unfit(&self, plan: &Plan, fault: Fault) -> Option<String> {
        let is_http2 = self.stream.is_some();
        let tokens = plan.script.n.saturating_add(plan.script.reasoning);
        match fault.place() {
            Place::Connection => Some(format!("{fault} is a fault of connections")),
            Place::Intake => Some(format!("{fault} is asked for by the header x-sim or a rule")),
            _ if !fault.is_of(is_http2) => {
                let versions = fault.row().versions.name();
                Some(format!("{fault} can be shown in HTTP {versions} only"))
            }
            Place::Shape | Place::Framing | Place::Coding | Place::Whole | Place::Frames
                if tokens > stage::TOKENS_MAX =>
            {
                let max = stage::TOKENS_MAX;
                Some(format!("{fault} takes {max} tokens at most, not {tokens}"))
            }
            _ => None,
        }
    }

    /// What is to be done before the body of the request is read.
    fn intake_fault(&self, told: Option<&Script>) -> Option<Fault> {
        let rules = &self.shared.config.rules;
        if told.is_none() && rules.is_empty() {
            return None;
        }
        let mut script = told.cloned().unwrap_or_default();
        rules.apply(self.running.number(), &mut script);
        let fault = script.fault.filter(|fault| fault.place() == Place::Intake)?;
        let seed = script.text_seed(self.shared.config.seed);
        self.running.plan(&Arc::new(Plan { stream: true, seed, script, ..Plan::default() }));
        Some(fault)
    }

    async fn leave_unread(self, fault: Fault) -> Result<Response<Writes>, Broken> {
        if fault == Fault::EarlyRefusal {
            return Ok(self.refuse(413, "the body is too large"));
        }
        // Who does not read does not see that the client has gone either.
        self.running.ended(How::Fault(fault));
        tokio::time::sleep(UNREAD_MAX).await;
        Err(Broken::plain())
    }

    /// Frames of HTTP/2 before the answer; most come in its place.
    async fn send_frames(&self, fault: Fault) -> Result<(), Broken> {
        let stream = self.stream.unwrap_or_default();
        let frame = match fault {
            Fault::GoawayAfter => {
                self.connection.inject(&frames::goaway(frames::STREAM_MAX));
                return Ok(());
            }
            Fault::GoawayBefore | Fault::GoawayThenFine => frames::goaway(stream.saturating_sub(2)),
            Fault::FrameTooBig => frames::too_big(stream),
            Fault::FrameNoStream => frames::no_stream(),
            Fault::WindowOverflow => frames::window_overflow(),
            Fault::RefusedStream | Fault::RefusedThenFine => {
                self.running.ended(How::Fault(fault));
                return Err(Broken::with(h2::Reason::REFUSED_STREAM));
            }
            Fault::RstInternal => {
                self.running.ended(How::Fault(fault));
                return Err(Broken::with(h2::Reason::INTERNAL_ERROR));
            }
            _ => return Ok(()),
        };
        self.connection.inject(&frame);
        self.running.ended(How::Fault(fault));
        // The client goes away, which drops this.
        std::future::pending().await
    }

    pub(super) fn respond(
        self,
        plan: Arc<Plan>,
        content_type: HeaderValue,
        source: Source,
    ) -> Response<Writes> {
        let script = &plan.script;
        if let Source::Whole { bytes, cut: None } = &source {
            self.running.answer_hash(hash_on(HASH_EMPTY, bytes));
        }
        self.running.head(script.status);
        let status = StatusCode::from_u16(script.status).unwrap_or(StatusCode::OK);
        let mut head = http::HeaderMap::new();
        head.insert(CONTENT_TYPE, content_type);
        head.insert("x-request-id", request_id(&self.running));
        if script.fault == Some(Fault::Gzip) {
            head.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Source::Staged(staged) = &source {
            head.extend(staged.headers.iter().cloned());
        }
        preset::extend(&mut head, script.fault);
        for (name, value) in [
            (RETRY_AFTER.as_str(), &script.retry_after),
            ("retry-after-ms", &script.retry_after_ms),
        ] {
            if let Some(value) = value.as_deref().and_then(|value| value.parse().ok()) {
                head.insert(http::HeaderName::from_static(name), value);
            }
        }
        let mut response =
            Response::new(Writes::new(source, plan.clone(), self.running, self.connection));
        *response.status_mut() = status;
        *response.headers_mut() = head;
        response
    }

    fn value(self, value: &Value) -> Response<Writes> {
        self.respond(Arc::default(), JSON, whole(value.to_string().into_bytes()))
    }

    fn refuse(self, status: u16, message: &str) -> Response<Writes> {
        let body = render::error_object(message, "invalid_request_error").to_string();
        let mut plan = Plan::default();
        plan.script.status = status;
        self.respond(Arc::new(plan), JSON, whole(body.into_bytes()))
    }
}

/// The script that the head of a request carries, which stands over that of its prompt.
fn told(headers: &http::HeaderMap) -> Option<Result<Script, ScriptError>> {
    let value = headers.get("x-sim")?.to_str().unwrap_or_default();
    Script::find(&format!("[[sim {value}]]")).transpose()
}

/// The log's own requests are not logged: looking must not change what is seen.
fn look_after_log(
    target: Option<Target<'_>>,
    parts: http::request::Parts,
    connection: Arc<Connection>,
    shared: &Arc<Shared>,
) -> Response<Writes> {
    let mut lines = Vec::new();
    if target == Some(Target::Reset) {
        shared.log.clear();
    } else {
        for record in shared.log.snapshot() {
            // A record is plain data: it is JSON, and a vector takes every byte.
            let _ = serde_json::to_writer(&mut lines, &record);
            lines.push(b'\n');
        }
    }
    let running = Running::unlogged(connection.number, parts);
    let answering = Answering { running, connection, shared: Arc::clone(shared), stream: None };
    let content_type = HeaderValue::from_static("application/x-ndjson");
    answering.respond(Arc::default(), content_type, whole(lines))
}

/// The body of an answer without a recording.
fn source_of(plan: &Arc<Plan>) -> (HeaderValue, Source) {
    match plan.script.fault {
        Some(Fault::NotSse) => {
            (HeaderValue::from_static("text/html"), whole(render::HTML.as_bytes().to_vec()))
        }
        Some(Fault::Empty) => (if plan.stream { EVENTS } else { JSON }, whole(Vec::new())),
        _ if plan.stream => {
            let pieces = Pieces::new(Arc::clone(plan));
            (EVENTS, Source::Events { pieces, renderer: Box::new(Renderer::new(plan)) })
        }
        _ => (JSON, whole(render::whole_answer(plan))),
    }
}

/// What the fault leaves of an answer that is one write: half of it, or something else.
fn spoil(source: Source, fault: Option<Fault>) -> Source {
    match (source, fault) {
        (Source::Whole { bytes, .. }, Some(Fault::CloseEarly | Fault::Reset | Fault::Stall)) => {
            let cut = Some(bytes.len() / 2);
            Source::Whole { bytes, cut }
        }
        (Source::Whole { bytes, .. }, Some(Fault::InvalidJson)) => {
            whole(bytes.slice(..bytes.len() / 2).to_vec())
        }
        (Source::Whole { .. }, Some(Fault::ErrorEvent)) => {
            let error = "the simulated engine is overloaded";
            let error = render::error_object(error, "overloaded_error");
            whole(error.to_string().into_bytes())
        }
        (source, _) => source,
    }
}

pub(super) fn whole(bytes: Vec<u8>) -> Source {
    Source::Whole { bytes: bytes.into(), cut: None }
}

/// The time that an answer takes before its head. One that is not a stream takes as long as its
/// stream would.
pub(super) fn delay_of(plan: &Plan) -> Duration {
    let script = &plan.script;
    let is_slow = script.fault == Some(Fault::SlowHead);
    let head_us = script.head_us.unwrap_or(if is_slow { SLOW_HEAD_US } else { 0 });
    let mut delay = Duration::from_micros(head_us);
    if !plan.stream && script.status == 200 {
        let n = if plan.api == Api::Embeddings { 0 } else { script.n };
        let gaps = u32::try_from(n.saturating_sub(1)).unwrap_or(u32::MAX);
        delay = delay.saturating_add(Duration::from_micros(script.ttft_us));
        delay = delay.saturating_add(Duration::from_micros(script.gap_us).saturating_mul(gaps));
    }
    delay
}

fn vectors(plan: &Plan, embeddings: &Embeddings) -> Vec<u8> {
    let vector = |input: &String| -> Value {
        let vector = embedding_of(input, embeddings.dims);
        if !embeddings.is_base64 {
            return vector.into();
        }
        let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        base64(&bytes).into()
    };
    let item = |(index, input)| json!({ "object": "embedding", "index": index, "embedding": vector(input) });
    let data: Vec<Value> = embeddings.inputs.iter().enumerate().map(item).collect();
    let usage = json!({ "prompt_tokens": plan.prompt_tokens, "total_tokens": plan.prompt_tokens });
    let answer = json!({ "object": "list", "data": data, "model": plan.model, "usage": usage });
    answer.to_string().into_bytes()
}

fn model(name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": 1_700_000_000, "owned_by": "ringmain-sim" })
}

fn recording_type(path: Option<&str>) -> HeaderValue {
    match path.and_then(|path| path.rsplit_once('.')).map(|(_, extension)| extension) {
        Some("ndjson") => HeaderValue::from_static("application/x-ndjson"),
        Some("json") => JSON,
        _ => EVENTS,
    }
}

fn request_id(running: &Running) -> HeaderValue {
    // Digits are a valid header value; the fallback keeps the compiler's question answered.
    HeaderValue::from_str(&format!("req-sim-{}", running.number()))
        .unwrap_or(HeaderValue::from_static("req-sim"))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes(padded);
        for digit in 0..4 {
            let is_padding = digit > three.len();
            let value = (bits >> (18 - 6 * digit)) as usize & 63;
            out.push(if is_padding { '=' } else { char::from(DIGITS[value]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let pairs =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn vectors_are_exact_and_repeat() {
        let vector = embedding_of("a", 64);
        assert_eq!(vector, embedding_of("a", 64));
        assert_ne!(vector, embedding_of("b", 64));
        for value in vector {
            assert!((-1.0..1.0).contains(&value));
            assert_eq!(value.to_string().parse::<f32>().unwrap(), value);
        }
    }
}
