//! Recorded streams of real providers, read by the decoder and, beside it, by the plainest reading
//! of their events with `serde_json::Value`; and the event stream cases of the web platform.
//!
//! The recordings are not part of the project: `RINGMAIN_CORPUS` names their folder.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use std::path::{Path, PathBuf};

use bytes::Bytes;
use ringmain_upstream::dialect::{Translator, Wish};
use ringmain_upstream::sse::SseDecoder;
use ringmain_upstream::{Decoder, DecoderConfig, Dialect, UpstreamError, Verdict};
use ringmain_wire::frame::{FinishReason, ToolFrame, Usage};
use ringmain_wire::{Code, Kind, Mode};
use serde_json::Value;

const CUTTINGS: u64 = 50;

/// The folder of the recordings; `None`, and a word about it, when there is none.
fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("RINGMAIN_CORPUS");
    if folder.is_none() {
        let required = std::env::var("RINGMAIN_REQUIRE").unwrap_or_default();
        assert!(!required.contains("corpus"), "RINGMAIN_CORPUS is not set, and is required");
        println!("skipped: RINGMAIN_CORPUS is not set");
    }
    folder.map(PathBuf::from)
}

fn read_json(path: &Path) -> Vec<Value> {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

struct Recording {
    name: String,
    path: String,
    content_type: String,
    body: Vec<u8>,
}

fn recordings(folder: &Path) -> Vec<Recording> {
    let wanted = [
        "anthropic",
        "azure/",
        "groq/",
        "llm-variants/",
        "mistral/",
        "openai/",
        "pydantic-ai/anthropic",
        "pydantic-ai/openai",
    ];
    let streams = folder.join("streams");
    let index = read_json(&streams.join("INDEX.json"));
    let recordings: Vec<_> = index
        .iter()
        .filter(|entry| {
            let file = entry["file"].as_str().unwrap();
            wanted.iter().any(|prefix| file.starts_with(prefix))
        })
        .map(|entry| {
            let name = entry["file"].as_str().unwrap().to_owned();
            // Fixtures of a client library come without the request that they answer.
            let uri = entry["request_uri"].as_str().unwrap_or("https://host/v1/messages?beta=true");
            let (_, path) = uri.split_once("//").unwrap().1.split_once('/').unwrap();
            let path = format!("/{}", path.split(['?', '#']).next().unwrap());
            let content_type = entry["headers"]["content-type"].as_str();
            let content_type = content_type.unwrap_or("text/event-stream").to_owned();
            let body = std::fs::read(streams.join(&name)).unwrap();
            Recording { name, path, content_type, body }
        })
        .collect();
    assert!(recordings.len() >= 55, "only {} recordings", recordings.len());
    recordings
}

/// A small generator: the same seed cuts the same way everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// The body in chunks: whole for seed 0, byte by byte for seed 1, else of random sizes.
fn cut(body: &[u8], seed: u64) -> Vec<Bytes> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let most = [1, 3, 16, 100, 1000, 5000][random.below(6)];
    let (mut chunks, mut rest) = (Vec::new(), body);
    while !rest.is_empty() {
        let bytes = match seed {
            0 => rest.len(),
            1 => 1,
            _ => (1 + random.below(most)).min(rest.len()),
        };
        let (chunk, after) = rest.split_at(bytes);
        chunks.push(Bytes::copy_from_slice(chunk));
        rest = after;
    }
    chunks
}

/// What came of one reading.
#[derive(Debug, Default, PartialEq)]
struct Read {
    text: Vec<(u16, String)>,
    reasoning: String,
    /// Index, id, name, arguments of each call, the pieces put together.
    tools: Vec<(u32, String, String, String)>,
    finish: Vec<(u16, FinishReason)>,
    usage: Option<Usage>,
    events: Vec<u8>,
    body: Vec<u8>,
}

impl Read {
    fn add_text(&mut self, choice: u16, piece: &str) {
        match self.text.iter_mut().find(|(known, _)| *known == choice) {
            Some((_, text)) => text.push_str(piece),
            None => self.text.push((choice, piece.to_owned())),
        }
    }

    fn add_tool(&mut self, index: u32, id: &str, name: &str, arguments: &str) {
        let at = self.tools.iter().position(|tool| tool.0 == index).unwrap_or_else(|| {
            self.tools.push((index, String::new(), String::new(), String::new()));
            self.tools.len() - 1
        });
        let (_, known_id, known_name, known_arguments) = &mut self.tools[at];
        for (text, piece) in [(known_id, id), (known_name, name)] {
            if text.is_empty() {
                piece.clone_into(text);
            }
        }
        known_arguments.push_str(arguments);
    }
}

fn decode(config: DecoderConfig, chunks: &[Bytes]) -> Result<Read, UpstreamError> {
    let mut decoder = Decoder::new(config);
    let mut read = Read::default();
    let mut chunks = chunks.iter();
    loop {
        while let Some(piece) = decoder.next()? {
            let text = || str::from_utf8(piece.payload).unwrap();
            match piece.kind {
                Kind::Delta => read.add_text(piece.choice, text()),
                Kind::Reasoning => read.reasoning.push_str(text()),
                Kind::Tool => {
                    let ToolFrame { index, id, name, arguments } =
                        ToolFrame::parse(piece.payload).unwrap();
                    read.add_tool(index, id, name, arguments);
                }
                Kind::Event => read.events.extend_from_slice(piece.payload),
                Kind::Body => read.body.extend_from_slice(piece.payload),
                Kind::Usage => {
                    let again = read.usage.replace(Usage::parse(piece.payload).unwrap());
                    assert_eq!(again, None, "usage twice");
                }
                other => panic!("{other:?}"),
            }
        }
        if let Verdict::Ended(end) = decoder.verdict() {
            read.finish = end.finish;
            return Ok(read);
        }
        match chunks.next() {
            Some(chunk) => decoder.feed(chunk.clone()),
            None => decoder.end_of_body(),
        }
    }
}

fn config(recording: &Recording, mode: Mode) -> DecoderConfig {
    DecoderConfig::new(mode, &recording.path, 200, &recording.content_type)
}

/// The plainest reading: split at blank lines, strip `data: `, parse everything.
fn plain_reading(recording: &Recording) -> Read {
    let mut read = Read::default();
    for event in plain_events(&recording.body) {
        match () {
            () if recording.path.ends_with("/messages") => plain_message(&event, &mut read),
            () if recording.path.ends_with("/responses") => plain_response(&event, &mut read),
            () => plain_chunk(&event, &mut read),
        }
    }
    if recording.path.ends_with("/messages") {
        // The blocks of a recording are numbered among all, its calls among themselves.
        read.tools = read.tools.into_iter().zip(0..).map(|(t, n)| (n, t.1, t.2, t.3)).collect();
    }
    read
}

fn plain_events(body: &[u8]) -> Vec<Value> {
    let mut events = Vec::new();
    let body = str::from_utf8(body).unwrap().replace("\r\n", "\n");
    for block in body.split("\n\n") {
        let data: Vec<&str> =
            block.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        if data.is_empty() || data == ["[DONE]"] {
            continue;
        }
        events.push(serde_json::from_str(&data.join("\n")).unwrap());
    }
    events
}

fn plain_chunk(event: &Value, read: &mut Read) {
    for choice in event["choices"].as_array().unwrap_or(&Vec::new()) {
        plain_choice(choice, read);
    }
    let usage = [&event["usage"], &event["x_groq"]["usage"]].into_iter().find(|u| u.is_object());
    read.usage = usage.map(plain_usage).or(read.usage);
}

fn plain_message(event: &Value, read: &mut Read) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let index = event["index"].as_u64().unwrap_or(0) as u32;
    match event["type"].as_str().unwrap() {
        "message_start" => read.usage = Some(message_usage(&event["message"]["usage"], None)),
        "content_block_start" if event["content_block"]["type"] == "tool_use" => {
            let block = &event["content_block"];
            read.add_tool(index, &text(&block["id"]), &text(&block["name"]), "");
        }
        "content_block_delta" => {
            let delta = &event["delta"];
            match delta["type"].as_str().unwrap() {
                "text_delta" if delta["text"] != "" => read.add_text(0, &text(&delta["text"])),
                "thinking_delta" => read.reasoning.push_str(&text(&delta["thinking"])),
                "input_json_delta" if read.tools.iter().any(|tool| tool.0 == index) => {
                    read.add_tool(index, "", "", &text(&delta["partial_json"]));
                }
                _ => {}
            }
        }
        "message_delta" => {
            read.usage = Some(message_usage(&event["usage"], read.usage));
            let reason = match event["delta"]["stop_reason"].as_str().unwrap() {
                "end_turn" => FinishReason::Stop,
                "max_tokens" => FinishReason::Length,
                "refusal" => FinishReason::Refusal,
                "tool_use" => FinishReason::ToolCalls,
                other => panic!("{other}"),
            };
            read.finish = vec![(0, reason)];
        }
        _ => {}
    }
}

/// What is told replaces what was told before.
fn message_usage(usage: &Value, before: Option<Usage>) -> Usage {
    let before = before.unwrap_or_default();
    let beside = before.input_cached + before.input_cache_written;
    let count = |value: &Value, before: u64| value.as_u64().unwrap_or(before);
    let input_cached = count(&usage["cache_read_input_tokens"], before.input_cached);
    let input_cache_written =
        count(&usage["cache_creation_input_tokens"], before.input_cache_written);
    let own = count(&usage["input_tokens"], before.input - beside);
    let input = own + input_cached + input_cache_written;
    let output = count(&usage["output_tokens"], before.output);
    let thinking = &usage["output_tokens_details"]["thinking_tokens"];
    let output_reasoning = count(thinking, before.output_reasoning);
    let total = input + output;
    Usage { input, output, input_cached, input_cache_written, output_reasoning, total }
}

fn plain_response(event: &Value, read: &mut Read) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let item = event["output_index"].as_u64().unwrap_or(0) as u32;
    match event["type"].as_str().unwrap() {
        "response.output_text.delta" => match event["delta"].as_str() {
            None | Some("") => {}
            Some(delta) => read.add_text(0, delta),
        },
        "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
            read.reasoning.push_str(&text(&event["delta"]));
        }
        "response.output_item.added" if event["item"]["type"] == "function_call" => {
            let call = &event["item"];
            read.add_tool(item, &text(&call["call_id"]), &text(&call["name"]), "");
        }
        "response.function_call_arguments.delta" => {
            read.add_tool(item, "", "", &text(&event["delta"]));
        }
        "response.completed" => {
            let calls = std::mem::take(&mut read.tools);
            read.tools = calls.into_iter().zip(0..).map(|(t, n)| (n, t.1, t.2, t.3)).collect();
            let called = !read.tools.is_empty();
            let reason = if called { FinishReason::ToolCalls } else { FinishReason::Stop };
            read.finish = vec![(0, reason)];
            let usage = &event["response"]["usage"];
            let count = |value: &Value| value.as_u64().unwrap_or(0);
            let input = &usage["input_tokens_details"];
            read.usage = Some(Usage {
                input: count(&usage["input_tokens"]),
                output: count(&usage["output_tokens"]),
                input_cached: count(&input["cached_tokens"]),
                input_cache_written: count(&input["cache_write_tokens"]),
                output_reasoning: count(&usage["output_tokens_details"]["reasoning_tokens"]),
                total: count(&usage["total_tokens"]),
            });
        }
        _ => {}
    }
}

fn plain_choice(choice: &Value, read: &mut Read) {
    let index = choice["index"].as_u64().unwrap_or(0) as u16;
    let delta = &choice["delta"];
    for text in [&choice["text"], &delta["content"], &delta["refusal"]] {
        match text.as_str() {
            None | Some("") => {}
            Some(text) => read.add_text(index, text),
        }
    }
    let reasoning = delta["reasoning_content"].as_str().or(delta["reasoning"].as_str());
    read.reasoning.push_str(reasoning.unwrap_or_default());
    for call in delta["tool_calls"].as_array().unwrap_or(&Vec::new()) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let function = &call["function"];
        let tool = call["index"].as_i64().filter(|index| *index >= 0);
        let latest = read.tools.last().map_or(0, |tool| tool.0);
        let tool = tool.map_or(latest, |index| index as u32);
        let (id, name) = (text(&call["id"]), text(&function["name"]));
        read.add_tool(tool, &id, &name, &text(&function["arguments"]));
    }
    let reason = match choice["finish_reason"].as_str() {
        None => return,
        Some("stop") => FinishReason::Stop,
        Some("length") => FinishReason::Length,
        Some("tool_calls") => FinishReason::ToolCalls,
        Some(other) => panic!("{other}"),
    };
    read.finish.retain(|(known, _)| *known != index);
    read.finish.push((index, reason));
}

fn plain_usage(usage: &Value) -> Usage {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    Usage {
        input: count(&usage["prompt_tokens"]),
        output: count(&usage["completion_tokens"]),
        input_cached: count(&usage["prompt_tokens_details"]["cached_tokens"]),
        input_cache_written: 0,
        output_reasoning: count(&usage["completion_tokens_details"]["reasoning_tokens"]),
        total: count(&usage["total_tokens"]),
    }
}

#[test]
fn corpus_deltas_are_what_a_plain_reading_says() {
    let Some(folder) = corpus() else { return };
    let (mut texts, mut tools, mut usages) = (0, 0, 0);
    for recording in recordings(&folder) {
        let expected = plain_reading(&recording);
        texts += expected.text.len();
        tools += expected.tools.len();
        usages += usize::from(expected.usage.is_some());
        for seed in 0..CUTTINGS {
            let chunks = cut(&recording.body, seed);
            let read = decode(config(&recording, Mode::Deltas), &chunks);
            assert_eq!(read.as_ref(), Ok(&expected), "{} seed {seed}", recording.name);
        }
    }
    assert!(
        texts > 40 && tools > 10 && usages > 30,
        "{texts} texts, {tools} tools, {usages} usages"
    );
}

/// Every stream that one of the two dialects can say, in the words of the other.
#[test]
fn corpus_translated_streams_say_the_same() {
    let Some(folder) = corpus() else { return };
    let mut streams = 0;
    for recording in recordings(&folder) {
        let (dialect, path) = match () {
            () if recording.path.ends_with("/messages") => (Dialect::OpenAi, "/chat/completions"),
            () if recording.path.ends_with("/chat/completions") => {
                (Dialect::Anthropic, "/messages")
            }
            () => continue,
        };
        let expected = plain_reading(&recording);
        streams += 1;
        let wish = Wish { dialect, stream: true, usage: true, now_s: 0 };
        let mut first = None;
        for seed in 0..CUTTINGS {
            let translated = translate(&recording, wish, &cut(&recording.body, seed));
            // However it was cut, the same bytes.
            let first = first.get_or_insert_with(|| translated.clone());
            assert!(translated == *first, "{} seed {seed}", recording.name);
        }
        let config = DecoderConfig::new(Mode::Deltas, path, 200, "text/event-stream");
        let read = decode(config, &cut(&first.unwrap(), 5)).unwrap();
        let name = &recording.name;
        assert_eq!((&read.text, &read.reasoning), (&expected.text, &expected.reasoning), "{name}");
        assert_eq!(read.tools.len(), expected.tools.len(), "{name}");
        for (told, expected) in read.tools.iter().zip(&expected.tools) {
            assert_eq!((&told.1, &told.2), (&expected.1, &expected.2), "{name}");
            let is_empty = expected.3.is_empty() && ["", "{}"].contains(&&*told.3);
            assert!(is_empty || told.3 == expected.3, "{name}: {told:?}");
        }
        let counts = |usage: Option<Usage>| {
            let usage = usage.unwrap_or_default();
            (usage.input, usage.output, usage.input_cached, usage.output_reasoning)
        };
        assert_eq!(counts(read.usage), counts(expected.usage), "{name}");
    }
    assert!(streams > 25, "{streams} streams");
}

fn translate(recording: &Recording, wish: Wish, chunks: &[Bytes]) -> Vec<u8> {
    let mut translator = Translator::new(config(recording, Mode::Deltas), wish);
    let (mut out, mut chunks) = (Vec::new(), chunks.iter());
    while !translator.is_ended() {
        match chunks.next() {
            Some(chunk) => translator.feed(chunk.clone()),
            None => translator.end_of_body(),
        }
        out.extend_from_slice(&translator.take().unwrap());
    }
    out
}

#[test]
fn corpus_events_are_the_bytes_of_the_provider() {
    let Some(folder) = corpus() else { return };
    for recording in recordings(&folder) {
        let Recording { name, body, .. } = &recording;
        // Everything up to the terminal event and its blank line.
        let marker: &[u8] = match recording.path.ends_with("/responses") {
            true => b"\"type\":\"response.completed\"",
            false if recording.path.ends_with("/messages") => b"\"type\":\"message_stop\"",
            false => b"data: [DONE]",
        };
        let at = memchr::memmem::rfind(body, marker).unwrap();
        // The files of some recordings end with their last line.
        let blank = memchr::memmem::find(&body[at..], b"\n\n").map(|blank| at + blank + 2);
        let expected = &body[..blank.unwrap_or(body.len())];
        let after = body[expected.len()..].trim_ascii();
        assert!(after.is_empty() || after == b"data: [DONE]", "{name}");
        for seed in 0..CUTTINGS {
            let read = decode(config(&recording, Mode::Events), &cut(body, seed)).unwrap();
            assert!(read.events == expected, "{name} seed {seed}");
        }
        for seed in 0..5 {
            let read = decode(config(&recording, Mode::Body), &cut(body, seed)).unwrap();
            assert!(&read.body == body, "{name} seed {seed}");
        }
    }
}

#[test]
fn corpus_streams_cut_short_are_never_a_good_end() {
    let Some(folder) = corpus() else { return };
    for recording in recordings(&folder) {
        let body = &recording.body;
        for part in 1..10 {
            let short = &body[..body.len() * part / 10];
            if short
                .windows(16)
                .any(|w| w == b"\"finish_reason\":\"" || w == b"finish_reason\": \"")
            {
                continue;
            }
            for mode in [Mode::Deltas, Mode::Events] {
                let error = decode(config(&recording, mode), &cut(short, part as u64)).unwrap_err();
                assert_eq!(error.code, Code::UpstreamTruncated, "{} {part}", recording.name);
            }
        }
    }
}

#[test]
fn corpus_error_answers_keep_status_code_and_message() {
    let Some(folder) = corpus() else { return };
    let answers = read_json(&folder.join("streams/error-responses.json"));
    assert!(answers.len() >= 40);
    for answer in answers {
        let status = answer["status"].as_u64().unwrap() as u16;
        let body = answer["body"].as_str().unwrap();
        let kind = answer["headers"]["content-type"].as_str().unwrap_or_default();
        let config = |mode| DecoderConfig::new(mode, "/chat/completions", status, kind);
        let chunks = cut(body.as_bytes(), 7);
        let error = decode(config(Mode::Deltas), &chunks).unwrap_err();
        assert_eq!((error.code, error.http_status), (Code::UpstreamStatus, Some(status)));
        if let Ok(value) = serde_json::from_str::<Value>(body) {
            let told = [&value["error"]["message"], &value["message"], &value["error"]];
            let told = told.into_iter().find_map(Value::as_str).unwrap_or_default();
            let begin: String = told.chars().take(60).filter(|c| !c.is_control()).collect();
            assert!(error.message.contains(begin.trim()), "{} lacks {begin}", error.message);
            let code = value["error"]["code"].as_str().or(value["error"]["type"].as_str());
            assert_eq!(error.provider_code, code.unwrap_or(&error.provider_code));
        }
        for mode in [Mode::Events, Mode::Body] {
            assert_eq!(decode(config(mode), &chunks).unwrap().body, body.as_bytes());
        }
    }
}

#[test]
fn corpus_web_platform_cases_of_event_streams() {
    let Some(folder) = corpus() else { return };
    let cases = read_json(&folder.join("sse-wpt-cases.json"));
    assert_eq!(cases.len(), 25);
    for case in cases {
        let body = from_base64(case["b64"].as_str().unwrap());
        for seed in 0..CUTTINGS {
            let mut sse = SseDecoder::new(1 << 20);
            let mut seen = Vec::new();
            let mut drain = |sse: &mut SseDecoder| {
                while sse.advance().unwrap() {
                    let event = sse.event().unwrap();
                    if let Some(data) = event.data.filter(|_| event.terminated) {
                        let kind = if event.kind.is_empty() { b"message" } else { event.kind };
                        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                        seen.push(Value::from(
                            [text(kind), text(data), text(event.last_id)].to_vec(),
                        ));
                    }
                }
            };
            for chunk in cut(&body, seed) {
                sse.feed(chunk);
                drain(&mut sse);
            }
            sse.end();
            drain(&mut sse);
            assert_eq!(Value::from(seen), case["events"], "{} seed {seed}", case["name"]);
        }
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        let value = alphabet.iter().position(|known| *known == byte).unwrap();
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}
