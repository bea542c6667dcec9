//! A stream of chat completion chunks.

use ringmain_wire::Kind;
use ringmain_wire::frame::{EndFrame, ToolFrame, Usage};

use crate::config::Dialect;
use crate::decode::Origin;
use crate::dialect::answer::Words;
use crate::dialect::errors::error_value;
use crate::dialect::json::{push, push_raw, push_text};
use crate::error::UpstreamError;

use super::whole::{finish_reason, usage_value};

/// Behind the choice of a chunk that is not the last.
const MORE: &str = "},\"logprobs\":null,\"finish_reason\":null}]}\n\n";

/// Writes chunks.
#[derive(Debug)]
pub(in crate::dialect) struct Events {
    wants_usage: bool,
    now_s: u64,
    /// The beginning of every chunk, up to its choices.
    begin: Vec<u8>,
    usage: Usage,
    /// The tool call that is being told, and whether it got arguments.
    tool: Option<(u32, bool)>,
}

impl Events {
    /// For a caller who wants usage or not, at this time in seconds since 1970.
    pub fn new(wants_usage: bool, now_s: u64) -> Events {
        Events { wants_usage, now_s, begin: Vec::new(), usage: Usage::default(), tool: None }
    }

    /// Opens a chunk with one choice, up to the inside of its delta.
    fn open(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.begin);
        push_raw(out, "[{\"index\":0,\"delta\":{");
    }

    fn text(&self, name: &str, payload: &[u8], out: &mut Vec<u8>) {
        self.open(out);
        push_raw(out, name);
        push_text(out, payload);
        push_raw(out, MORE);
    }

    fn tool(&mut self, piece: &ToolFrame<'_>, out: &mut Vec<u8>) {
        let is_new = self.tool.is_none_or(|(index, _)| index != piece.index);
        if is_new {
            self.close_tool(out);
        }
        let is_argued = self.tool.is_some_and(|(_, argued)| argued) || !piece.arguments.is_empty();
        self.tool = Some((piece.index, is_argued));
        self.open(out);
        push_raw(out, "\"tool_calls\":[{\"index\":");
        push(out, &piece.index);
        if !piece.id.is_empty() || !piece.name.is_empty() {
            push_raw(out, ",\"id\":");
            push(out, piece.id);
            push_raw(out, ",\"type\":\"function\"");
        }
        push_raw(out, ",\"function\":{");
        if !piece.name.is_empty() {
            push_raw(out, "\"name\":");
            push(out, piece.name);
            push_raw(out, ",");
        }
        push_raw(out, "\"arguments\":");
        push(out, piece.arguments);
        push_raw(out, "}}]");
        push_raw(out, MORE);
    }

    /// A call without arguments is told by some as no text at all, which is no JSON.
    fn close_tool(&mut self, out: &mut Vec<u8>) {
        if let Some((index, false)) = self.tool.take() {
            let piece = ToolFrame { index, arguments: "{}", ..ToolFrame::default() };
            self.tool(&piece, out);
            self.tool = None;
        }
    }
}

impl Words for Events {
    fn begin(&mut self, origin: &Origin, out: &mut Vec<u8>) {
        let begin = &mut self.begin;
        push_raw(begin, "data: {\"id\":");
        push(begin, &origin.id);
        push_raw(begin, ",\"object\":\"chat.completion.chunk\",\"created\":");
        push(begin, &self.now_s);
        push_raw(begin, ",\"model\":");
        push(begin, &origin.model);
        push_raw(begin, ",\"choices\":");
        self.open(out);
        push_raw(out, "\"role\":\"assistant\",\"content\":\"\"");
        push_raw(out, MORE);
    }

    fn piece(&mut self, kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
        match kind {
            Kind::Delta => self.text("\"content\":", payload, out),
            Kind::Reasoning => self.text("\"reasoning_content\":", payload, out),
            Kind::Usage => self.usage = Usage::parse(payload).unwrap_or_default(),
            Kind::Tool => {
                if let Ok(piece) = ToolFrame::parse(payload) {
                    self.tool(&piece, out);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, end: &EndFrame<'_>, out: &mut Vec<u8>) {
        self.close_tool(out);
        self.open(out);
        push_raw(out, "},\"logprobs\":null,\"finish_reason\":");
        push(out, finish_reason(end.reason()));
        push_raw(out, "}]}\n\n");
        if self.wants_usage {
            out.extend_from_slice(&self.begin);
            push_raw(out, "[],\"usage\":");
            push(out, &usage_value(&self.usage));
            push_raw(out, "}\n\n");
        }
        push_raw(out, "data: [DONE]\n\n");
    }

    fn error(&mut self, error: &UpstreamError, words: &str, out: &mut Vec<u8>) {
        let status = error.http_status.filter(|status| *status >= 400).unwrap_or(500);
        push_raw(out, "data: ");
        push(out, &error_value(Dialect::OpenAi, status, &error.provider_code, words));
        push_raw(out, "\n\n");
    }
}
