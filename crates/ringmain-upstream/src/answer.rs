//! The answer of an endpoint: its head and the bytes of its body.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use ringmain_wire::head::cut;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::Dialect;
use crate::decode::{Decoder, DecoderConfig, failure as words};
use crate::dialect::{Translator, error_body};
use crate::encoding::Expander;
use crate::error::UpstreamError;
use crate::flow::Flow;

/// Most bytes that are read behind a terminal marker.
const SETTLE_BYTES_MAX: usize = 64 * 1024;
/// Bytes within which an answer that is an error object shows that it is one.
const ERROR_BYTES_MAX: usize = 256;
/// Most bytes of a refusal that are searched for its cause.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of a provider's own code that are kept where its words are not.
const CODE_BYTES_MAX: usize = 64;

/// An answer whose head has arrived.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// HTTP status. A redirect is a status like any other: it is never followed.
    pub status: u16,
    /// Content type as given; empty when absent.
    pub content_type: String,
    /// The provider's id of the request.
    pub request_id: Option<String>,
    /// Header fields that callers may see.
    pub headers: Vec<(String, String)>,
    /// When the provider asks to come again, milliseconds from now.
    pub retry_after_ms: Option<u64>,
    /// What `x-should-retry` says.
    pub should_retry: Option<bool>,
    /// The body.
    pub body: AnswerBody,
    pub(crate) reading: DecoderConfig,
}

impl Answer {
    /// The decoder for this answer; feed it what [`AnswerBody::chunk`] gives. Once: it takes along
    /// what nobody else has to know.
    pub fn decoder(&mut self) -> Decoder {
        let DecoderConfig { path, content_type, .. } = &mut self.reading;
        let (path, content_type) = (std::mem::take(path), std::mem::take(content_type));
        Decoder::new(DecoderConfig { path, content_type, ..self.reading })
    }

    /// Puts our own words in the place of those of a refused credential: a provider may repeat a
    /// part of the key in them. Its code stays.
    pub(crate) async fn withhold_words(&mut self) {
        let said = self.body.look_ahead(REFUSAL_BYTES_MAX).await;
        let code = words::read(&said).code;
        let code = Some(cut(&code, CODE_BYTES_MAX)).filter(|code| !code.is_empty());
        let message = "it does not accept the credential of the endpoint for this request; its \
                       own words are withheld, for they may repeat a part of the key";
        self.say_instead(code, message);
    }

    /// Reads what is left of a refusal into memory, so that its connection is free while nobody
    /// knows yet whether the refusal is wanted; it is given as before. Where it is longer than
    /// `bytes_max` or takes longer than `within`, words of our own stand in its place.
    pub async fn hold(&mut self, bytes_max: usize, within: Duration) {
        if self.body.hold(bytes_max, within).await {
            return;
        }
        let message = format!(
            "it refused with status {}, in words of more than {bytes_max} bytes or that took \
             longer than {} ms",
            self.status,
            within.as_millis()
        );
        self.say_instead(None, &message);
    }

    /// Whether it is plain JSON under a good status whose first member is an `error` that says
    /// something. Waits for the first bytes and looks at no others; all are given as before.
    pub async fn opens_with_error(&mut self) -> bool {
        (200..300).contains(&self.status)
            && self.content_type.starts_with("application/json")
            && opens_with_error(&self.body.look_ahead(1).await)
    }

    fn say_instead(&mut self, code: Option<&str>, message: &str) {
        let body = match self.reading.dialect {
            // Both fields say what the provider said, or nothing.
            Dialect::OpenAi => {
                let error = json!({"message": message, "type": code, "param": null, "code": code});
                json!({ "error": error }).to_string()
            }
            dialect => error_body(dialect, self.status, code.unwrap_or_default(), message),
        };
        self.body.replace(body.into());
        self.content_type = "application/json".to_owned();
        self.reading.content_type.clone_from(&self.content_type);
    }
}

fn opens_with_error(text: &[u8]) -> bool {
    let start = &text[..text.len().min(ERROR_BYTES_MAX)];
    let words = [&b"{"[..], b"\"error\"", b":"];
    let value =
        words.iter().try_fold(start, |rest, word| rest.trim_ascii_start().strip_prefix(*word));
    match value.map(<[u8]>::trim_ascii_start) {
        Some([b'{', members @ ..]) => members.trim_ascii_start().starts_with(b"\""),
        Some([b'"', text @ ..]) => text.first().is_some_and(|&byte| byte != b'"'),
        _ => false,
    }
}

/// What is given of a body: bytes, its end, or how it broke.
type Chunk = Result<Option<Bytes>, UpstreamError>;

/// The body of an answer, its content encoding undone.
pub struct AnswerBody {
    /// Until its end.
    flow: Option<Flow>,
    /// Most answers need none, so it lies apart.
    expander: Option<Box<Expander>>,
    /// Bytes that were looked at before they were asked for.
    peeked: Bytes,
    /// How the body broke: an error once is an error for ever, whoever met it first.
    broken: Option<Box<UpstreamError>>,
    /// Puts what comes into the words of a caller of another API.
    translator: Option<Box<Translator>>,
}

impl AnswerBody {
    pub(crate) fn new(flow: Flow, expander: Option<Expander>) -> AnswerBody {
        let (flow, expander) = (Some(flow), expander.map(Box::new));
        AnswerBody { flow, expander, peeked: Bytes::new(), broken: None, translator: None }
    }

    /// What is left of it; this one is over.
    #[must_use]
    pub fn take(&mut self) -> AnswerBody {
        let (expander, peeked) = (self.expander.take(), std::mem::take(&mut self.peeked));
        let (broken, translator) = (self.broken.take(), self.translator.take());
        AnswerBody { flow: self.flow.take(), expander, peeked, broken, translator }
    }

    /// From now on the body comes translated.
    pub(crate) fn translate(&mut self, translator: Translator) {
        self.translator = Some(Box::new(translator));
    }

    /// The next bytes, or `None` after a correctly framed end. None at all stand for a chunk of
    /// something that is read as a whole, so that its memory can be charged for.
    ///
    /// Cancel-safe: a call that is dropped has taken nothing.
    ///
    /// # Errors
    /// [`UpstreamError`] when the connection broke, the framing was cut short, or the encoding is
    /// wrong or expands beyond its bounds.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The same for whoever polls by himself: a token is too short for one future in the other.
    #[inline]
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Chunk> {
        match self.translator {
            None => self.poll_own(cx),
            Some(_) => self.poll_translated(cx),
        }
    }

    fn poll_translated(&mut self, cx: &mut Context<'_>) -> Poll<Chunk> {
        // Bound: each round takes bytes of the endpoint, or is the last.
        loop {
            let Some(translator) = &mut self.translator else { return self.poll_own(cx) };
            let translated = translator.take()?;
            if !translated.is_empty() {
                return Poll::Ready(Ok(Some(translated)));
            }
            if translator.is_ended() {
                return Poll::Ready(Ok(None));
            }
            let chunk = ready!(self.poll_own(cx));
            let Some(translator) = &mut self.translator else { continue };
            match chunk {
                Ok(Some(chunk)) => {
                    translator.feed(chunk);
                    if translator.is_gathering() {
                        return Poll::Ready(Ok(Some(Bytes::new())));
                    }
                }
                Ok(None) => translator.end_of_body(),
                Err(error) => translator.broken(error),
            }
        }
    }

    /// Memory that its translation holds of what is not whole yet.
    pub fn held_bytes(&self) -> usize {
        self.translator.as_ref().map_or(0, |translator| translator.held_bytes())
    }

    /// The next bytes as the endpoint sent them.
    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<Chunk> {
        if !self.peeked.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.peeked))));
        }
        if let Some(error) = &self.broken {
            return Poll::Ready(Err(UpstreamError::clone(error)));
        }
        let chunk = ready!(self.poll_read(cx));
        if let Err(error) = &chunk {
            self.broken = Some(Box::new(error.clone()));
        }
        Poll::Ready(chunk)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Chunk> {
        // Bound: each round takes bytes of the endpoint, or is the last.
        loop {
            if let Some(expander) = &mut self.expander
                && let Some(bytes) = expander.next()?
            {
                return Poll::Ready(Ok(Some(bytes)));
            }
            let Some(flow) = &mut self.flow else { return Poll::Ready(Ok(None)) };
            let Some(bytes) = ready!(flow.poll_chunk(cx))? else {
                self.flow = None;
                self.expander.as_ref().map_or(Ok(()), |expander| expander.end())?;
                continue;
            };
            match &mut self.expander {
                _ if bytes.is_empty() => {}
                Some(expander) => expander.feed(bytes),
                None => return Poll::Ready(Ok(Some(bytes))),
            }
        }
    }

    async fn own_chunk(&mut self) -> Chunk {
        poll_fn(|cx| self.poll_own(cx)).await
    }

    /// Waits for so long, whatever comes meanwhile: it is read later, all at once. Not longer than
    /// the provider can be left to itself, which may have to stop.
    pub async fn pause(&mut self, pause: Duration) {
        let _hush = self.flow.as_ref().and_then(Flow::hush);
        sleep(pause).await;
    }

    /// Whether it was read to its end.
    pub fn is_over(&self) -> bool {
        self.flow.is_none() && self.peeked.is_empty()
    }

    /// Reads what is left behind the terminal marker, so that an HTTP/1.1 connection can be used
    /// again; gives up at 64 KiB. Dropping the body instead burns the connection, unless all bytes
    /// have come that were promised. It waits for the provider: put a time limit around it. Cancel-safe: a later call goes on.
    pub async fn settle(&mut self) {
        let mut bytes = 0;
        while bytes <= SETTLE_BYTES_MAX {
            match self.own_chunk().await {
                Ok(Some(chunk)) => bytes += chunk.len(),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Whether `word` stands where a refusal is searched. What was read is given again.
    pub(crate) async fn names(&mut self, word: &str) -> bool {
        let seen = self.look_ahead(REFUSAL_BYTES_MAX).await;
        memchr::memmem::find(&seen, word.as_bytes()).is_some()
    }

    /// The first `bytes_max` bytes and the rest of their chunk. They are given again by `chunk`,
    /// and so is an error that comes behind them.
    async fn look_ahead(&mut self, bytes_max: usize) -> Bytes {
        let mut seen = Vec::new();
        while seen.len() < bytes_max {
            match self.own_chunk().await {
                // Enough at once, as most often: it stays where it lies.
                Ok(Some(chunk)) if seen.is_empty() && chunk.len() >= bytes_max => {
                    self.peeked = chunk.clone();
                    return chunk;
                }
                Ok(Some(chunk)) => seen.extend_from_slice(&chunk),
                Ok(None) | Err(_) => break,
            }
        }
        self.peeked = seen.into();
        self.peeked.clone()
    }

    /// Whether the rest came whole, or broke; then it is given by `chunk` as it would have been.
    async fn hold(&mut self, bytes_max: usize, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut held = Vec::new();
        // Bound: the time, and the bytes.
        loop {
            match timeout_at(until, self.own_chunk()).await {
                Ok(Ok(Some(chunk))) if held.len() + chunk.len() <= bytes_max => {
                    held.extend_from_slice(&chunk);
                }
                Ok(Ok(None) | Err(_)) => break,
                Ok(Ok(Some(_))) | Err(_) => return false,
            }
        }
        (self.peeked, self.flow, self.expander) = (held.into(), None, None);
        true
    }

    /// Puts `whole` in the place of what is left.
    fn replace(&mut self, whole: Bytes) {
        (self.flow, self.expander, self.broken) = (None, None, None);
        self.peeked = whole;
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody").field("ended", &self.flow.is_none()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_says_something_stands_first() {
        for (text, is_error) in [
            (r#"{"error":{"message":"busy"}}"#, true),
            (" {\n \"error\" : \"busy\" }", true),
            (r#"{"error":null,"data":[]}"#, false),
            (r#"{"error":{},"data":[]}"#, false),
            (r#"{"error":"","data":[]}"#, false),
            (r#"{"data":[],"error":{"message":"busy"}}"#, false),
            (r#"{"error"#, false),
            ("", false),
        ] {
            assert_eq!(opens_with_error(text.as_bytes()), is_error, "{text}");
        }
    }
}
