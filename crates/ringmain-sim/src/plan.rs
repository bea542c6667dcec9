//! What one answer consists of, piece by piece and byte by byte.
//!
//! A [`Plan`] is small, holds no secret and says everything about an answer: the provider streams
//! from it, and the checker, which gets it out of the provider's log, renders the same bytes again
//! to compare them with what a caller received.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::provider::replay;
use crate::render::{self, Renderer};
use crate::script::Script;
use crate::text::{HASH_EMPTY, hash_on, push_token, reasoning_seed, tool_arguments};

/// Which API was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Api {
    /// `/chat/completions`.
    #[default]
    Chat,
    /// `/completions`.
    Completions,
    /// `/embeddings`.
    Embeddings,
}

/// What one answer consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The API called.
    pub api: Api,
    /// Whether the answer is a stream of events.
    pub stream: bool,
    /// Whether a stream tells its usage.
    pub usage: bool,
    /// The model asked for.
    pub model: String,
    /// Tokens that the prompt is said to have.
    pub prompt_tokens: u64,
    /// Seed of the text.
    pub seed: u64,
    /// What the prompt asked for.
    pub script: Script,
}

/// Bytes that belong together: the text of a choice, the arguments of a tool call ...
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Channel {
    /// The body.
    Body,
    /// Upstream events, each without the blank line that ends it, each followed by one line feed.
    Events,
    /// The reasoning of a choice.
    Reasoning(u16),
    /// The text of a choice.
    Text(u16),
    /// The arguments of a tool call.
    Tool(u32),
}

/// One step of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Piece {
    /// The first event: who speaks.
    Role,
    /// A reasoning token.
    Reasoning(u64),
    /// A text token.
    Text(u64),
    /// A piece of a tool call: 0 carries id and name, the others fragments of the arguments.
    Tool {
        /// Index of the call.
        call: u64,
        /// Index of the piece.
        piece: u64,
    },
    /// An event that does not belong there.
    Wrong(Fault),
    /// The finish reason.
    Finish,
    /// Tokens used.
    Usage,
    /// `[DONE]`.
    Done,
}

impl Piece {
    /// Whether it is content, which counts as a token and is paced.
    pub fn is_content(self) -> bool {
        matches!(self, Piece::Reasoning(_) | Piece::Text(_) | Piece::Tool { .. })
    }
}

/// What a channel holds after some of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Running hash of the bytes asked for, or of all if there are fewer.
    pub hash: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Whether nothing follows.
    pub is_whole: bool,
}

impl Plan {
    /// What the fault leaves of the tokens: how many come before it acts.
    pub fn tokens_before_fault(&self) -> u64 {
        // An end without its marker is most telling after the whole text.
        let default = if self.script.fault == Some(Fault::NoDone) { u64::MAX } else { 1 };
        self.script.at.unwrap_or(default)
    }

    /// Whether its text can be computed: a recording's cannot, and a stamp is known to the clock
    /// alone.
    pub fn is_computable(&self) -> bool {
        self.script.replay.is_none() && !self.script.stamp
    }

    /// The first `bytes` bytes of a channel; `None` where this plan cannot tell.
    pub fn prefix(&self, channel: Channel, bytes: u64) -> Option<Prefix> {
        let mut prefix = Prefix { hash: HASH_EMPTY, bytes: 0, is_whole: true };
        let walked = self.walk(channel, &mut |chunk| {
            let room = usize::try_from(bytes - prefix.bytes).unwrap_or(usize::MAX);
            let taken = &chunk[..chunk.len().min(room)];
            prefix.hash = hash_on(prefix.hash, taken);
            prefix.bytes += taken.len() as u64;
            if taken.len() < chunk.len() {
                prefix.is_whole = false;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        walked.then_some(prefix)
    }

    /// The same, with recordings read from `folder`: their body and events can be told too.
    pub fn prefix_with(
        &self,
        folder: Option<&Path>,
        channel: Channel,
        bytes: u64,
    ) -> Option<Prefix> {
        let (Some(path), Some(folder)) = (&self.script.replay, folder) else {
            return self.prefix(channel, bytes);
        };
        let recording = replay::read(Some(folder), path).ok()?;
        let all = match channel {
            Channel::Body => recording.to_vec(),
            Channel::Events => events_of(&recording),
            _ => return None,
        };
        let taken = &all[..all.len().min(usize::try_from(bytes).unwrap_or(usize::MAX))];
        let is_whole = taken.len() == all.len();
        let hash = hash_on(HASH_EMPTY, taken);
        Some(Prefix { hash, bytes: taken.len() as u64, is_whole })
    }

    /// Gives the bytes of a channel in order; `false` where this plan cannot tell.
    fn walk(&self, channel: Channel, each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> bool {
        if !self.is_computable() || self.api == Api::Embeddings {
            return false;
        }
        let is_bytes = matches!(channel, Channel::Body | Channel::Events);
        if is_bytes && self.script.fault.is_some_and(|fault| !fault.keeps_bytes()) {
            return false;
        }
        let body = self.fixed_body();
        match (channel, body) {
            (Channel::Body, Some(body)) => {
                let _ = each(&body);
                return true;
            }
            // Typed pieces of an answer that is not a stream are those of the same stream.
            (_, Some(_)) if self.stream || self.script.status != 200 => return true,
            _ => {}
        }
        let mut renderer = Renderer::new(self);
        let (mut text, mut out) = (String::new(), Vec::new());
        for piece in Pieces::new(Arc::new(self.clone())) {
            out.clear();
            match channel {
                Channel::Body => renderer.render(piece, None, &mut out),
                Channel::Events => {
                    renderer.render(piece, None, &mut out);
                    out.truncate(out.trim_ascii_end().len());
                    out.push(b'\n');
                }
                _ => {
                    text.clear();
                    self.push_typed(piece, channel, &mut text);
                    out.extend_from_slice(text.as_bytes());
                }
            }
            if !out.is_empty() && each(&out).is_break() {
                break;
            }
        }
        true
    }

    /// The body where it is not rendered event by event.
    fn fixed_body(&self) -> Option<Vec<u8>> {
        match self.script.fault {
            _ if self.script.status != 200 => Some(render::error_body(self.script.status)),
            Some(Fault::NotSse) => Some(render::HTML.as_bytes().to_vec()),
            Some(Fault::Empty | Fault::RefuseHead) => Some(Vec::new()),
            _ if !self.stream => Some(render::whole_answer(self)),
            _ => None,
        }
    }

    fn push_typed(&self, piece: Piece, channel: Channel, out: &mut String) {
        let size = self.script.size as usize;
        match (piece, channel) {
            (Piece::Text(index), Channel::Text(0)) => {
                push_token(out, self.seed, index as usize, size);
            }
            (Piece::Reasoning(index), Channel::Reasoning(0)) => {
                push_token(out, reasoning_seed(self.seed), index as usize, size);
            }
            (Piece::Tool { call, piece: 1 }, Channel::Tool(wanted))
                if call == u64::from(wanted) =>
            {
                // Whole at the first fragment: how the provider cuts them does not matter here.
                out.push_str(&tool_arguments(self.seed, call as usize));
            }
            (Piece::Wrong(Fault::BigEvent), Channel::Text(0)) => {
                out.extend(std::iter::repeat_n('x', self.script.big as usize));
            }
            _ => {}
        }
    }
}

/// The events of a recording as [`Channel::Events`] holds them.
fn events_of(recording: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(recording.len());
    let mut start = 0;
    for line in recording.split_inclusive(|&b| b == b'\n') {
        if line.trim_ascii().is_empty() {
            start = close_event(&mut out, start);
        } else {
            out.extend_from_slice(line);
        }
    }
    close_event(&mut out, start);
    out
}

fn close_event(out: &mut Vec<u8>, start: usize) -> usize {
    if out.len() > start {
        out.truncate(out.trim_ascii_end().len());
        out.push(b'\n');
    }
    out.len()
}

/// The pieces of a stream in order, with the scripted fault at its place. A fault that ends the
/// stream ends the pieces; how the connection ends then is the provider's business.
#[derive(Clone, Debug)]
pub struct Pieces {
    plan: Arc<Plan>,
    next: Option<Piece>,
    tokens: u64,
    fault: Option<Fault>,
}

impl Pieces {
    /// The pieces of this plan.
    pub fn new(plan: Arc<Plan>) -> Pieces {
        // What is whole or acts on the head leaves the stream alone.
        let fault = plan.script.fault.filter(|fault| fault.is_inside_body());
        let mut pieces = Pieces { plan, next: None, tokens: 0, fault };
        pieces.next = Some(match pieces.plan.api {
            Api::Chat => Piece::Role,
            _ => pieces.first_text(),
        });
        pieces
    }

    /// The next piece, without taking it.
    pub fn peek(&self) -> Option<Piece> {
        match (self.due_fault(), self.next) {
            (Some(fault), _) if !fault.inserts() => None,
            (Some(fault), Some(_)) => Some(Piece::Wrong(fault)),
            (_, next) => next,
        }
    }

    fn due_fault(&self) -> Option<Fault> {
        let reached = match self.next? {
            Piece::Role => false,
            Piece::Finish => true,
            _ => self.tokens >= self.plan.tokens_before_fault(),
        };
        self.fault.filter(|_| reached)
    }

    fn successor(&self, piece: Piece) -> Option<Piece> {
        let script = &self.plan.script;
        Some(match piece {
            Piece::Role if script.reasoning > 0 => Piece::Reasoning(0),
            Piece::Role => self.first_text(),
            Piece::Reasoning(index) if index + 1 < script.reasoning => Piece::Reasoning(index + 1),
            Piece::Reasoning(_) => self.first_text(),
            Piece::Text(index) if index + 1 < script.n => Piece::Text(index + 1),
            Piece::Text(_) => self.first_tool(),
            Piece::Tool { call, piece } if piece < self.fragments(call) => {
                Piece::Tool { call, piece: piece + 1 }
            }
            Piece::Tool { call, .. } if call + 1 < script.tools => {
                Piece::Tool { call: call + 1, piece: 0 }
            }
            Piece::Tool { .. } => Piece::Finish,
            Piece::Finish if self.plan.usage => Piece::Usage,
            Piece::Finish | Piece::Usage => Piece::Done,
            Piece::Done | Piece::Wrong(_) => return None,
        })
    }

    fn first_text(&self) -> Piece {
        if self.plan.script.n > 0 { Piece::Text(0) } else { self.first_tool() }
    }

    fn first_tool(&self) -> Piece {
        let has_tools = self.plan.api == Api::Chat && self.plan.script.tools > 0;
        if has_tools { Piece::Tool { call: 0, piece: 0 } } else { Piece::Finish }
    }

    fn fragments(&self, call: u64) -> u64 {
        render::fragments(&tool_arguments(self.plan.seed, call as usize)).count() as u64
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let piece = self.peek();
        match piece {
            None => self.next = None,
            Some(Piece::Wrong(Fault::ErrorEvent)) => self.next = None,
            Some(Piece::Wrong(_)) => self.fault = None,
            Some(piece) => {
                self.next = self.successor(piece);
                self.tokens += u64::from(piece.is_content());
            }
        }
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::expected_text;

    fn plan(script: Script) -> Plan {
        Plan { stream: true, model: "tiny".to_owned(), seed: 7, script, ..Plan::default() }
    }

    fn pieces(plan: &Plan) -> Vec<Piece> {
        Pieces::new(Arc::new(plan.clone())).collect()
    }

    #[test]
    fn a_stream_has_its_pieces_in_order() {
        let mut plan = plan(Script { reasoning: 1, tools: 2, ..Script::tokens(2) });
        plan.usage = true;
        let all = pieces(&plan);
        assert_eq!(all[..4], [Piece::Role, Piece::Reasoning(0), Piece::Text(0), Piece::Text(1)]);
        assert_eq!(all[4], Piece::Tool { call: 0, piece: 0 });
        assert!(all.contains(&Piece::Tool { call: 1, piece: 3 }));
        assert_eq!(all[all.len() - 3..], [Piece::Finish, Piece::Usage, Piece::Done]);
    }

    #[test]
    fn a_completion_has_neither_role_nor_tools() {
        let mut plan = plan(Script { tools: 2, ..Script::tokens(1) });
        plan.api = Api::Completions;
        assert_eq!(pieces(&plan), [Piece::Text(0), Piece::Finish, Piece::Done]);
    }

    #[test]
    fn a_fault_stands_at_its_place() {
        let at = |fault, at| {
            let script = Script { at, fault: Some(fault), ..Script::tokens(3) };
            pieces(&plan(script))
        };
        assert_eq!(at(Fault::CloseEarly, None), [Piece::Role, Piece::Text(0)]);
        assert_eq!(at(Fault::Stall, Some(0)), [Piece::Role]);
        assert_eq!(at(Fault::NoDone, None).last(), Some(&Piece::Text(2)));
        assert_eq!(at(Fault::ErrorEvent, Some(9))[4..], [Piece::Wrong(Fault::ErrorEvent)]);
        let big = at(Fault::BigEvent, Some(2));
        assert_eq!(big[3..5], [Piece::Wrong(Fault::BigEvent), Piece::Text(2)]);
        assert_eq!(big.last(), Some(&Piece::Done));
        assert_eq!(at(Fault::Gzip, None).len(), 6);
    }

    #[test]
    fn prefixes_are_those_of_the_text() {
        let plan = plan(Script::tokens(20));
        let text = expected_text(7, 20, 0);
        for bytes in 0..text.len() as u64 {
            let hash = hash_on(HASH_EMPTY, &text.as_bytes()[..bytes as usize]);
            let prefix = plan.prefix(Channel::Text(0), bytes).unwrap();
            assert_eq!(prefix, Prefix { hash, bytes, is_whole: false });
        }
        let whole = plan.prefix(Channel::Text(0), u64::MAX).unwrap();
        assert_eq!((whole.bytes, whole.is_whole), (text.len() as u64, true));
        assert_eq!(plan.prefix(Channel::Text(1), 9).unwrap().bytes, 0);
    }
}
