//! A whole message.

use ringmain_wire::Kind;
use ringmain_wire::frame::{EndFrame, FinishReason, Usage};
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
        let mut content = Vec::with_capacity(tools.len() + 2);
        if !reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": reasoning, "signature": ""}));
        }
        if !text.is_empty() {
            content.push(json!({"type": "text", "text": text}));
        }
        content.extend(tools.iter().map(tool_use));
        let answer = json!({
            "id": origin.id,
            "type": "message",
            "role": "assistant",
            "model": origin.model,
            "content": content,
            "stop_reason": stop_reason(end.reason(), !tools.is_empty()),
            "stop_sequence": null,
            "usage": usage_value(usage),
        });
        push(out, &answer);
    }

    fn error(&mut self, _: &UpstreamError, _: &str, _: &mut Vec<u8>) {}
}

/// Arguments that are no JSON, which a model can produce, stay what they are: a text.
fn tool_use(tool: &Called) -> Value {
    let input = match tool.arguments.trim_ascii() {
        "" => json!({}),
        text => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
    };
    json!({"type": "tool_use", "id": tool.id, "name": tool.name, "input": input})
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
