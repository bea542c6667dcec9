//! The messages API: the same answers, in the dialect of Anthropic.
//!
//! An answer is rendered as a whole and then streamed like a recording, in chunks of random size,
//! so events come cut anywhere. Delays of the head, pace, `status`, `replay` and the faults that
//! break a body off work as everywhere.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::answer::{Answering, EVENTS, JSON, delay_of, whole};
use super::ask::Asked;
use super::replay::Replay;
use super::stream::{Broken, Source, Writes};
use crate::plan::Plan;
use crate::render::fragments;
use crate::text::{expected_text, reasoning_seed, token_text, tool_arguments};

/// Tokens that a tool call is said to cost.
const TOOL_TOKENS: u64 = 12;
/// Most tokens of one answer: it is rendered before it is sent.
const TOKENS_MAX: u64 = 100_000;

/// Answers one request to this API.
pub(super) async fn follow(answering: Answering, asked: Asked) -> Result<Response<Writes>, Broken> {
    if asked.plan.script.replay.is_some() {
        return answering.follow(asked).await;
    }
    let mut plan = asked.plan;
    if plan.script.n + plan.script.reasoning > TOKENS_MAX {
        plan.script.status = 400;
    }
    answering.plan(&mut plan);
    let plan = Arc::new(plan);
    tokio::time::sleep(delay_of(&plan)).await;
    let (content_type, source) = match (plan.script.status, plan.stream) {
        (200, true) => {
            let replay = Replay::new(stream(&plan), plan.script.chunk, plan.seed);
            (EVENTS, Source::Replay(replay))
        }
        (200, false) => (JSON, whole(message(&plan).to_string().into_bytes())),
        (status, _) => (JSON, whole(error(status).to_string().into_bytes())),
    };
    Ok(answering.respond(plan, content_type, source))
}

/// All events of a stream.
fn stream(plan: &Plan) -> Bytes {
    let mut out = String::new();
    let mut blocks = 0;
    let mut start = message(plan);
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    start["usage"]["output_tokens"] = json!(1);
    push(&mut out, &json!({"type": "message_start", "message": start}));
    push(&mut out, &json!({"type": "ping"}));
    let script = &plan.script;
    if script.reasoning > 0 {
        let seed = reasoning_seed(plan.seed);
        let deltas = (0..script.reasoning).map(|index| {
            let text = token_text(seed, index as usize, script.size as usize);
            json!({"type": "thinking_delta", "thinking": text})
        });
        let signature = json!({"type": "signature_delta", "signature": "c2lt"});
        let block = json!({"type": "thinking", "thinking": "", "signature": ""});
        push_block(&mut out, &mut blocks, &block, deltas.chain([signature]));
    }
    if script.n > 0 {
        let deltas = (0..script.n).map(|index| {
            let text = token_text(plan.seed, index as usize, script.size as usize);
            json!({"type": "text_delta", "text": text})
        });
        push_block(&mut out, &mut blocks, &json!({"type": "text", "text": ""}), deltas);
    }
    for call in 0..script.tools {
        let arguments = tool_arguments(plan.seed, call as usize);
        let deltas = fragments(&arguments)
            .map(|text| json!({"type": "input_json_delta", "partial_json": text}));
        push_block(&mut out, &mut blocks, &tool_use(plan, call, json!({})), deltas);
    }
    let whole = message(plan);
    let delta = json!({"stop_reason": whole["stop_reason"], "stop_sequence": null});
    push(&mut out, &json!({"type": "message_delta", "delta": delta, "usage": whole["usage"]}));
    push(&mut out, &json!({"type": "message_stop"}));
    out.into()
}

fn push_block(
    out: &mut String,
    blocks: &mut u64,
    block: &Value,
    deltas: impl Iterator<Item = Value>,
) {
    let index = *blocks;
    *blocks += 1;
    push(out, &json!({"type": "content_block_start", "index": index, "content_block": block}));
    for delta in deltas {
        push(out, &json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }
    push(out, &json!({"type": "content_block_stop", "index": index}));
}

fn push(out: &mut String, event: &Value) {
    let kind = event["type"].as_str().unwrap_or_default();
    out.push_str(&format!("event: {kind}\ndata: {event}\n\n"));
}

/// A whole answer.
fn message(plan: &Plan) -> Value {
    let script = &plan.script;
    let mut content = Vec::new();
    if script.reasoning > 0 {
        let seed = reasoning_seed(plan.seed);
        let text = expected_text(seed, script.reasoning as usize, script.size as usize);
        content.push(json!({"type": "thinking", "thinking": text, "signature": "c2lt"}));
    }
    if script.n > 0 {
        let text = expected_text(plan.seed, script.n as usize, script.size as usize);
        content.push(json!({"type": "text", "text": text}));
    }
    for call in 0..script.tools {
        let input = serde_json::from_str(&tool_arguments(plan.seed, call as usize));
        content.push(tool_use(plan, call, input.unwrap_or_default()));
    }
    let output = script.n + script.reasoning + script.tools * TOOL_TOKENS;
    let usage = json!({
        "input_tokens": plan.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": output,
    });
    json!({
        "id": format!("msg_{:016x}", plan.seed),
        "type": "message",
        "role": "assistant",
        "model": plan.model,
        "content": content,
        "stop_reason": if script.tools > 0 { "tool_use" } else { "end_turn" },
        "stop_sequence": null,
        "usage": usage,
    })
}

fn tool_use(plan: &Plan, call: u64, input: Value) -> Value {
    let id = format!("toolu_{:016x}_{call}", plan.seed);
    json!({"type": "tool_use", "id": id, "name": format!("tool_{call}"), "input": input})
}

fn error(status: u16) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let message = format!("the simulated provider answers {status}");
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": null})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Script;

    #[test]
    fn a_stream_says_what_the_whole_answer_says() {
        let script = Script { tools: 2, reasoning: 3, ..Script::tokens(20) };
        let plan = Plan { stream: true, seed: 7, script, ..Plan::default() };
        let bytes = stream(&plan);
        let text = str::from_utf8(&bytes).unwrap();
        let (mut said, mut thought, mut kinds) = (String::new(), String::new(), Vec::new());
        for line in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let event: Value = serde_json::from_str(line).unwrap();
            said.push_str(event["delta"]["text"].as_str().unwrap_or_default());
            thought.push_str(event["delta"]["thinking"].as_str().unwrap_or_default());
            kinds.push(event["type"].as_str().unwrap().to_owned());
        }
        let whole = message(&plan);
        assert_eq!(whole["content"][1]["text"], said);
        assert_eq!(whole["content"][0]["thinking"], thought);
        assert_eq!(kinds.iter().filter(|kind| *kind == "content_block_start").count(), 4);
        assert_eq!((&*kinds[0], &*kinds[kinds.len() - 1]), ("message_start", "message_stop"));
    }
}
