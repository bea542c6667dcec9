//! The forms that providers give their answers, one by one.
#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use bytes::Bytes;
use proptest::prelude::*;
use ringmain_upstream::{Decoder, DecoderConfig, UpstreamError, Verdict};
use ringmain_wire::frame::{FinishReason, ToolFrame, Usage};
use ringmain_wire::{Code, Kind, Mode, Stage};

const SSE: &str = "text/event-stream";
const CHAT: &str = "/chat/completions";

/// Each piece as `kind choice payload`, then `END reasons` or `ERROR code`.
fn decode(config: DecoderConfig, body: &str) -> Vec<String> {
    let mut out = Vec::new();
    let outcome = run(Decoder::new(config), &[body.as_bytes()], &mut out);
    out.push(match outcome {
        Ok(finish) => format!("END {finish:?}"),
        Err(error) => format!("ERROR {:?} {}", error.code, error.provider_code),
    });
    out
}

fn run(
    mut decoder: Decoder,
    chunks: &[&[u8]],
    out: &mut Vec<String>,
) -> Result<Vec<(u16, FinishReason)>, UpstreamError> {
    let mut chunks = chunks.iter();
    loop {
        while let Some(piece) = decoder.next()? {
            let text = String::from_utf8_lossy(piece.payload);
            let mark = if piece.content { "" } else { "~" };
            out.push(match piece.kind {
                Kind::Tool => format!("{mark}TOOL {} {:?}", piece.choice, tool(piece.payload)),
                Kind::Usage => {
                    let usage = Usage::parse(piece.payload).unwrap();
                    format!("{mark}USAGE {} {} {}", usage.input, usage.output, usage.total)
                }
                kind => format!("{mark}{kind:?} {} {text}", piece.choice),
            });
        }
        if let Verdict::Ended(end) = decoder.verdict() {
            return Ok(end.finish);
        }
        match chunks.next() {
            Some(chunk) => decoder.feed(Bytes::copy_from_slice(chunk)),
            None => decoder.end_of_body(),
        }
    }
}

fn tool(payload: &[u8]) -> (u32, String, String, String) {
    let ToolFrame { index, id, name, arguments } = ToolFrame::parse(payload).unwrap();
    (index, id.to_owned(), name.to_owned(), arguments.to_owned())
}

fn deltas(events: &[&str]) -> Vec<String> {
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    decode(DecoderConfig::new(Mode::Deltas, CHAT, 200, SSE), &body)
}

fn delta(inside: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{{{inside}}}}}]}}"#)
}

const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

#[test]
fn every_field_of_a_delta_has_its_frame() {
    for (inside, expected) in [
        (r#""content":"a\n\u00e9""#, vec!["Delta 0 a\né"]),
        (r#""role":"assistant","content":null"#, vec![]),
        (r#""content":"","tool_calls":[]"#, vec![]),
        (r#""reasoning_content":"r","content":"c""#, vec!["Reasoning 0 r", "Delta 0 c"]),
        (r#""reasoning":"r","reasoning_content":null"#, vec!["Reasoning 0 r"]),
        (r#""reasoning":"r","reasoning_content":"r""#, vec!["Reasoning 0 r"]),
        (r#""refusal":"no""#, vec!["Delta 0 no"]),
        (
            r#""content":[{"type":"thinking","thinking":[{"type":"text","text":"t"}]},{"text":"c"}]"#,
            vec!["Reasoning 0 t", "Delta 0 c"],
        ),
        (r#""function_call":{"name":"f","arguments":"{}"}"#, vec![r#"TOOL 0 (0, "", "f", "{}")"#]),
    ] {
        let read = deltas(&[&delta(inside), "[DONE]"]);
        assert_eq!(read[..read.len() - 1], expected, "{inside}");
    }
    let refused = deltas(&[&delta(r#""refusal":"no""#), STOP, "[DONE]"]);
    assert_eq!(refused.last().unwrap(), "END [(0, Refusal)]");
}

#[test]
fn tool_calls_find_their_index() {
    let read = deltas(&[
        &delta(r#""tool_calls":[{"index":1,"id":"b","function":{"name":"g","arguments":""}}]"#),
        &delta(r#""tool_calls":[{"index":-1,"function":{"arguments":"{\"x\""}}]"#),
        &delta(r#""tool_calls":[{"function":{"arguments":":1}"}}]"#),
        &delta(r#""tool_calls":[{"id":"c","function":{"name":"h","arguments":{"y":2}}}]"#),
        &delta(r#""tool_calls":[{"index":null,"id":"b","function":{"arguments":" "}}]"#),
        &delta(r#""tool_calls":[{"id":"","function":{"name":"i"}}]"#),
        "[DONE]",
    ]);
    let expected = [
        r#"TOOL 0 (0, "b", "g", "")"#,
        r#"TOOL 0 (0, "", "", "{\"x\"")"#,
        r#"TOOL 0 (0, "", "", ":1}")"#,
        r#"TOOL 0 (1, "c", "h", "{\"y\":2}")"#,
        r#"TOOL 0 (0, "b", "", " ")"#,
        r#"TOOL 0 (2, "", "i", "")"#,
    ];
    assert_eq!(read[..6], expected);
}

/// Some providers give every parallel call the index 0; others make up an id for each piece.
#[test]
fn calls_with_one_index_are_told_apart_by_their_ids() {
    let read = deltas(&[
        &delta(r#""tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]"#),
        &delta(r#""tool_calls":[{"index":0,"id":"b","function":{"name":"g","arguments":"{"}}]"#),
        &delta(r#""tool_calls":[{"index":0,"function":{"arguments":"}"}}]"#),
        &delta(r#""tool_calls":[{"index":1,"id":"c","function":{"name":"h","arguments":"["}}]"#),
        &delta(r#""tool_calls":[{"index":1,"id":"made-up","function":{"arguments":"]"}}]"#),
        &delta(r#""tool_calls":[{"index":0,"id":"a","function":{"arguments":" "}}]"#),
        "[DONE]",
    ]);
    let expected = [
        r#"TOOL 0 (0, "a", "f", "{}")"#,
        r#"TOOL 0 (1, "b", "g", "{")"#,
        r#"TOOL 0 (1, "", "", "}")"#,
        r#"TOOL 0 (2, "c", "h", "[")"#,
        r#"TOOL 0 (2, "made-up", "", "]")"#,
        r#"TOOL 0 (0, "a", "", " ")"#,
    ];
    assert_eq!(read[..6], expected);
}

/// A name may be left out where the calls are of one tool.
#[test]
fn a_call_without_a_name_begins_where_the_one_before_is_whole() {
    let piece = |id: &str, arguments: &str| {
        let function = format!(r#"{{"arguments":"{arguments}"}}"#);
        delta(&format!(r#""tool_calls":[{{"index":0,"id":"{id}","function":{function}}}]"#))
    };
    let read = deltas(&[
        &delta(
            r#""tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{\"}\""}}]"#,
        ),
        &piece("made-up", ":1"),
        &piece("a", "}"),
        &piece("made-up", " "),
        &piece("b", "{"),
        &piece("b", "}"),
        &piece("c", "{}"),
        "[DONE]",
    ]);
    let numbers: Vec<&str> = read[..7].iter().map(|text| &text[8..9]).collect();
    assert_eq!(numbers, ["0", "0", "0", "0", "1", "1", "2"], "{read:?}");
}

#[test]
fn usage_is_found_in_all_its_places() {
    let usage = r#""usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}"#;
    let last = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop""#;
    for (events, withheld) in [
        (vec![STOP.to_owned(), format!(r#"{{"choices":[],{usage}}}"#)], true),
        (
            vec![STOP.to_owned(), format!(r#"{{"choices":[{{"index":0,"delta":{{}}}}],{usage}}}"#)],
            true,
        ),
        (vec![format!("{last}}}],{usage}}}")], false),
        (vec![format!(r#"{last}}}],"x_groq":{{{usage}}}}}"#)], false),
        // A running count on the first event is no answer to having asked.
        (vec![format!(r#"{{"choices":[{{"delta":{{}}}}],{usage}}}"#), STOP.to_owned()], false),
    ] {
        let events: Vec<&str> = events.iter().map(String::as_str).chain(["[DONE]"]).collect();
        assert_eq!(deltas(&events), ["~USAGE 2 3 5", "END [(0, Stop)]"], "{events:?}");
        let mut config = DecoderConfig::new(Mode::Events, CHAT, 200, SSE);
        config.withhold_usage = true;
        let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        let passed = decode(config, &body).len() - 2;
        assert_eq!(passed, events.len() - usize::from(withheld), "{events:?}");
    }
}

#[test]
fn the_end_is_good_only_behind_a_terminal_marker() {
    let hi = delta(r#""content":"hi""#);
    let second = r#"{"choices":[{"index":1,"delta":{"content":"yo"}}]}"#;
    let second_stop = r#"{"choices":[{"index":1,"delta":{},"finish_reason":"length"}]}"#;
    let last = |events: &[&str]| deltas(events).pop().unwrap();
    assert_eq!(last(&[&hi]), "ERROR UpstreamTruncated ");
    assert_eq!(last(&[&hi, STOP]), "END [(0, Stop)]");
    assert_eq!(last(&[&hi, second, STOP]), "ERROR UpstreamTruncated ");
    assert_eq!(last(&[&hi, second, STOP, second_stop]), "END [(0, Stop), (1, Length)]");
    assert_eq!(last(&[&hi, second, "[DONE]"]), "END []");
    let config = || DecoderConfig::new(Mode::Deltas, CHAT, 200, SSE);
    // Torn in the last event; whole but for its blank line; whole but for the marker's.
    assert_eq!(decode(config(), &format!("data: {}", &hi[..20])), ["ERROR UpstreamTruncated "]);
    assert_eq!(decode(config(), &format!("data: {STOP}")), ["END [(0, Stop)]"]);
    assert_eq!(decode(config(), &format!("data: {hi}\n\ndata: [DONE]"))[1], "END []");
    assert_eq!(
        decode(config(), &format!("data: {hi}\n\ndata: [DON"))[1],
        "ERROR UpstreamTruncated "
    );
    assert_eq!(decode(config(), "data: [DONE]\n\ndata: {\n\n"), ["END []"]);
}

#[test]
fn errors_inside_an_answer_are_errors() {
    let hi = delta(r#""content":"hi""#);
    let error = r#"{"error":{"message":"overloaded","code":"e_1"},"choices":[]}"#;
    assert_eq!(deltas(&[&hi, error]), ["Delta 0 hi", "ERROR UpstreamError e_1"]);
    let quiet = r#"{"error":null,"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}"#;
    assert_eq!(deltas(&[quiet]), ["Delta 0 x", "END [(0, Stop)]"]);
    let body = format!(": PROCESSING\n\ndata: {error}\n\ndata: [DONE]\n\n");
    let read = decode(DecoderConfig::new(Mode::Events, CHAT, 200, SSE), &body);
    let event = format!("~Event 0 data: {error}\n\n");
    assert_eq!(read, ["~Event 0 : PROCESSING\n\n", &event, "ERROR UpstreamError e_1"]);
    let typed = decode(
        DecoderConfig::new(Mode::Deltas, CHAT, 200, SSE),
        "event: error\ndata: something broke\n\n",
    );
    assert_eq!(typed, ["ERROR UpstreamError "]);
    let plain = DecoderConfig::new(Mode::Deltas, CHAT, 200, "application/json");
    assert_eq!(decode(plain, error), ["ERROR UpstreamError e_1"]);
    // Not JSON: an error for who wants text, and the reader's own business in mode events.
    assert_eq!(deltas(&["{nonsense"]), ["ERROR UpstreamProtocol "]);
    let events = DecoderConfig::new(Mode::Events, CHAT, 200, SSE);
    let read = decode(events, "data: {nonsense\n\ndata: [DONE]\n\n");
    assert_eq!(read[0], "Event 0 data: {nonsense\n\n");
}

#[test]
fn plain_answers_are_read_by_type() {
    let body = r#"{"choices":[
        {"index":0,"message":{"content":"a","reasoning_content":"r"},"finish_reason":"stop"},
        {"index":1,"message":{"tool_calls":[{"id":"t","function":{"name":"f","arguments":"{}"}}]},
         "finish_reason":"tool_calls"}],
        "usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    let expected = [
        "Reasoning 0 r",
        "Delta 0 a",
        r#"TOOL 1 (0, "t", "f", "{}")"#,
        "~USAGE 1 2 3",
        "END [(0, Stop), (1, ToolCalls)]",
    ];
    // Whatever the server calls it.
    for kind in ["application/json; charset=utf-8", "", "text/plain"] {
        assert_eq!(decode(DecoderConfig::new(Mode::Deltas, CHAT, 200, kind), body), expected);
    }
    let text = r#"{"choices":[{"text":"t","finish_reason":"length"}]}"#;
    let config = DecoderConfig::new(Mode::Deltas, "/completions", 200, "application/json");
    assert_eq!(decode(config, text), ["Delta 0 t", "END [(0, Length)]"]);
    let config = |mode, path| DecoderConfig::new(mode, path, 200, "application/json");
    assert_eq!(decode(config(Mode::Deltas, CHAT), "{}"), ["ERROR UpstreamProtocol "]);
    assert_eq!(decode(config(Mode::Deltas, CHAT), &body[..50]), ["ERROR UpstreamProtocol "]);
    assert_eq!(decode(config(Mode::Events, CHAT), "{}"), ["Body 0 {}", "END []"]);
    assert_eq!(decode(config(Mode::Deltas, "/embeddings"), "{}"), ["Body 0 {}", "END []"]);
    let mut small = config(Mode::Deltas, CHAT);
    small.plain_bytes_max = 100;
    assert_eq!(decode(small, body), ["ERROR UpstreamTooLarge "]);
}

#[test]
fn what_was_not_asked_for_is_an_error_where_it_matters() {
    for (kind, body) in [("text/html", "<html>"), ("", "<html>"), (SSE, ""), ("", "  ")] {
        for mode in [Mode::Deltas, Mode::Events] {
            let read = decode(DecoderConfig::new(mode, CHAT, 200, kind), body);
            assert_eq!(read, ["ERROR UpstreamProtocol "], "{kind} {body}");
        }
        // Bytes are bytes, but an event stream is one in every mode.
        let read = decode(DecoderConfig::new(Mode::Body, CHAT, 200, kind), body);
        let end = if kind == SSE { "ERROR UpstreamProtocol " } else { "END []" };
        assert_eq!(read.last().unwrap(), end);
    }
    let cut = decode(DecoderConfig::new(Mode::Body, CHAT, 200, SSE), "data: {}\n\n");
    assert_eq!(cut.last().unwrap(), "ERROR UpstreamTruncated ");
    let unnamed = format!("data: {STOP}\n\n");
    let read = decode(DecoderConfig::new(Mode::Deltas, CHAT, 200, "text/plain"), &unnamed);
    assert_eq!(read, ["END [(0, Stop)]"]);
    let mut config = DecoderConfig::new(Mode::Events, CHAT, 200, SSE);
    config.event_bytes_max = 64;
    let endless = format!("data: [1]\n\ndata: {}", "x".repeat(100));
    assert_eq!(decode(config, &endless)[1], "ERROR UpstreamTooLarge ");
}

#[test]
fn responses_end_with_their_own_events() {
    let event =
        |kind: &str, more: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{more}}}\n\n");
    let config = || DecoderConfig::new(Mode::Events, "/responses", 200, SSE);
    let begin = event("response.created", "") + &event("response.output_text.delta", "");
    let cut = decode(config(), &begin);
    assert!(cut[0].starts_with("~Event") && cut[1].starts_with("Event"), "{cut:?}");
    assert_eq!(cut[2], "ERROR UpstreamTruncated ");
    let details = r#","response":{"incomplete_details":{"reason":"max_output_tokens"},
        "usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}"#
        .replace('\n', "");
    let whole = begin.clone() + &event("response.incomplete", &details) + "data: [DONE]\n\n";
    let read = decode(config(), &whole);
    assert_eq!(read[3..], ["~USAGE 1 2 3", "END [(0, Length)]"]);
    let failed = decode(config(), &(begin + &event("error", r#","code":"c","message":"m""#)));
    assert_eq!(failed.last().unwrap(), "ERROR UpstreamError c");
}

#[test]
fn a_failure_tells_how_far_the_answer_had_come() {
    let mut out = Vec::new();
    let config = || DecoderConfig::new(Mode::Deltas, CHAT, 200, SSE);
    let error = run(Decoder::new(config()), &[b": hello\n\n"], &mut out).unwrap_err();
    assert_eq!(error.stage, Stage::AwaitContent);
    let event = format!("data: {}\n\n", delta(r#""content":"x""#));
    let error = run(Decoder::new(config()), &[event.as_bytes()], &mut out).unwrap_err();
    assert_eq!(error.stage, Stage::Relay);
    // An error status survives the loss of its explanation.
    let mut refused = Decoder::new(DecoderConfig::new(Mode::Deltas, CHAT, 503, SSE));
    let lost = UpstreamError::new(Code::UpstreamReset, Stage::Relay, error.sent, "reset");
    assert_eq!(refused.broken(lost).unwrap_err().http_status, Some(503));
}

#[test]
fn zero_copy_deltas_lie_in_the_chunk_that_brought_them() {
    let chunk = Bytes::from(format!("data: {}\n\n", delta(r#""content":"hello""#)));
    let range = chunk.as_ptr_range();
    let mut decoder = Decoder::new(DecoderConfig::new(Mode::Deltas, CHAT, 200, SSE));
    decoder.feed(chunk);
    let piece = decoder.next().unwrap().unwrap();
    assert_eq!(piece.payload, b"hello");
    assert!(range.contains(&piece.payload.as_ptr()));
}

proptest! {
    #[test]
    fn property_any_body_ends_in_an_end_or_an_error(
        parts in prop::collection::vec(prop_oneof![
            prop::sample::select(vec![
                "data: ", "\n\n", "[DONE]", "{\"choices\":[", "]}", "{\"delta\":{\"content\":\"x\\n\"}}",
                "{\"index\":-5,\"finish_reason\":\"stop\"}", "\"error\":1", "event: error\n", "null",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..8),
        ], 0..30),
        mode in prop::sample::select(vec![Mode::Deltas, Mode::Events, Mode::Body]),
        path in prop::sample::select(vec![CHAT, "/responses", "/embeddings"]),
        kind in prop::sample::select(vec![SSE, "application/json", ""]),
        status in prop::sample::select(vec![200u16, 400]),
    ) {
        let chunks: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let config = DecoderConfig::new(mode, path, status, kind);
        let mut out = Vec::new();
        let _ = run(Decoder::new(config), &chunks, &mut out);
    }
}
