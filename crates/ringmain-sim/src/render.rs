//! The bytes of answers, in the dialect of OpenAI.
//!
//! Whatever is the same in all events of a stream is rendered once; a token costs its text and
//! two copies.

use std::io::Write;

use serde_json::{Value, json};

use crate::fault::Fault;
use crate::plan::{Api, Piece, Plan};
use crate::text::{expected_text, push_stamp, push_token, reasoning_seed, tool_arguments};

/// The page that comes instead of a stream.
pub(crate) const HTML: &str = "<!DOCTYPE html><html><head><title>502</title></head>\
    <body><h1>Bad gateway</h1><p>data: not an event</p></body></html>\n";

/// A fixed time: an answer is the same whenever it is given.
const CREATED: u64 = 1_700_000_000;
/// Characters of one fragment of a tool call's arguments.
const FRAGMENT_CHARS: usize = 9;
/// Tokens that a tool call is said to cost.
const TOOL_TOKENS: u64 = 12;

/// Renders the events of one stream.
#[derive(Debug)]
pub(crate) struct Renderer {
    api: Api,
    seed: u64,
    size: usize,
    big: usize,
    reason: &'static str,
    usage: Vec<u8>,
    /// From `data:` to where a choice says its piece.
    open: Vec<u8>,
    text: String,
}

impl Renderer {
    pub(crate) fn new(plan: &Plan) -> Renderer {
        let mut open = b"data: ".to_vec();
        open.extend_from_slice(&opening(plan, true));
        let mut usage = open.clone();
        usage.extend_from_slice(b"],\"usage\":");
        usage.extend_from_slice(usage_of(plan).to_string().as_bytes());
        usage.extend_from_slice(b"}\n\n");
        Renderer {
            api: plan.api,
            seed: plan.seed,
            size: plan.script.size as usize,
            big: plan.script.big as usize,
            reason: finish_reason(plan),
            usage,
            open,
            text: String::new(),
        }
    }

    /// Appends the event of a piece. `stamp_ns` goes in front of a text token.
    pub(crate) fn render(&mut self, piece: Piece, stamp_ns: Option<u64>, out: &mut Vec<u8>) {
        self.text.clear();
        match piece {
            Piece::Role => self.delta(out, br#""role":"assistant","content":"""#),
            Piece::Text(index) => {
                if let Some(time_ns) = stamp_ns {
                    push_stamp(&mut self.text, time_ns);
                }
                push_token(&mut self.text, self.seed, index as usize, self.size);
                self.said(out, "content");
            }
            Piece::Reasoning(index) => {
                let seed = reasoning_seed(self.seed);
                push_token(&mut self.text, seed, index as usize, self.size);
                self.said(out, "reasoning_content");
            }
            Piece::Tool { call, piece } => {
                let tool = tool_piece(self.seed, call, piece);
                self.delta(out, format!("\"tool_calls\":[{tool}]").as_bytes());
            }
            Piece::Finish => self.finish(out),
            Piece::Usage => out.extend_from_slice(&self.usage),
            Piece::Done => out.extend_from_slice(b"data: [DONE]\n\n"),
            Piece::Wrong(Fault::BigEvent) => {
                self.text.extend(std::iter::repeat_n('x', self.big));
                self.said(out, "content");
            }
            Piece::Wrong(Fault::InvalidJson) => {
                out.extend_from_slice(&self.open);
                out.extend_from_slice(b"{\"index\":0,\"delta\":{\"content\":\"cut\n\n");
            }
            Piece::Wrong(_) => {
                let error = error_object("the simulated engine is overloaded", "overloaded_error");
                out.extend_from_slice(format!("data: {error}\n\n").as_bytes());
            }
        }
    }

    /// The event of a token, whose text stands in `self.text`.
    fn said(&self, out: &mut Vec<u8>, key: &str) {
        out.extend_from_slice(&self.open);
        match self.api {
            Api::Completions => {
                out.extend_from_slice(b"{\"text\":");
                push_json_string(out, &self.text);
                out.extend_from_slice(b",\"index\":0");
            }
            _ => {
                out.extend_from_slice(b"{\"index\":0,\"delta\":{\"");
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(b"\":");
                push_json_string(out, &self.text);
                out.push(b'}');
            }
        }
        out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    }

    fn delta(&self, out: &mut Vec<u8>, members: &[u8]) {
        out.extend_from_slice(&self.open);
        out.extend_from_slice(b"{\"index\":0,\"delta\":{");
        out.extend_from_slice(members);
        out.extend_from_slice(b"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    }

    fn finish(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.open);
        out.extend_from_slice(match self.api {
            Api::Completions => b"{\"text\":\"\",\"index\":0".as_slice(),
            _ => b"{\"index\":0,\"delta\":{}",
        });
        out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":\"");
        out.extend_from_slice(self.reason.as_bytes());
        out.extend_from_slice(b"\"}]}\n\n");
    }
}

/// The body of an answer that is not a stream.
pub(crate) fn whole_answer(plan: &Plan) -> Vec<u8> {
    let text = expected_text(plan.seed, plan.script.n as usize, plan.script.size as usize);
    let mut out = opening(plan, false);
    let reason = finish_reason(plan);
    let choice = match plan.api {
        Api::Completions => {
            json!({ "text": text, "index": 0, "logprobs": null, "finish_reason": reason })
        }
        _ => {
            let message = message_of(plan, text);
            json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": reason })
        }
    };
    out.extend_from_slice(format!("{choice}],\"usage\":{}}}", usage_of(plan)).as_bytes());
    out
}

/// The body of an answer with an error status.
pub(crate) fn error_body(status: u16) -> Vec<u8> {
    let kind = match status {
        400 | 404 | 413 | 415 | 422 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        _ => "server_error",
    };
    error_object(&format!("the simulated provider answers {status}"), kind).to_string().into_bytes()
}

/// An error as this dialect writes it.
pub(crate) fn error_object(message: &str, kind: &str) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": kind } })
}

/// The fragments that a tool call's arguments come in.
pub(crate) fn fragments(arguments: &str) -> impl Iterator<Item = &str> {
    let mut rest = arguments;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(FRAGMENT_CHARS).map_or(rest.len(), |(at, _)| at);
        let (fragment, after) = rest.split_at(end);
        rest = after;
        (!fragment.is_empty()).then_some(fragment)
    })
}

/// Everything of an answer up to its first choice.
fn opening(plan: &Plan, is_chunk: bool) -> Vec<u8> {
    let (prefix, object) = match (plan.api, is_chunk) {
        (Api::Completions, _) => ("cmpl", "text_completion"),
        (_, true) => ("chatcmpl", "chat.completion.chunk"),
        (_, false) => ("chatcmpl", "chat.completion"),
    };
    let mut out = Vec::new();
    let id = format!("{{\"id\":\"{prefix}-{:016x}\",\"object\":\"{object}\"", plan.seed);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(format!(",\"created\":{CREATED},\"model\":").as_bytes());
    push_json_string(&mut out, &plan.model);
    out.extend_from_slice(b",\"system_fingerprint\":\"fp_sim\",\"choices\":[");
    out
}

fn message_of(plan: &Plan, text: String) -> Value {
    let mut message = json!({ "role": "assistant", "content": text, "refusal": null });
    if plan.script.reasoning > 0 {
        let (n, size) = (plan.script.reasoning as usize, plan.script.size as usize);
        message["reasoning_content"] = expected_text(reasoning_seed(plan.seed), n, size).into();
    }
    if plan.script.tools > 0 {
        let call = |call: u64| {
            let arguments = tool_arguments(plan.seed, call as usize);
            let function = json!({ "name": format!("tool_{call}"), "arguments": arguments });
            json!({ "id": tool_id(plan.seed, call), "type": "function", "function": function })
        };
        message["tool_calls"] = (0..plan.script.tools).map(call).collect();
    }
    message
}

fn tool_piece(seed: u64, call: u64, piece: u64) -> Value {
    if piece == 0 {
        let function = json!({ "name": format!("tool_{call}"), "arguments": "" });
        let id = tool_id(seed, call);
        return json!({ "index": call, "id": id, "type": "function", "function": function });
    }
    let arguments = tool_arguments(seed, call as usize);
    let fragment = fragments(&arguments).nth(piece as usize - 1).unwrap_or("");
    json!({ "index": call, "function": { "arguments": fragment } })
}

fn tool_id(seed: u64, call: u64) -> String {
    format!("call_{seed:016x}_{call}")
}

fn finish_reason(plan: &Plan) -> &'static str {
    if plan.script.tools > 0 && plan.api == Api::Chat { "tool_calls" } else { "stop" }
}

fn usage_of(plan: &Plan) -> Value {
    let script = &plan.script;
    let is_chat = plan.api == Api::Chat;
    let reasoning = if is_chat { script.reasoning } else { 0 };
    let tools = if is_chat { script.tools * TOOL_TOKENS } else { 0 };
    let output = script.n + reasoning + tools;
    json!({
        "prompt_tokens": plan.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": plan.prompt_tokens + output,
        "prompt_tokens_details": { "cached_tokens": 0 },
        "completion_tokens_details": { "reasoning_tokens": reasoning },
    })
}

fn push_json_string(out: &mut Vec<u8>, text: &str) {
    // Most tokens need no escape; the check is cheaper than the serializer's set-up.
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    // Cannot fail: a string is JSON and a vector takes every byte.
    let _ = serde_json::to_writer(out.by_ref(), text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Script;

    fn plan(script: Script) -> Plan {
        Plan { stream: true, model: "ti\"ny".to_owned(), seed: 7, script, ..Plan::default() }
    }

    fn event(renderer: &mut Renderer, piece: Piece) -> Value {
        let mut out = Vec::new();
        renderer.render(piece, None, &mut out);
        let event = str::from_utf8(&out).unwrap();
        let data = event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
        serde_json::from_str(data).unwrap()
    }

    #[test]
    fn every_event_is_json_and_says_its_text() {
        let plan = plan(Script { reasoning: 5, ..Script::tokens(40) });
        let mut renderer = Renderer::new(&plan);
        let mut text = String::new();
        for index in 0..40 {
            let event = event(&mut renderer, Piece::Text(index));
            assert_eq!(event["model"], "ti\"ny");
            text.push_str(event["choices"][0]["delta"]["content"].as_str().unwrap());
        }
        assert_eq!(text, expected_text(7, 40, 0));
        let finish = event(&mut renderer, Piece::Finish);
        assert_eq!(finish["choices"][0]["finish_reason"], "stop");
        let usage = event(&mut renderer, Piece::Usage);
        assert_eq!(usage["usage"]["completion_tokens"], 45);
        assert_eq!(usage["choices"], json!([]));
    }

    #[test]
    fn fragments_make_up_the_arguments() {
        let arguments = tool_arguments(3, 0);
        assert_eq!(fragments(&arguments).collect::<String>(), arguments);
        assert!(serde_json::from_str::<Value>(&arguments).is_ok());
    }

    #[test]
    fn a_whole_answer_says_the_same() {
        let mut plan = plan(Script { tools: 1, reasoning: 2, ..Script::tokens(30) });
        plan.stream = false;
        let answer: Value = serde_json::from_slice(&whole_answer(&plan)).unwrap();
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["content"], expected_text(7, 30, 0));
        let arguments = &message["tool_calls"][0]["function"]["arguments"];
        assert_eq!(*arguments, tool_arguments(7, 0));
        plan.api = Api::Completions;
        let answer: Value = serde_json::from_slice(&whole_answer(&plan)).unwrap();
        assert_eq!(answer["choices"][0]["text"], expected_text(7, 30, 0));
    }
}
