//! Chat completions and completions, streamed or plain.
//!
//! A refusal is text for the reader, so it comes as DELTA; the finish reason of its choice is
//! then [`FinishReason::Refusal`]. Where a provider tells the reasoning under two names, the first
//! that is not empty counts: `reasoning_content`, `reasoning`.

use ringmain_wire::Kind;
use ringmain_wire::frame::{EndFrame, FinishReason, Usage};
use ringmain_wire::head::cut;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::arguments::Arguments;
use super::failure::{self, is_truthy};
use super::queue::{Queue, ToolText};
use super::quick::{Inside, Quick, Usual};
use super::seen::{Seen, Unreadable, Whole};
use super::text::{inside, owned};
use super::usage;

/// Most choices of an answer, and most tool calls of a choice.
const CHOICES_MAX: usize = 1024;

/// What the events of an answer have said so far.
#[derive(Debug, Default)]
pub(super) struct Chat {
    choices: Vec<Choice>,
    /// What the usual event looks like.
    usual: Usual,
    pub usage: Option<Usage>,
    /// The provider's own word for the first finish reason.
    finish_text: String,
}

#[derive(Debug, Default)]
struct Choice {
    index: u16,
    finish: Option<FinishReason>,
    refused: bool,
    /// The tool calls; the one that had the latest piece stands last. Bound: [`CHOICES_MAX`].
    tools: Vec<Tool>,
}

/// What a tool call is known by.
#[derive(Debug)]
struct Tool {
    /// The provider's word, which need not be unique.
    index: u32,
    id: String,
    /// Ours: calls are counted as they begin.
    number: u32,
    arguments: Arguments,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<ChunkChoice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    x_groq: Option<Groq<'a>>,
}

#[derive(Deserialize)]
struct Groq<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ChunkChoice<'a> {
    index: Option<i64>,
    /// Of a stream.
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    /// Of a plain answer. Some providers repeat it in every event, beside the delta.
    #[serde(borrow)]
    message: Option<Delta<'a>>,
    /// Of a completion.
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow)]
    function_call: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    index: Option<i64>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Clone, Copy, Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// A part of a content that is a list of parts.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<Vec<Part<'a>>>,
}

impl Chat {
    /// Reads one event of a stream.
    pub fn read(&mut self, data: &[u8], queue: &mut Queue) -> Result<Seen, Unreadable> {
        let Some(Quick { choice, content }) = self.usual.read(data) else {
            return self.read_fully(data, queue);
        };
        self.place_of(choice)?;
        match content {
            Some(Inside::Plain(text)) => queue.push_plain(Kind::Delta, choice, data, text),
            Some(Inside::Escaped(inside)) => queue.push_inside(Kind::Delta, choice, data, inside),
            None => {}
        }
        Ok(Seen::Part { content: queue.content })
    }

    fn read_fully(&mut self, data: &[u8], queue: &mut Queue) -> Result<Seen, Unreadable> {
        let chunk: Chunk<'_> = serde_json::from_slice(data)?;
        if chunk.error.is_some_and(is_truthy) {
            return Ok(Seen::Error(failure::read(data)));
        }
        let choices = chunk.choices.unwrap_or_default();
        // The usage that was asked for comes with no choices, or, elsewhere, with bare ones behind
        // the last finish reason.
        let bare = choices.is_empty() || self.is_finished() && choices.iter().all(is_bare);
        for choice in &choices {
            self.read_choice(choice, data, queue)?;
        }
        let told = chunk.usage.or(chunk.x_groq.and_then(|groq| groq.usage)).and_then(usage::read);
        self.usage = told.or(self.usage);
        Ok(match bare && told.is_some() {
            true => Seen::Usage,
            false => Seen::Part { content: queue.content },
        })
    }

    /// Reads a whole plain answer, which has the form of an event.
    pub fn read_whole(&mut self, body: &[u8], queue: &mut Queue) -> Result<Whole, Unreadable> {
        Ok(match self.read_fully(body, queue)? {
            Seen::Error(failure) => Whole::Error(failure),
            _ if self.has_choices() => Whole::Answer,
            _ => Whole::Nothing,
        })
    }

    /// Whether any choice was met.
    fn has_choices(&self) -> bool {
        !self.choices.is_empty()
    }

    /// Whether every choice that was met has said why it ended.
    pub fn is_finished(&self) -> bool {
        self.has_choices() && self.choices.iter().all(|choice| choice.finish.is_some())
    }

    pub fn end(&self) -> EndFrame<'_> {
        let reason = |choice: &Choice| match choice.finish {
            Some(FinishReason::Stop) if choice.refused => Some(FinishReason::Refusal),
            other => other,
        };
        let finish = self.choices.iter().filter_map(|c| Some((c.index, reason(c)?))).collect();
        EndFrame { bytes: 0, finish, text: &self.finish_text }
    }

    fn read_choice(
        &mut self,
        choice: &ChunkChoice<'_>,
        data: &[u8],
        queue: &mut Queue,
    ) -> Result<(), Unreadable> {
        let index = choice.index.unwrap_or(0).clamp(0, i64::from(u16::MAX)) as u16;
        let at = self.place_of(index)?;
        queue.push_text(Kind::Delta, index, data, choice.text);
        if let Some(delta) = choice.delta.as_ref().or(choice.message.as_ref()) {
            self.choices[at].read_delta(delta, data, queue)?;
        }
        let Some(word) = choice.finish_reason.filter(is_filled) else {
            return Ok(());
        };
        let word = owned(Some(word));
        self.choices[at].finish = Some(finish_reason(&word));
        if at == 0 {
            self.finish_text = cut(&word, 64).to_owned();
        }
        Ok(())
    }

    fn place_of(&mut self, index: u16) -> Result<usize, Unreadable> {
        if let Some(at) = self.choices.iter().position(|choice| choice.index == index) {
            return Ok(at);
        }
        if self.choices.len() == CHOICES_MAX {
            return Err(Unreadable(format!("more than {CHOICES_MAX} choices")));
        }
        self.choices.push(Choice { index, ..Choice::default() });
        Ok(self.choices.len() - 1)
    }
}

impl Choice {
    fn read_delta(
        &mut self,
        delta: &Delta<'_>,
        data: &[u8],
        queue: &mut Queue,
    ) -> Result<(), Unreadable> {
        let index = self.index;
        let reasoning = delta.reasoning_content.filter(is_filled).or(delta.reasoning);
        queue.push_text(Kind::Reasoning, index, data, reasoning);
        match delta.content {
            Some(parts) if parts.get().starts_with('[') => {
                push_parts(&serde_json::from_str::<Vec<_>>(parts.get())?, index, data, queue);
            }
            content => queue.push_text(Kind::Delta, index, data, content),
        }
        self.refused |= delta.refusal.as_ref().is_some_and(is_filled);
        queue.push_text(Kind::Delta, index, data, delta.refusal);
        for call in delta.tool_calls.iter().flatten() {
            let function = call.function;
            let tool = ToolText {
                id: call.id,
                name: function.and_then(|f| f.name),
                arguments: function.and_then(|f| f.arguments),
            };
            let number = self.tool_number(call.index, &tool)?;
            queue.push_tool(index, number, tool);
        }
        if let Some(Function { name, arguments }) = delta.function_call {
            queue.push_tool(index, 0, ToolText { id: None, name, arguments });
        }
        Ok(())
    }

    /// Which call a piece belongs to: its number, which is ours. An index that was given counts,
    /// but some providers give all calls the same one: another id with a name begins the next call
    /// there, which then is the one that the index means. Without a name it does when the arguments
    /// of the call are whole and these are others; not before, for others make up an id for each
    /// piece. Without an index, a known id names its call; another id, or a name
    /// without an id, begins the next call; anything else goes on with the latest.
    fn tool_number(&mut self, given: Option<i64>, tool: &ToolText<'_>) -> Result<u32, Unreadable> {
        let id = tool.id.filter(is_filled).map(|raw| owned(Some(raw))).unwrap_or_default();
        let index = given.and_then(|index| u32::try_from(index).ok());
        let is_named = tool.name.filter(is_filled).is_some();
        let arguments = owned(tool.arguments);
        let goes_on = |known: &Tool| {
            known.id.is_empty()
                || !is_named && (!known.arguments.is_whole() || arguments.trim().is_empty())
        };
        let latest = |is: &dyn Fn(&Tool) -> bool| self.tools.iter().rposition(is);
        let known = match (index, id.is_empty()) {
            (Some(index), true) => latest(&|tool| tool.index == index),
            (Some(index), false) => {
                let same = latest(&|tool| tool.index == index && tool.id == id);
                same.or_else(|| {
                    let at = latest(&|tool| tool.index == index);
                    at.filter(|at| goes_on(&self.tools[*at]))
                })
            }
            (None, false) => latest(&|tool| tool.id == id),
            (None, true) if is_named => None,
            (None, true) => self.tools.len().checked_sub(1),
        };
        // The call that is gone on with stands last.
        let mut tool = match known {
            Some(at) => self.tools.remove(at),
            None if self.tools.len() == CHOICES_MAX => {
                return Err(Unreadable(format!("more than {CHOICES_MAX} tool calls")));
            }
            None => {
                let number = self.tools.len() as u32;
                let index = index.unwrap_or(number);
                Tool { index, id, number, arguments: Arguments::default() }
            }
        };
        tool.arguments.add(&arguments);
        let number = tool.number;
        self.tools.push(tool);
        Ok(number)
    }
}

fn is_filled(raw: &&RawValue) -> bool {
    inside(raw).is_some_and(|text| !text.is_empty())
}

/// Whether a choice of a stream says nothing at all.
fn is_bare(choice: &ChunkChoice<'_>) -> bool {
    let nothing = |delta: &Delta<'_>| {
        let Delta { role, content, refusal, reasoning_content, reasoning, .. } = delta;
        [role, content, refusal, reasoning_content, reasoning].iter().all(|field| field.is_none())
            && delta.tool_calls.is_none()
            && delta.function_call.is_none()
    };
    choice.text.is_none()
        && choice.finish_reason.is_none()
        && choice.message.is_none()
        && choice.delta.as_ref().is_none_or(nothing)
}

fn push_parts(parts: &[Part<'_>], choice: u16, data: &[u8], queue: &mut Queue) {
    for part in parts {
        for thought in part.thinking.iter().flatten() {
            queue.push_text(Kind::Reasoning, choice, data, thought.text);
        }
        queue.push_text(Kind::Delta, choice, data, part.text);
    }
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "stop" => FinishReason::Stop,
        "length" | "model_length" => FinishReason::Length,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        "refusal" => FinishReason::Refusal,
        _ => FinishReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::quick;
    use super::*;
    use proptest::prelude::*;

    const USUAL: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"tiny","system_fingerprint":"fp","choices":[{"index":0,"delta":{"content":" word\n"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"xY"}"#;

    /// What an event is to a stream: how it was judged, the pieces, the state.
    fn told(chat: &Chat, seen: Result<Seen, Unreadable>, queue: &mut Queue) -> String {
        let pieces = std::iter::from_fn(|| queue.pop()).map(|piece| format!("{piece:?}"));
        let pieces: Vec<String> = pieces.collect();
        let Chat { choices, usage, finish_text, .. } = chat;
        let state = format!("{choices:?} {usage:?} {finish_text:?}");
        let seen = seen.map_err(|error| error.0);
        format!("{seen:?} {pieces:?} {:?} {state}", queue.unescaped)
    }

    /// Two events of one stream, read quickly and read fully.
    fn both(first: &[u8], then: &[u8]) -> (String, String) {
        let read = |how: fn(&mut Chat, &[u8], &mut Queue) -> Result<Seen, Unreadable>| {
            let (mut chat, mut queue) = (Chat::default(), Queue::default());
            let events = [first, then].map(|data| {
                queue.begin();
                let seen = how(&mut chat, data, &mut queue);
                told(&chat, seen, &mut queue)
            });
            events.concat()
        };
        (read(Chat::read), read(Chat::read_fully))
    }

    #[test]
    fn the_usual_event_is_read_quickly_and_nothing_else() {
        let spaced = USUAL.replace("\":", "\": ").replace(",\"", ", \"");
        let spoken = USUAL.replace("{\"content", "{\"role\":\"assistant\",\"content");
        let escaped = USUAL.replace("word", r#"\u00e9\"\\/é"#);
        for usual in [USUAL, &spaced, &spoken, &escaped] {
            assert!(quick::read(usual.as_bytes()).is_some(), "{usual}");
            let (quickly, fully) = both(usual.as_bytes(), USUAL.as_bytes());
            assert_eq!(quickly, fully, "{usual}");
        }
        for (from, to) in [
            ("\"usage\":null", "\"usage\":{}"),
            ("\"finish_reason\":null", "\"finish_reason\":\"stop\""),
            ("\"logprobs\":null", "\"logprobs\":{}"),
            ("\"index\":0", "\"index\":-1"),
            ("\"index\":0", "\"index\":00"),
            ("\"index\":0", "\"index\":0.0"),
            ("\"index\":0", "\"index\":0,\"index\":0"),
            ("{\"content", "{\"refusal\":\"no\",\"content"),
            ("{\"content", "{\"content\":\"x\",\"content"),
            ("}],", "},{\"index\":1}],"),
            ("word", "\u{1}"),
            ("word", "\\x"),
            ("word", "\\u00g0"),
        ] {
            let other = USUAL.replacen(from, to, 1);
            assert_ne!(other, USUAL);
            assert_eq!(quick::read(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        /// However the usual event is damaged: what is read quickly is read fully the same.
        #[test]
        fn property_the_quick_reading_is_the_full_one(
            edits in prop::collection::vec(
                (any::<prop::sample::Index>(), 0..8usize, prop::sample::select(vec![
                    "", "null", "{}", "[]", "0", "-", "\"", "\\", "\\n", "\\ud83d", ",", ":", " ",
                    "}", "]", "{", "\"role\":\"a\",", "\"content\":null,", "\"index\":1,",
                    "\"choices\":[],", "\"error\":null,", "\n", "\u{7f}", "é", "\u{0}", "e1", "true",
                ])),
                0..4,
            ),
            broken in any::<Option<(prop::sample::Index, u8)>>(),
        ) {
            let mut bytes = USUAL.as_bytes().to_vec();
            for (at, removed, put) in edits {
                let at = at.index(bytes.len() + 1);
                let end = (at + removed).min(bytes.len());
                bytes.splice(at..end, put.bytes());
            }
            if let Some((at, byte)) = broken.filter(|_| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let (quickly, fully) = both(USUAL.as_bytes(), &bytes);
            prop_assert_eq!(quickly, fully);
            let (quickly, fully) = both(&bytes, USUAL.as_bytes());
            prop_assert_eq!(quickly, fully);
        }
    }
}
