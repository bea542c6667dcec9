//! A whole message.

use ringmain_wire::Kind;
use ringmain_wire::frame::{EndFrame, FinishReason, Usage};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::decode::Origin;
use crate::dialect::answer::Words;
use crate::dialect::gathered::{Called, Gathered};
use crate::dialect::json::push;
use crate::error::UpstreamError;

/// Gathers the answer and writes it at its end.
#[derive(Debug, Default)]
pub(in crate::dialect) struct Whole(Gathered);

impl Words for Whole {
    fn begin(&mut self, origin: &Origin, _: &mut Vec<u8>) {
        self.0.origin.clone_from(origin);
    }

    fn piece(&mut self, kind: Kind, payload: &[u8], _: &mut Vec<u8>) {
        self.0.add(kind, payload);
    }

    fn end(&mut self, end: &EndFrame<'_>, out: &mut Vec<u8>) {
        let Gathered { origin, text, reasoning, tools, usage } = &self.0;
        let thinking = Block::Thinking { thinking: reasoning, signature: "" };
        let said = [(thinking, reasoning), (Block::Text { text }, text)];
        let said = said.into_iter().filter(|(_, text)| !text.is_empty()).map(|(block, _)| block);
        push(
            out,
            &Message {
                id: &origin.id,
                kind: "message",
                role: "assistant",
                model: &origin.model,
                content: said.chain(tools.iter().map(tool_use)).collect(),
                stop_reason: stop_reason(end.reason(), !tools.is_empty()),
                stop_sequence: None,
                usage: usage_value(usage),
            },
        );
    }

    fn error(&mut self, _: &UpstreamError, _: &str, _: &mut Vec<u8>) {}
}

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block<'a>>,
    stop_reason: &'static str,
    stop_sequence: Option<&'static str>,
    usage: Value,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Text { text: &'a str },
    Thinking { thinking: &'a str, signature: &'static str },
    ToolUse { id: &'a str, name: &'a str, input: Input<'a> },
}

/// The input of a tool, as the model wrote it: no number is rounded, no field moved. What is no
/// JSON, which a model can produce, stays a text.
#[derive(Serialize)]
#[serde(untagged)]
enum Input<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

fn tool_use(tool: &Called) -> Block<'_> {
    let text = match tool.arguments.trim_ascii() {
        "" => "{}",
        text => text,
    };
    let input = serde_json::from_str(text).map_or(Input::Text(text), Input::Json);
    Block::ToolUse { id: &tool.id, name: &tool.name, input }
}

/// The cached part of the input is counted beside it.
pub(super) fn usage_value(usage: &Usage) -> Value {
    let beside = usage.input_cached.saturating_add(usage.input_cache_written);
    let mut value = json!({
        "input_tokens": usage.input.saturating_sub(beside),
        "cache_creation_input_tokens": usage.input_cache_written,
        "cache_read_input_tokens": usage.input_cached,
        "output_tokens": usage.output,
    });
    if usage.output_reasoning > 0 {
        value["output_tokens_details"] = json!({"thinking_tokens": usage.output_reasoning});
    }
    value
}

/// The word for a reason. Some servers call an answer that calls tools just done; its callers go
/// by the reason.
pub(super) fn stop_reason(reason: FinishReason, has_tools: bool) -> &'static str {
    match reason {
        FinishReason::Length => "max_tokens",
        FinishReason::ContentFilter | FinishReason::Refusal => "refusal",
        FinishReason::ToolCalls => "tool_use",
        _ if has_tools => "tool_use",
        _ => "end_turn",
    }
}
