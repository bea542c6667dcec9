//! A stream of message events.
//!
//! A content block is open until a piece of another kind, or of another tool call, comes. Servers
//! that tell parallel calls by turns are rare; a fragment of a call whose block was closed still
//! names that block, and client libraries put it where it belongs.

use ringmain_wire::Kind;
use ringmain_wire::frame::{EndFrame, ToolFrame, Usage};

use crate::config::Dialect;
use crate::decode::Origin;
use crate::dialect::answer::Words;
use crate::dialect::errors::error_value;
use crate::dialect::json::{push, push_raw, push_text};
use crate::error::UpstreamError;

use super::whole::{stop_reason, usage_value};

/// Writes events.
#[derive(Debug, Default)]
pub(in crate::dialect) struct Events {
    open: Option<Open>,
    /// Number of the next block.
    next: u32,
    /// The block of each tool call. Bound: the decoder's, on tool calls.
    tools: Vec<(u32, u32)>,
    usage: Usage,
}

/// The block that is open: always the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    Tool(u32),
}

impl Events {
    fn text(&mut self, kind: Open, payload: &[u8], out: &mut Vec<u8>) {
        let (block, delta) = match kind {
            Open::Thinking => (
                "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}",
                "{\"type\":\"thinking_delta\",\"thinking\":",
            ),
            _ => ("{\"type\":\"text\",\"text\":\"\"}", "{\"type\":\"text_delta\",\"text\":"),
        };
        if self.open != Some(kind) {
            self.start(kind, out);
            push_raw(out, block);
            push_raw(out, "}\n\n");
        }
        delta_of(self.next - 1, delta, out);
        push_text(out, payload);
        push_raw(out, "}}\n\n");
    }

    fn tool(&mut self, piece: &ToolFrame<'_>, out: &mut Vec<u8>) {
        let known = self.tools.iter().rfind(|tool| tool.0 == piece.index);
        let block = known.map_or(self.next, |tool| tool.1);
        if known.is_none() {
            self.tools.push((piece.index, block));
            self.start(Open::Tool(piece.index), out);
            push_raw(out, "{\"type\":\"tool_use\",\"id\":");
            push(out, piece.id);
            push_raw(out, ",\"name\":");
            push(out, piece.name);
            push_raw(out, ",\"input\":{}}}\n\n");
        }
        if !piece.arguments.is_empty() {
            delta_of(block, "{\"type\":\"input_json_delta\",\"partial_json\":", out);
            push(out, piece.arguments);
            push_raw(out, "}}\n\n");
        }
    }

    /// Closes what is open and begins a block, up to the block itself.
    fn start(&mut self, kind: Open, out: &mut Vec<u8>) {
        self.stop(out);
        push_raw(out, "event: content_block_start\ndata: {\"type\":\"content_block_start\",");
        push_raw(out, "\"index\":");
        push(out, &self.next);
        push_raw(out, ",\"content_block\":");
        self.open = Some(kind);
        self.next += 1;
    }

    fn stop(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            push_raw(out, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",");
            push_raw(out, "\"index\":");
            push(out, &(self.next - 1));
            push_raw(out, "}\n\n");
        }
    }
}

/// Begins a delta of a block.
fn delta_of(block: u32, delta: &str, out: &mut Vec<u8>) {
    push_raw(out, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":");
    push(out, &block);
    push_raw(out, ",\"delta\":");
    push_raw(out, delta);
}

impl Words for Events {
    fn begin(&mut self, origin: &Origin, out: &mut Vec<u8>) {
        push_raw(
            out,
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":",
        );
        push(out, &origin.id);
        push_raw(out, ",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
        push(out, &origin.model);
        push_raw(out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
        // The endpoint tells its counts at the end; they come with the reason of the end.
        push(out, &usage_value(&Usage::default()));
        push_raw(out, "}}\n\n");
    }

    fn piece(&mut self, kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
        match kind {
            Kind::Delta => self.text(Open::Text, payload, out),
            Kind::Reasoning => self.text(Open::Thinking, payload, out),
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
        self.stop(out);
        push_raw(out, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":");
        push_raw(out, "{\"stop_reason\":");
        push(out, stop_reason(end.reason(), !self.tools.is_empty()));
        push_raw(out, ",\"stop_sequence\":null},\"usage\":");
        push(out, &usage_value(&self.usage));
        push_raw(out, "}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    }

    fn error(&mut self, error: &UpstreamError, words: &str, out: &mut Vec<u8>) {
        let status = error.http_status.filter(|status| *status >= 400).unwrap_or(500);
        push_raw(out, "event: error\ndata: ");
        push(out, &error_value(Dialect::Anthropic, status, &error.provider_code, words));
        push_raw(out, "\n\n");
    }
}
