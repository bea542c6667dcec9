//! Answers from one dialect into the other: streams, whole answers and errors, however they are
//! cut.
#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use bytes::Bytes;
use proptest::prelude::*;
use ringmain_upstream::dialect::{Translator, Wish};
use ringmain_upstream::{Decoder, DecoderConfig, Dialect, UpstreamError, Verdict};
use ringmain_wire::{Code, Kind, Mode};
use serde_json::{Value, json};

const SSE: &str = "text/event-stream";
const CHAT: &str = "/chat/completions";
const MESSAGES: &str = "/messages";

fn wish(dialect: Dialect, stream: bool) -> Wish {
    Wish { dialect, stream, usage: true, now_s: 1_700_000_000 }
}

/// What comes out, and how it ends.
fn translate(
    reading: DecoderConfig,
    wish: Wish,
    chunks: &[&[u8]],
) -> (Vec<u8>, Result<(), UpstreamError>) {
    let mut translator = Translator::new(reading, wish);
    let mut out = Vec::new();
    let mut chunks = chunks.iter();
    loop {
        match translator.take() {
            Ok(bytes) if !bytes.is_empty() => out.extend_from_slice(&bytes),
            Ok(_) if translator.is_ended() => return (out, Ok(())),
            Ok(_) => match chunks.next() {
                Some(chunk) => translator.feed(Bytes::copy_from_slice(chunk)),
                None => translator.end_of_body(),
            },
            Err(error) => return (out, Err(error)),
        }
    }
}

fn from_chat(events: &[&str], stream: bool) -> String {
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let reading = DecoderConfig::new(Mode::Deltas, CHAT, 200, SSE);
    let (out, end) = translate(reading, wish(Dialect::Anthropic, stream), &[body.as_bytes()]);
    assert_eq!(end, Ok(()));
    String::from_utf8(out).unwrap()
}

fn from_messages(events: &[Value], wish: Wish) -> String {
    let reading = DecoderConfig::new(Mode::Deltas, MESSAGES, 200, SSE);
    let (out, end) = translate(reading, wish, &[message_stream(events).as_bytes()]);
    assert_eq!(end, Ok(()));
    String::from_utf8(out).unwrap()
}

fn message_stream(events: &[Value]) -> String {
    let one =
        |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    events.iter().map(one).collect()
}

/// Type and data of each event; the type is told twice.
fn events(stream: &str) -> Vec<Value> {
    let read = |block: &str| {
        let (kind, data) = block.split_once('\n').unwrap();
        let value: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(kind.strip_prefix("event: "), value["type"].as_str());
        value
    };
    stream.split_terminator("\n\n").map(read).collect()
}

fn chunk(choice: &str) -> String {
    format!(r#"{{"id":"c1","model":"big","choices":[{{"index":0,{choice}}}]}}"#)
}

const USAGE: &str = r#"{"id":"c1","model":"big","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4}}}"#;

/// An answer that thinks, speaks and calls two tools.
fn chat_events() -> Vec<String> {
    let tool = |inside: &str| chunk(&format!(r#""delta":{{"tool_calls":[{inside}]}}"#));
    vec![
        chunk(r#""delta":{"role":"assistant","content":""}"#),
        chunk(r#""delta":{"reasoning_content":"hm"}"#),
        chunk(r#""delta":{"content":"a\n"}"#),
        chunk(r#""delta":{"content":"😀"}"#),
        tool(r#"{"index":0,"id":"t0","type":"function","function":{"name":"f","arguments":""}}"#),
        tool(r#"{"index":0,"function":{"arguments":"{\"x\""}}"#),
        tool(r#"{"index":0,"function":{"arguments":":1}"}}"#),
        tool(r#"{"index":1,"id":"t1","type":"function","function":{"name":"g","arguments":""}}"#),
        chunk(r#""delta":{},"finish_reason":"tool_calls""#),
        USAGE.to_owned(),
        "[DONE]".to_owned(),
    ]
}

fn usage() -> Value {
    json!({"input_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4,
        "output_tokens": 5})
}

/// The same as messages events.
fn message_events() -> Vec<Value> {
    let none = json!({"input_tokens": 0, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0, "output_tokens": 0});
    let start = |index: u32, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let delta = |index: u32, kind: &str, name: &str, text: &str| json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, name: text}});
    let stop = |index: u32| json!({"type": "content_block_stop", "index": index});
    let tool =
        |id: &str, name: &str| json!({"type": "tool_use", "id": id, "name": name, "input": {}});
    let json = |index, text| delta(index, "input_json_delta", "partial_json", text);
    vec![
        json!({"type": "message_start", "message": {"id": "c1", "type": "message",
            "role": "assistant", "model": "big", "content": [], "stop_reason": null,
            "stop_sequence": null, "usage": none}}),
        start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        delta(0, "thinking_delta", "thinking", "hm"),
        stop(0),
        start(1, json!({"type": "text", "text": ""})),
        delta(1, "text_delta", "text", "a\n"),
        delta(1, "text_delta", "text", "😀"),
        stop(1),
        start(2, tool("t0", "f")),
        json(2, "{\"x\""),
        json(2, ":1}"),
        stop(2),
        start(3, tool("t1", "g")),
        stop(3),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use",
            "stop_sequence": null}, "usage": usage()}),
        json!({"type": "message_stop"}),
    ]
}

#[test]
fn a_chat_stream_becomes_message_events() {
    let chat = chat_events();
    let chat: Vec<&str> = chat.iter().map(String::as_str).collect();
    assert_eq!(events(&from_chat(&chat, true)), message_events());
}

#[test]
fn a_stream_becomes_a_whole_answer_where_none_was_asked_for() {
    let chat = chat_events();
    let chat: Vec<&str> = chat.iter().map(String::as_str).collect();
    let whole: Value = serde_json::from_str(&from_chat(&chat, false)).unwrap();
    let expected = json!({"id": "c1", "type": "message", "role": "assistant", "model": "big",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "a\n😀"},
            {"type": "tool_use", "id": "t0", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "t1", "name": "g", "input": {}},
        ],
        "stop_reason": "tool_use", "stop_sequence": null, "usage": usage()});
    assert_eq!(whole, expected);
}

#[test]
fn a_message_stream_becomes_chat_chunks() {
    let chunks = from_messages(&message_events(), wish(Dialect::OpenAi, true));
    let chunks = chunks.strip_suffix("data: [DONE]\n\n").unwrap();
    let mut deltas = Vec::new();
    for line in chunks.split_terminator("\n\n") {
        let value: Value = serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((&value["id"], &value["model"]), (&json!("c1"), &json!("big")));
        let choice = &value["choices"][0];
        deltas.push(match choice["finish_reason"].as_str() {
            _ if value["usage"].is_object() => value["usage"].clone(),
            Some(reason) => json!(reason),
            None => choice["delta"].clone(),
        });
    }
    let call = |index: u32, id: &str, name: &str| {
        let function = json!({"name": name, "arguments": ""});
        json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
    };
    let more = |index: u32, text: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]});
    let expected = [
        json!({"role": "assistant", "content": ""}),
        json!({"reasoning_content": "hm"}),
        json!({"content": "a\n"}),
        json!({"content": "😀"}),
        call(0, "t0", "f"),
        more(0, "{\"x\""),
        more(0, ":1}"),
        call(1, "t1", "g"),
        // No text at all is no JSON.
        more(1, "{}"),
        json!("tool_calls"),
        json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0}}),
    ];
    assert_eq!(deltas, expected);
    let silent = Wish { usage: false, ..wish(Dialect::OpenAi, true) };
    assert!(!from_messages(&message_events(), silent).contains("\"usage\""));
}

#[test]
fn whole_answers_become_whole_answers() {
    let message = json!({"id": "m1", "type": "message", "role": "assistant", "model": "big",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "t0", "name": "f", "input": {"x": [1]}},
        ],
        "stop_reason": "max_tokens", "stop_sequence": null,
        "usage": {"input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 4}});
    let reading = || DecoderConfig::new(Mode::Deltas, MESSAGES, 200, "application/json");
    let body = message.to_string();
    let (out, end) = translate(reading(), wish(Dialect::OpenAi, false), &[body.as_bytes()]);
    assert_eq!(end, Ok(()));
    let function = json!({"name": "f", "arguments": "{\"x\":[1]}"});
    let expected = json!({"id": "m1", "object": "chat.completion", "created": 1_700_000_000,
        "model": "big",
        "choices": [{"index": 0, "logprobs": null, "finish_reason": "length", "message": {
            "role": "assistant", "content": "a", "refusal": null, "reasoning_content": "hm",
            "tool_calls": [{"id": "t0", "type": "function", "function": function}]}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0}}});
    assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
    // Back again, without what only one of them has.
    let reading = DecoderConfig::new(Mode::Deltas, CHAT, 200, "application/json");
    let (out, _) = translate(reading, wish(Dialect::Anthropic, false), &[&out]);
    let mut back: Value = serde_json::from_slice(&out).unwrap();
    back["content"][0]["signature"] = json!("s");
    assert_eq!(back["content"], message["content"]);
    assert_eq!(back["stop_reason"], message["stop_reason"]);
}

#[test]
fn the_input_of_a_tool_stays_as_the_model_wrote_it() {
    for (arguments, input) in [
        (
            r#"{"z":1.0,"a":123456789012345678901}"#,
            r#""input":{"z":1.0,"a":123456789012345678901}"#,
        ),
        ("", r#""input":{}"#),
        ("{cut", r#""input":"{cut""#),
    ] {
        let call = json!({"id": "t", "function": {"name": "f", "arguments": arguments}});
        let body =
            json!({"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "stop"}]});
        let reading = DecoderConfig::new(Mode::Deltas, CHAT, 200, "application/json");
        let wish = wish(Dialect::Anthropic, false);
        let (out, _) = translate(reading, wish, &[body.to_string().as_bytes()]);
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains(input) && out.contains(r#""stop_reason":"tool_use""#), "{out}");
    }
}

#[test]
fn refusals_come_in_the_words_of_the_caller() {
    let theirs = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let ours =
        r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
    for (status, body, dialect, expected) in [
        (
            529,
            theirs,
            Dialect::OpenAi,
            json!({"error": {"message": "Overloaded",
            "type": "server_error", "param": null, "code": "overloaded_error"}}),
        ),
        (
            429,
            ours,
            Dialect::Anthropic,
            json!({"type": "error", "error": {
            "type": "rate_limit_error", "message": "slow down (rate_limit_exceeded)"}}),
        ),
        (
            502,
            "<h1>bad\ngateway",
            Dialect::Anthropic,
            json!({"type": "error", "error": {
            "type": "api_error", "message": "<h1>bad gateway"}}),
        ),
    ] {
        let reading = DecoderConfig::new(Mode::Deltas, CHAT, status, "application/json");
        let (out, end) = translate(reading, wish(dialect, true), &[body.as_bytes()]);
        assert_eq!(end, Ok(()));
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
    }
}

#[test]
fn an_error_inside_a_stream_is_told_and_is_the_end() {
    let mut broken = message_events();
    broken.truncate(6);
    broken.push(json!({"type": "error", "error": {"type": "overloaded_error", "message": "Full"}}));
    let reading = || DecoderConfig::new(Mode::Deltas, MESSAGES, 200, SSE);
    let body = message_stream(&broken);
    let (out, end) = translate(reading(), wish(Dialect::OpenAi, true), &[body.as_bytes()]);
    let error = end.unwrap_err();
    assert_eq!((error.code, error.http_status), (Code::UpstreamError, Some(529)));
    let out = String::from_utf8(out).unwrap();
    let last = out.split_terminator("\n\n").last().unwrap().strip_prefix("data: ").unwrap();
    let told = json!({"error": {"message": "Full", "type": "server_error", "param": null,
        "code": "overloaded_error"}});
    assert_eq!(serde_json::from_str::<Value>(last).unwrap(), told);
    // Who reads the translated stream meets the same error.
    let read = read(&out, CHAT).unwrap_err();
    assert_eq!((read.code, read.message), (error.code, error.message));
    let chat = format!(
        "data: {}\n\ndata: {{\"error\":{{\"message\":\"Full\",\"code\":\"c\"}}}}\n\n",
        chunk(r#""delta":{"content":"x"}"#)
    );
    let reading = DecoderConfig::new(Mode::Deltas, CHAT, 200, SSE);
    let (out, end) = translate(reading, wish(Dialect::Anthropic, true), &[chat.as_bytes()]);
    assert_eq!(end.unwrap_err().code, Code::UpstreamError);
    let told = json!({"type": "error", "error": {"type": "api_error", "message": "Full (c)"}});
    assert_eq!(events(str::from_utf8(&out).unwrap()).last(), Some(&told));
}

#[test]
fn a_stream_that_breaks_off_does_not_end_well() {
    let body = message_stream(&message_events()[..8]);
    for stream in [true, false] {
        let reading = DecoderConfig::new(Mode::Deltas, MESSAGES, 200, SSE);
        let (out, end) = translate(reading, wish(Dialect::OpenAi, stream), &[body.as_bytes()]);
        assert_eq!(end.unwrap_err().code, Code::UpstreamTruncated);
        assert_eq!(out.is_empty(), !stream);
        assert!(!String::from_utf8(out).unwrap().contains("[DONE]"));
    }
    let mut reading = DecoderConfig::new(Mode::Deltas, MESSAGES, 200, SSE);
    reading.plain_bytes_max = 4;
    let (_, end) = translate(reading, wish(Dialect::OpenAi, false), &[body.as_bytes()]);
    assert_eq!(end.unwrap_err().code, Code::UpstreamTooLarge);
}

/// Kind, choice and payload of each piece, those of one kind and place joined.
fn read(stream: &str, path: &str) -> Result<Vec<(Kind, u16, Vec<u8>)>, UpstreamError> {
    let mut decoder = Decoder::new(DecoderConfig::new(Mode::Deltas, path, 200, SSE));
    decoder.feed(Bytes::copy_from_slice(stream.as_bytes()));
    decoder.end_of_body();
    let mut pieces = Vec::new();
    while let Some(piece) = decoder.next()? {
        pieces.push((piece.kind, piece.choice, piece.payload.to_vec()));
    }
    assert!(matches!(decoder.verdict(), Verdict::Ended(_)));
    Ok(pieces)
}

#[test]
fn both_dialects_are_the_same_pieces() {
    let chat: String = chat_events().iter().map(|event| format!("data: {event}\n\n")).collect();
    let messages = message_stream(&message_events());
    assert_eq!(read(&chat, CHAT).unwrap(), read(&messages, MESSAGES).unwrap());
}

proptest! {
    /// Any pieces of streams, cut anywhere: the same bytes come out, and the same end.
    #[test]
    fn property_cuts_change_nothing(
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
        whole in any::<bool>(),
        to_chat in any::<bool>(),
        stream in any::<bool>(),
        status in prop::sample::select(vec![200u16, 200, 200, 503]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let all: Vec<String> = match to_chat {
            true => message_events().iter().map(|e| message_stream(std::slice::from_ref(e))).collect(),
            false => chat_events().iter().map(|event| format!("data: {event}\n\n")).collect(),
        };
        let body = match whole {
            true => all.concat(),
            false => picks.iter().map(|pick| pick.get(&all).as_str()).collect(),
        };
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        at.extend([0, body.len()]);
        at.sort_unstable();
        let chunks: Vec<&[u8]> = at.windows(2).map(|w| &body.as_bytes()[w[0]..w[1]]).collect();
        let (path, dialect) = match to_chat {
            true => (MESSAGES, Dialect::OpenAi),
            false => (CHAT, Dialect::Anthropic),
        };
        let reading = || DecoderConfig::new(Mode::Deltas, path, status, SSE);
        let once = translate(reading(), wish(dialect, stream), &[body.as_bytes()]);
        prop_assert_eq!(&translate(reading(), wish(dialect, stream), &chunks), &once);
    }
}
