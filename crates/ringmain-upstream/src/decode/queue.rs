//! The pieces of one event, waiting to be taken: places, not copies.

use std::collections::VecDeque;
use std::ops::Range;

use ringmain_wire::Kind;
use ringmain_wire::frame::{ToolFrame, Usage};
use serde_json::value::RawValue;

use super::text::{has_escape, inside, range_in, text, unescape};

/// Where a payload lies.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The present event with all its bytes.
    Raw,
    /// The present chunk of the body.
    Chunk,
    /// In the JSON text that is being read.
    Text(Range<usize>),
    /// In the queue's text without escapes.
    Unescaped(Range<usize>),
    /// In the queue's encoded payloads.
    Encoded(Range<usize>),
}

#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub kind: Kind,
    pub choice: u16,
    pub content: bool,
    pub place: Place,
}

/// Bound: what one event, or one plain answer, holds; both are bounded in bytes. The buffers are
/// reused, so a stream in full flow allocates nothing here.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Queued>,
    pub unescaped: String,
    pub encoded: Vec<u8>,
    /// Only notice content, queue none of it: the event will be passed on as it is.
    pub silent: bool,
    /// Whether anything generated was met since the last `begin`.
    pub content: bool,
    buffers: [String; 3],
}

/// A tool call's piece as the provider wrote it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ToolText<'a> {
    pub id: Option<&'a RawValue>,
    pub name: Option<&'a RawValue>,
    pub arguments: Option<&'a RawValue>,
}

impl Queue {
    /// Makes room for the next event: every piece of the last one was taken.
    pub fn begin(&mut self) {
        debug_assert!(self.waiting.is_empty());
        self.unescaped.clear();
        self.encoded.clear();
        self.content = false;
    }

    pub fn pop(&mut self) -> Option<Queued> {
        self.waiting.pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn push_raw(&mut self, kind: Kind, content: bool) {
        self.push(kind, 0, content, Place::Raw);
    }

    pub fn push_chunk(&mut self) {
        self.push(Kind::Body, 0, true, Place::Chunk);
    }

    pub fn push_usage(&mut self, usage: &Usage) {
        let start = self.encoded.len();
        self.encoded.extend_from_slice(usage.as_bytes());
        self.push(Kind::Usage, 0, false, Place::Encoded(start..self.encoded.len()));
    }

    /// A string of the JSON text `whole`; nothing when it is empty or no string.
    pub fn push_text(&mut self, kind: Kind, choice: u16, whole: &[u8], raw: Option<&RawValue>) {
        self.push_inside(kind, choice, whole, raw.and_then(inside).unwrap_or_default());
    }

    /// The inside of a string of the JSON text `whole`; nothing when it is empty.
    pub fn push_inside(&mut self, kind: Kind, choice: u16, whole: &[u8], inside: &str) {
        if inside.is_empty() {
            return;
        }
        if !has_escape(inside) {
            self.push_plain(kind, choice, whole, inside.as_bytes());
            return;
        }
        self.content = true;
        if !self.silent {
            let start = self.unescaped.len();
            unescape(inside, &mut self.unescaped);
            self.push(kind, choice, true, Place::Unescaped(start..self.unescaped.len()));
        }
    }

    /// Text of the JSON text `whole` that stands there as it is; nothing when it is empty.
    pub fn push_plain(&mut self, kind: Kind, choice: u16, whole: &[u8], text: &[u8]) {
        self.content |= !text.is_empty();
        if !text.is_empty() && !self.silent {
            self.push(kind, choice, true, Place::Text(range_in(whole, text)));
        }
    }

    pub fn push_tool(&mut self, choice: u16, index: u32, tool: ToolText<'_>) {
        self.content = true;
        if self.silent {
            return;
        }
        let [id, name, arguments] = &mut self.buffers;
        // Some servers write the arguments as an object instead of its text.
        let bare = tool.arguments.map(RawValue::get).filter(|raw| raw.starts_with(['{', '[']));
        let frame = ToolFrame {
            index,
            id: text(tool.id, id),
            name: text(tool.name, name),
            arguments: bare.unwrap_or_else(|| text(tool.arguments, arguments)),
        };
        let start = self.encoded.len();
        frame.encode(&mut self.encoded);
        self.push(Kind::Tool, choice, true, Place::Encoded(start..self.encoded.len()));
    }

    fn push(&mut self, kind: Kind, choice: u16, content: bool, place: Place) {
        self.waiting.push_back(Queued { kind, choice, content, place });
    }
}
