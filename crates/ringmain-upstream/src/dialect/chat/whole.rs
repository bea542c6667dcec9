//! A whole chat completion.

use ringmain_wire::Kind;
use ringmain_wire::frame::{EndFrame, FinishReason, Usage};
use serde_json::{Value, json};

use crate::decode::Origin;
use crate::dialect::answer::Words;
use crate::dialect::gathered::{Called, Gathered};
use crate::dialect::json::push;
use crate::error::UpstreamError;

/// Gathers the answer and writes it at its end.
#[derive(Debug)]
pub(in crate::dialect) struct Whole {
    gathered: Gathered,
    now_s: u64,
}

impl Whole {
    /// At this time in seconds since 1970.
    pub fn new(now_s: u64) -> Whole {
        Whole { gathered: Gathered::default(), now_s }
    }
}

impl Words for Whole {
    fn begin(&mut self, origin: &Origin, _: &mut Vec<u8>) {
        self.gathered.origin.clone_from(origin);
    }

    fn piece(&mut self, kind: Kind, payload: &[u8], _: &mut Vec<u8>) {
        self.gathered.add(kind, payload);
    }

    fn end(&mut self, end: &EndFrame<'_>, out: &mut Vec<u8>) {
        let Gathered { origin, text, reasoning, tools, usage } = &self.gathered;
        let content = if text.is_empty() && !tools.is_empty() { Value::Null } else { json!(text) };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !reasoning.is_empty() {
            message["reasoning_content"] = json!(reasoning);
        }
        if !tools.is_empty() {
            message["tool_calls"] = tools.iter().map(tool_call).collect();
        }
        let choice = json!({
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish_reason(end.reason()),
        });
        let answer = json!({
            "id": origin.id,
            "object": "chat.completion",
            "created": self.now_s,
            "model": origin.model,
            "choices": [choice],
            "usage": usage_value(usage),
        });
        push(out, &answer);
    }

    fn error(&mut self, _: &UpstreamError, _: &str, _: &mut Vec<u8>) {}
}

fn tool_call(tool: &Called) -> Value {
    let arguments = if tool.arguments.is_empty() { "{}" } else { &tool.arguments };
    let function = json!({"name": tool.name, "arguments": arguments});
    json!({"id": tool.id, "type": "function", "function": function})
}

pub(super) fn usage_value(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {
            "cached_tokens": usage.input_cached,
            "cache_write_tokens": usage.input_cache_written,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.output_reasoning},
    })
}

/// The word for a reason. A pause, and what is not known, is an end like any other.
pub(super) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter | FinishReason::Refusal => "content_filter",
        _ => "stop",
    }
}
