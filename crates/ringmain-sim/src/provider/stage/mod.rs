//! Answers that are laid down in advance, write by write, because a fault wants them exact.
//!
//! An ordinary answer is rendered while it is asked for. A staged one is small and whole before
//! its first byte leaves: what it consists of, how it is cut, what comes between and how it ends.

mod framing;
mod shape;
mod whole;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::fault::{Fault, Place};
use crate::plan::{Piece, Pieces, Plan};
use crate::render::{self, Renderer};

/// Most tokens of an answer that is staged.
pub(super) const TOKENS_MAX: u64 = 20_000;
/// Most writes of something that goes on for ever, so that it ends if nobody stops it.
const REPEATS_MAX: u64 = 100_000;

/// One write.
#[derive(Clone, Debug, Default)]
pub(super) struct Act {
    /// Time before it.
    pub(super) after: Duration,
    pub(super) bytes: Bytes,
    /// Tokens in it.
    pub(super) tokens: u64,
    /// Whether it holds the terminal marker.
    pub(super) is_marker: bool,
}

/// How a staged answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StageEnd {
    /// The body ends as it should.
    Whole,
    /// The connection (HTTP/2: the stream) ends.
    Break,
    /// GOAWAY, then the connection ends.
    Goaway,
    /// Nothing follows.
    Hold,
    /// The stream of HTTP/2 ends for this reason.
    Stream(h2::Reason),
}

/// A staged answer.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the head stands in the writes, and the server library's is left out.
    pub(super) is_verbatim: bool,
    /// Whether this is a JSON document in the place of a stream.
    pub(super) is_json: bool,
    pub(super) end: StageEnd,
    acts: VecDeque<Act>,
    repeat: Option<(Act, u64)>,
    due: Option<Instant>,
}

/// A piece of the answer as it would be rendered.
#[derive(Clone, Debug)]
struct Part {
    bytes: Vec<u8>,
    piece: Piece,
    tokens: u64,
}

impl Staged {
    fn new(acts: impl IntoIterator<Item = Act>, end: StageEnd) -> Staged {
        Staged {
            headers: Vec::new(),
            is_verbatim: false,
            is_json: false,
            end,
            acts: acts.into_iter().collect(),
            repeat: None,
            due: None,
        }
    }

    fn encoded(mut self, encoding: &'static str) -> Staged {
        self.headers.push((CONTENT_ENCODING, HeaderValue::from_static(encoding)));
        self
    }

    fn repeating(mut self, act: Act) -> Staged {
        self.repeat = Some((act, REPEATS_MAX));
        self
    }

    /// Bytes of the whole body, where it ends.
    pub(super) fn length(&self) -> Option<u64> {
        let bytes = self.acts.iter().map(|act| act.bytes.len() as u64).sum();
        // A length that is never reached keeps the server library from framing what is verbatim.
        const NEVER: u64 = 1 << 50;
        match (self.is_verbatim, self.end) {
            (true, StageEnd::Whole) => Some(bytes),
            (true, _) => Some(NEVER),
            _ => None,
        }
    }

    /// When the next write is due.
    pub(super) fn due(&mut self) -> Instant {
        let after = self.acts.front().or(self.repeat.as_ref().map(|repeat| &repeat.0));
        let after = after.map_or(Duration::ZERO, |act| act.after);
        *self.due.get_or_insert_with(|| Instant::now() + after)
    }

    pub(super) fn next(&mut self) -> Option<Act> {
        self.due = None;
        self.acts.pop_front().or_else(|| match &mut self.repeat {
            Some((act, left)) if *left > 0 => {
                *left -= 1;
                Some(act.clone())
            }
            _ => None,
        })
    }
}

impl Act {
    fn write(bytes: impl Into<Vec<u8>>) -> Act {
        Act { bytes: Bytes::from(bytes.into()), ..Act::default() }
    }

    fn after(mut self, millis: u64) -> Act {
        self.after = Duration::from_millis(millis);
        self
    }
}

impl From<Part> for Act {
    fn from(part: Part) -> Act {
        let is_marker = part.piece == Piece::Done;
        Act { tokens: part.tokens, is_marker, ..Act::write(part.bytes) }
    }
}

/// The staged answer of this plan, where its fault wants one.
pub(super) fn of(plan: &Arc<Plan>) -> Option<Staged> {
    let fault = plan.script.fault?;
    let staged = match fault.place() {
        Place::Framing => framing::stage(fault, &parts(plan), before(plan)),
        Place::Shape => shape::stage(fault, plan, parts(plan)),
        Place::Coding if fault != Fault::Gzip => whole::coded(fault, &parts(plan)),
        Place::Whole if !matches!(fault, Fault::Empty | Fault::NotSse) => {
            whole::stage(fault, parts(plan), before(plan))
        }
        Place::Frames => frames(fault, plan)?,
        _ => return None,
    };
    Some(staged)
}

/// Answers that end by frames of HTTP/2.
fn frames(fault: Fault, plan: &Arc<Plan>) -> Option<Staged> {
    let parts = parts(plan);
    let end = match fault {
        Fault::RstCalm => StageEnd::Stream(h2::Reason::ENHANCE_YOUR_CALM),
        Fault::RstNoError => StageEnd::Stream(h2::Reason::NO_ERROR),
        Fault::GoawayCut => StageEnd::Goaway,
        Fault::LengthWrong2 => {
            let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
            let acts = upto(&parts, before(plan)).into_iter().map(Act::from);
            let mut staged = Staged::new(acts, StageEnd::Whole);
            staged.headers.push((CONTENT_LENGTH, HeaderValue::from(bytes + 100)));
            return Some(staged);
        }
        _ => return None,
    };
    Some(Staged::new(upto(&parts, before(plan)).into_iter().map(Act::from), end))
}

/// Tokens before the fault acts.
fn before(plan: &Plan) -> u64 {
    plan.script.at.unwrap_or(1)
}

/// The answer as it would be, piece by piece.
fn parts(plan: &Arc<Plan>) -> Vec<Part> {
    if !plan.stream {
        let bytes = render::whole_answer(plan);
        return vec![Part { bytes, piece: Piece::Role, tokens: 0 }];
    }
    let mut renderer = Renderer::new(plan);
    let part = |piece: Piece| {
        let mut bytes = Vec::new();
        renderer.render(piece, None, &mut bytes);
        Part { bytes, piece, tokens: u64::from(piece.is_content()) }
    };
    Pieces::new(Arc::clone(plan)).map(part).collect()
}

/// The parts up to so many tokens; never the end.
fn upto(parts: &[Part], tokens: u64) -> Vec<Part> {
    let mut seen = 0;
    let is_before = |part: &&Part| {
        seen += part.tokens;
        seen <= tokens && !matches!(part.piece, Piece::Finish | Piece::Usage | Piece::Done)
    };
    parts.iter().take_while(is_before).cloned().collect()
}

fn concat(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.bytes.iter().copied()).collect()
}

fn tokens(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.tokens).sum()
}
