//! Callers of one API on endpoints of another.
//!
//! The API of a caller is known by the path that it calls: `/chat/completions` is OpenAI's,
//! `/messages` is Anthropic's. Where that is the endpoint's own dialect, nothing here touches the
//! call. Where it is not, the request is read into a model of what both can say, and written anew;
//! the answer is read into the typed pieces that frames are made of, and written anew in the words
//! of the caller. Whoever asked sees its own API, whatever stands behind it.
//!
//! What the other API cannot say is refused with the name of its field, never left out; the few
//! exceptions, which change no answer, are listed in `ARCHITECTURE.md` with everything else.

mod answer;
mod chat;
mod errors;
mod gathered;
mod json;
mod messages;
mod model;
mod object;
mod refused;

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use ringmain_wire::head::Method;
use ringmain_wire::{Code, Flags, Mode, RequestHead, Sent, Stage};

use crate::answer::Answer;
use crate::call::Call;
use crate::config::{Dialect, EndpointConfig};
use crate::decode::DecoderConfig;
use crate::error::UpstreamError;
use crate::memory::Room;
use crate::reach::without_query;

pub use self::answer::{Translator, Wish};
pub use self::errors::error_body;
pub use self::refused::Refused;

/// What writing a body anew takes at most, as charged: so many times the body. What it is read into
/// borrows its texts from it and is gone before anybody else's turn on this thread.
const WORK: usize = 4;

const CHAT: &str = "/chat/completions";
const MESSAGES: &str = "/messages";
/// APIs of OpenAI that an Anthropic endpoint does not have.
const OPENAI_ONLY: [&str; 8] = [
    "/audio/speech",
    "/completions",
    "/embeddings",
    "/images/generations",
    "/moderations",
    "/rerank",
    "/responses",
    "/batches",
];

impl Dialect {
    /// The dialect of a caller that posts to this path, if the path tells.
    pub fn of_path(path: &str) -> Option<Dialect> {
        match without_query(path) {
            CHAT => Some(Dialect::OpenAi),
            path if path == MESSAGES || is_below_messages(path) => Some(Dialect::Anthropic),
            path if OPENAI_ONLY.contains(&path) => Some(Dialect::OpenAi),
            _ => None,
        }
    }

    fn other_side(self) -> (&'static str, &'static str) {
        match self {
            Dialect::Anthropic => ("Anthropic", MESSAGES),
            Dialect::OpenAi => ("OpenAI", CHAT),
        }
    }
}

/// How one call is carried to an endpoint that speaks another dialect than its caller.
#[derive(Debug)]
pub(crate) struct Translation {
    path: &'static str,
    body: Bytes,
    mode: Mode,
    wish: Wish,
    caller_path: String,
}

impl Translation {
    /// Whether a call is not in the dialect of the endpoint, so that its body will be looked into.
    pub fn is_needed(endpoint: Dialect, head: &RequestHead<'_>) -> bool {
        let caller = Dialect::of_path(head.path).filter(|_| head.method == Method::Post);
        caller.is_some_and(|caller| caller != endpoint)
    }

    /// Translates a call; `None` when it is in the dialect of the endpoint.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`] names the field that the endpoint's API cannot say.
    pub fn of(
        endpoint: &EndpointConfig,
        call: &Call<'_>,
    ) -> Result<Option<Translation>, UpstreamError> {
        if !Translation::is_needed(endpoint.dialect, call.head) {
            return Ok(None);
        }
        let (spoken, path) = endpoint.dialect.other_side();
        let refuse = |what: String| {
            let text = format!("{what}; endpoint {} speaks the {spoken} API", endpoint.name);
            UpstreamError::new(Code::InvalidRequest, Stage::Intake, Sent::No, text)
        };
        let known = [CHAT, MESSAGES].contains(&without_query(call.head.path));
        if !known || !matches!(call.head.path.split_once('?'), None | Some((_, "beta=true"))) {
            return Err(refuse(format!("{} has no counterpart there", call.head.path)));
        }
        let room = Room::of(call.account, call.body.len().saturating_mul(WORK))?;
        let (body, stream, usage) = rewritten(endpoint.dialect, &call.body)
            .map_err(|refused| refuse(refused.to_string()))?;
        let body = room.hold(body);
        let dialect = match endpoint.dialect {
            Dialect::Anthropic => Dialect::OpenAi,
            Dialect::OpenAi => Dialect::Anthropic,
        };
        let now_s = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let wish = Wish { dialect, stream, usage, now_s };
        let caller_path = call.head.path.to_owned();
        Ok(Some(Translation { path, body, mode: call.mode, wish, caller_path }))
    }

    /// The head of the translated request. Header fields that speak of the caller's API stay
    /// behind: the endpoint would not know them.
    pub fn head<'a>(&'a self, caller: &RequestHead<'a>) -> RequestHead<'a> {
        let mut head = caller.clone();
        head.path = self.path;
        head.content_type = None;
        head.headers.retain(|(name, _)| {
            !["anthropic-", "openai-", "x-stainless-"].iter().any(|own| name.starts_with(own))
        });
        head
    }

    /// The translated call. Its frames are typed: they are what the caller's words are made of.
    pub fn call<'a>(&self, head: &'a RequestHead<'a>, caller: &Call<'a>) -> Call<'a> {
        // Whether the stream tells its usage is ours to see to.
        let bits = caller.flags.bits() & !Flags::USAGE_REQUESTED.bits();
        Call {
            head,
            body: self.body.clone(),
            mode: Mode::Deltas,
            flags: Flags::from_bits(bits).unwrap_or(caller.flags),
            ..caller.clone()
        }
    }

    /// The answer in the words of the caller. In mode deltas it has no words.
    pub fn answer(self, mut answer: Box<Answer>) -> Box<Answer> {
        if self.mode == Mode::Deltas {
            return answer;
        }
        let is_stream = self.wish.stream && (200..300).contains(&answer.status);
        let kind = if is_stream { "text/event-stream; charset=utf-8" } else { "application/json" };
        kind.clone_into(&mut answer.content_type);
        let translated = DecoderConfig {
            mode: self.mode,
            dialect: self.wish.dialect,
            path: self.caller_path,
            content_type: kind.to_owned(),
            withhold_usage: false,
            ..answer.reading.clone()
        };
        let reading = std::mem::replace(&mut answer.reading, translated);
        answer.body.translate(Translator::new(reading, self.wish));
        answer
    }
}

/// A request in the dialect of its endpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Translated {
    /// The body.
    pub body: Bytes,
    /// Whether it asks for a stream.
    pub stream: bool,
    /// Whether the caller wants a stream to tell its usage.
    pub usage: bool,
}

/// Translates the body of a request to a chat model, from the other dialect into that of the
/// endpoint.
///
/// # Errors
/// [`Refused`] names the field that the endpoint's API cannot say.
pub fn translate(endpoint: Dialect, body: &[u8]) -> Result<Translated, Refused> {
    let (body, stream, usage) = rewritten(endpoint, body)?;
    Ok(Translated { body: body.into(), stream, usage })
}

/// The body in the other dialect, whether it asks for a stream, and whether for its usage.
fn rewritten(endpoint: Dialect, body: &[u8]) -> Result<(Vec<u8>, bool, bool), Refused> {
    let (request, written) = match endpoint {
        Dialect::Anthropic => {
            let request = chat::read::read(body)?;
            let written = messages::write::write(&request);
            (request, written)
        }
        Dialect::OpenAi => {
            let request = messages::read::read(body)?;
            let written = chat::write::write(&request);
            (request, written)
        }
    };
    let (stream, usage) = (request.stream, request.usage);
    let written = written.map_err(|_| refused::Path::Root.refused("cannot be written anew"))?;
    Ok((written, stream, usage))
}

fn is_below_messages(path: &str) -> bool {
    path.strip_prefix(MESSAGES).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Limited;

    /// The path that a call goes to, or why it goes nowhere.
    fn carried(dialect: Dialect, path: &str) -> Result<Option<String>, String> {
        let mut endpoint = EndpointConfig::new("local", "http://host/v1");
        endpoint.dialect = dialect;
        let mut head = RequestHead::new("m", path);
        head.headers = vec![("anthropic-beta", "x"), ("x-own", "y")];
        let body =
            Bytes::from_static(br#"{"max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#);
        let call = Call::new(&head, body, Mode::Body, Flags::USAGE_REQUESTED);
        let translation = Translation::of(&endpoint, &call).map_err(|error| error.message)?;
        assert_eq!(translation.is_some(), Translation::is_needed(dialect, &head));
        Ok(translation.map(|translation| {
            let head = translation.head(call.head);
            assert_eq!(head.headers, [("x-own", "y")]);
            let call = translation.call(&head, &call);
            assert!(!call.flags.has(Flags::USAGE_REQUESTED));
            call.head.path.to_owned()
        }))
    }

    #[test]
    fn the_path_tells_the_caller_and_its_dialect() {
        for (dialect, path, expected) in [
            (Dialect::OpenAi, "/chat/completions", Ok(None)),
            (Dialect::OpenAi, "/embeddings", Ok(None)),
            (Dialect::OpenAi, "/messages", Ok(Some("/chat/completions"))),
            (Dialect::OpenAi, "/messages?beta=true", Ok(Some("/chat/completions"))),
            (Dialect::OpenAi, "/messages?x=1", Err("/messages?x=1 has no counterpart")),
            (Dialect::OpenAi, "/messages/count_tokens", Err("/messages/count_tokens has no")),
            (Dialect::Anthropic, "/messages", Ok(None)),
            (Dialect::Anthropic, "/messages/batches", Ok(None)),
            (Dialect::Anthropic, "/of/tomorrow", Ok(None)),
            (Dialect::Anthropic, "/chat/completions", Ok(Some("/messages"))),
            (Dialect::Anthropic, "/responses", Err("/responses has no counterpart")),
        ] {
            match (carried(dialect, path), expected) {
                (Ok(carried), Ok(expected)) => assert_eq!(carried.as_deref(), expected, "{path}"),
                (Err(told), Err(expected)) => assert!(told.starts_with(expected), "{told}"),
                (other, _) => panic!("{path}: {other:?}"),
            }
        }
        let mut head = RequestHead::new("m", "/messages");
        head.method = Method::Get;
        assert!(!Translation::is_needed(Dialect::OpenAi, &head));
    }

    #[test]
    fn translated_bodies_are_charged() {
        let mut endpoint = EndpointConfig::new("local", "http://host/v1");
        endpoint.dialect = Dialect::Anthropic;
        let head = RequestHead::new("m", CHAT);
        let text = "x".repeat(10_000);
        let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]}}"#);
        let mut call = Call::new(&head, body.into(), Mode::Body, Flags::NONE);
        let account = Limited::to(4 * call.body.len() as u64);
        call.account = Some(&account);
        let translation = Translation::of(&endpoint, &call).unwrap().unwrap();
        assert_eq!(account.held(), translation.body.len() as u64);
        let refused = Translation::of(&endpoint, &call).unwrap_err();
        assert_eq!((refused.code, refused.sent), (Code::QuotaExceeded, Sent::No));
        let sent = translation.call(&head, &call).body;
        drop(translation);
        assert!(account.held() > 10_000, "it is on its way");
        drop(sent);
        assert_eq!(account.held(), 0);
    }
}
