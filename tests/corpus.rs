//! Recorded streams of real providers, all the way: replayed over HTTP in pieces of random size,
//! relayed by a broker process, read by a client, and compared with the file itself.
//!
//! The recordings are not part of the project: `RINGMAIN_CORPUS` names their folder.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::Path;

use ringmain_client::{Client, FinishReason, Item, Mode, Request, Usage};
use ringmain_sim::{Provider, ProviderConfig};
use serde_json::{Value, json};

use common::{Broker, Config, corpus};

/// Cuttings of each recording: most bytes of a piece, and the seed of their sizes.
const CUTTINGS: [(u64, u64); 4] = [(1, 1), (7, 2), (256, 3), (1 << 20, 4)];
/// Folders of the corpus that hold answers in the OpenAI dialect.
const FOLDERS: [&str; 6] =
    ["openai/", "azure/", "groq/", "mistral/", "llm-variants/", "pydantic-ai/openai"];
/// Folders of the corpus that hold answers in the Anthropic dialect.
const MESSAGES_FOLDERS: [&str; 3] = ["anthropic/", "anthropic-sdk/", "pydantic-ai/anthropic/"];

struct Recording {
    /// Path inside the folder of streams.
    file: String,
    /// API path that it came from.
    path: &'static str,
    body: Vec<u8>,
}

impl Recording {
    fn is_responses(&self) -> bool {
        self.path == "/responses"
    }

    /// An API whose typed reading is compared with a plain one beside its decoder.
    fn is_chat(&self) -> bool {
        self.path.ends_with("/completions")
    }

    /// The route to the endpoint that speaks its dialect.
    fn route(&self) -> &'static str {
        if self.path == "/messages" { "claude" } else { "tiny" }
    }
}

/// What a reading found.
#[derive(Debug, Default, PartialEq)]
struct Reading {
    text: Vec<(u16, String)>,
    reasoning: Vec<(u16, String)>,
    /// Index, id, name and arguments of each call.
    tools: Vec<(u32, String, String, String)>,
    finish: Vec<(u16, FinishReason)>,
    usage: Option<Usage>,
}

/// A provider that replays the corpus, a broker, and a client.
struct World {
    recordings: Vec<Recording>,
    client: Client,
    _broker: Broker,
    _provider: Provider,
}

impl World {
    /// `None` without a corpus.
    fn start() -> Option<World> {
        let streams = corpus()?.join("streams");
        let recordings = recordings(&streams);
        let config = ProviderConfig { replay_dir: Some(streams), ..ProviderConfig::default() };
        let provider = Provider::start(config).unwrap();
        let tail = format!(
            "[[endpoint]]\nname = \"claude\"\ndialect = \"anthropic\"\n\
             base_url = \"http://{}/v1\"\n\
             [[route]]\nmodel = \"claude\"\nendpoints = [{{ name = \"claude\" }}]\n",
            provider.addr()
        );
        let broker = Broker::start(provider.addr(), Config { tail, ..Config::default() });
        let client = Client::at(broker.socket()).unwrap();
        Some(World { recordings, client, _broker: broker, _provider: provider })
    }

    /// Streams each recording in each cutting.
    fn each(&self, mode: Mode, mut judge: impl FnMut(&Recording, ringmain_client::Stream)) {
        for recording in &self.recordings {
            for (chunk, seed) in CUTTINGS {
                // Byte by byte the long ones take long, and are cut enough at 7.
                if chunk == 1 && recording.body.len() > 4_000 {
                    continue;
                }
                let script = format!("[[sim replay={} chunk={chunk} seed={seed}]]", recording.file);
                let body = json!({
                    "model": recording.route(),
                    "stream": true,
                    "prompt": script,
                    "messages": [{ "role": "user", "content": script }],
                });
                let request = Request::new(recording.route(), recording.path);
                let request = request.mode(mode).usage_requested();
                let stream = self.client.submit(&request, body.to_string().as_bytes()).unwrap();
                judge(recording, stream);
            }
        }
    }
}

fn recordings(streams: &Path) -> Vec<Recording> {
    let index: Value = serde_json::from_slice(&fs::read(streams.join("INDEX.json")).unwrap())
        .expect("the index is JSON");
    let mut recordings = Vec::new();
    for entry in index.as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let uri = entry["request_uri"].as_str().unwrap_or_default();
        let uri = uri.split(['?', '#']).next().unwrap();
        let path = match () {
            () if MESSAGES_FOLDERS.iter().any(|folder| file.starts_with(folder)) => "/messages",
            () if !FOLDERS.iter().any(|folder| file.starts_with(folder)) => continue,
            () if uri.ends_with("/chat/completions") => "/chat/completions",
            () if uri.ends_with("/completions") => "/completions",
            () => "/responses",
        };
        let body = fs::read(streams.join(file)).unwrap();
        recordings.push(Recording { file: file.to_owned(), path, body });
    }
    assert!(recordings.len() >= 50, "only {} recordings", recordings.len());
    recordings
}

#[test]
fn corpus_events_arrive_byte_for_byte() {
    let Some(world) = World::start() else { return };
    world.each(Mode::Events, |recording, mut stream| {
        let (mut events, mut ends) = (Vec::new(), 0);
        while let Some(item) = stream.next().unwrap_or_else(|e| panic!("{}: {e}", recording.file)) {
            match item {
                Item::Event(bytes) => events.extend_from_slice(bytes),
                Item::End(_) => ends += 1,
                _ => {}
            }
        }
        assert_eq!(ends, 1, "{}", recording.file);
        assert!(recording.body.starts_with(&events), "{}", recording.file);
        // Blank space belongs to no event, and nothing counts behind the terminal one.
        let rest = recording.body[events.len()..].trim_ascii();
        let is_over = rest.is_empty() || recording.is_responses() && rest == b"data: [DONE]";
        assert!(is_over, "{}: {} bytes are missing", recording.file, rest.len());
    });
}

#[test]
fn corpus_bodies_arrive_byte_for_byte() {
    let Some(world) = World::start() else { return };
    world.each(Mode::Body, |recording, stream| {
        let reply = stream.collect_reply().unwrap();
        assert!(reply.body == recording.body, "{}", recording.file);
    });
}

#[test]
fn corpus_deltas_are_what_a_plain_reading_says() {
    let Some(world) = World::start() else { return };
    let (mut texts, mut tools, mut usages) = (0, 0, 0);
    world.each(Mode::Deltas, |recording, stream| {
        if !recording.is_chat() {
            return;
        }
        let expected = plain_reading(&recording.body);
        let found = relayed(stream).unwrap_or_else(|e| panic!("{}: {e}", recording.file));
        assert_eq!(found, expected, "{}", recording.file);
        texts += expected.text.len();
        tools += expected.tools.len();
        usages += usize::from(expected.usage.is_some());
    });
    assert!(texts > 40 && tools > 20 && usages > 20, "{texts} texts, {tools} tools, {usages}");
}

/// What the client was given.
fn relayed(mut stream: ringmain_client::Stream) -> ringmain_client::Result<Reading> {
    let mut reading = Reading::default();
    while let Some(item) = stream.next()? {
        match item {
            Item::Delta { choice, text } => add(&mut reading.text, choice, text),
            Item::Reasoning { choice, text } => add(&mut reading.reasoning, choice, text),
            Item::Tool { call, .. } => {
                reading.add_tool(call.index, call.id, call.name, call.arguments);
            }
            Item::Usage(usage) => assert_eq!(reading.usage.replace(usage), None, "usage twice"),
            Item::End(end) => reading.finish = end.finish,
            _ => {}
        }
    }
    Ok(reading)
}

/// The plainest reading: split at blank lines, strip `data: `, parse everything.
fn plain_reading(body: &[u8]) -> Reading {
    let mut reading = Reading::default();
    let body = str::from_utf8(body).unwrap().replace("\r\n", "\n");
    for block in body.split("\n\n") {
        let lines = block.lines().filter_map(|line| line.strip_prefix("data: "));
        let data = lines.collect::<Vec<_>>().join("\n");
        if data.is_empty() || data == "[DONE]" {
            continue;
        }
        let event: Value = serde_json::from_str(&data).unwrap();
        for choice in event["choices"].as_array().into_iter().flatten() {
            reading.add_choice(choice);
        }
        let usages = [&event["usage"], &event["x_groq"]["usage"]];
        let usage = usages.into_iter().find(|usage| usage.is_object()).map(plain_usage);
        reading.usage = usage.or(reading.usage);
    }
    reading
}

impl Reading {
    fn add_choice(&mut self, choice: &Value) {
        let index = choice["index"].as_u64().unwrap_or(0) as u16;
        let delta = &choice["delta"];
        for text in [&choice["text"], &delta["content"], &delta["refusal"]] {
            add(&mut self.text, index, text.as_str().unwrap_or_default());
        }
        let reasoning = [&delta["reasoning_content"], &delta["reasoning"]];
        let reasoning = reasoning.into_iter().find_map(Value::as_str).unwrap_or_default();
        add(&mut self.reasoning, index, reasoning);
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let function = &call["function"];
            // Some providers give the index -1 to every piece: it goes on with the latest call.
            let latest = self.tools.last().map_or(0, |tool| tool.0);
            let tool = call["index"].as_u64().map_or(latest, |index| index as u32);
            let (id, name) = (text(&call["id"]), text(&function["name"]));
            self.add_tool(tool, &id, &name, &text(&function["arguments"]));
        }
        let reason = match choice["finish_reason"].as_str() {
            None => return,
            Some("stop") => FinishReason::Stop,
            Some("length") => FinishReason::Length,
            Some("tool_calls") => FinishReason::ToolCalls,
            Some(other) => panic!("finish reason {other}"),
        };
        self.finish.retain(|(known, _)| *known != index);
        self.finish.push((index, reason));
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

fn add(texts: &mut Vec<(u16, String)>, choice: u16, piece: &str) {
    match texts.iter_mut().find(|(known, _)| *known == choice) {
        _ if piece.is_empty() => {}
        Some((_, text)) => text.push_str(piece),
        None => texts.push((choice, piece.to_owned())),
    }
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
