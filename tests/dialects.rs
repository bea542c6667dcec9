//! Callers of both APIs on endpoints of both dialects, all the way: a broker process, a provider
//! that speaks both, and a client in every mode. Whoever asks gets its own API and the same answer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::Write as _;

use ringmain_client::{Client, Code, FinishReason, Item, Mode, Reply, Request};
use ringmain_sim::text::{expected_text, reasoning_seed, seed_of, tool_arguments};
use ringmain_sim::{Provider, ProviderConfig};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use common::{Broker, Config};

const CHAT: &str = "/chat/completions";
const MESSAGES: &str = "/messages";
/// The routes to the two endpoints: of the OpenAI dialect, of the Anthropic dialect.
const ROUTES: [&str; 2] = ["tiny", "claude"];

struct World {
    provider: Provider,
    client: Client,
    _broker: Broker,
    _key: NamedTempFile,
}

impl World {
    fn start() -> World {
        let provider = Provider::start(ProviderConfig::default()).unwrap();
        // A file of this kind is readable by its owner alone.
        let mut key = NamedTempFile::new().unwrap();
        key.write_all(b"sk-canary\n").unwrap();
        let tail = format!(
            "[[endpoint]]\nname = \"claude\"\ndialect = \"anthropic\"\nkey_file = {:?}\n\
             base_url = \"http://{}/v1\"\n\
             [[route]]\nmodel = \"claude\"\n\
             endpoints = [{{ name = \"claude\", model = \"claude-big\" }}]\n",
            key.path(),
            provider.addr()
        );
        let broker = Broker::start(provider.addr(), Config { tail, ..Config::default() });
        let client = Client::at(broker.socket()).unwrap();
        World { provider, client, _broker: broker, _key: key }
    }

    fn ask(&self, route: &str, path: &str, mode: Mode, body: &Value) -> ringmain_client::Stream {
        let request = Request::new(route, path).mode(mode);
        self.client.submit(&request, body.to_string().as_bytes()).unwrap()
    }

    fn reply(&self, route: &str, path: &str, mode: Mode, body: &Value) -> Reply {
        self.ask(route, path, mode, body).collect_reply().unwrap()
    }
}

/// A request to either API: what it asks for stands in the same fields.
fn body(path: &str, stream: bool, script: &str) -> Value {
    let mut body = json!({
        "model": "any",
        "stream": stream,
        "messages": [{"role": "user", "content": format!("say [[sim {script}]]")}],
    });
    match path {
        MESSAGES => body["max_tokens"] = json!(100),
        _ if stream => body["stream_options"] = json!({"include_usage": true}),
        _ => {}
    }
    body
}

const SCRIPT: &str = "n=20 reasoning=4 tools=2 id=dialects";

fn text() -> String {
    expected_text(seed_of("dialects"), 20, 0)
}

fn reasoning() -> String {
    expected_text(reasoning_seed(seed_of("dialects")), 4, 0)
}

fn arguments(call: usize) -> String {
    tool_arguments(seed_of("dialects"), call)
}

/// Every caller on every endpoint.
fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.into_iter().flat_map(|route| [(route, CHAT), (route, MESSAGES)])
}

#[test]
fn deltas_are_the_same_frames_whoever_asks_whomever() {
    let world = World::start();
    for (route, path) in pairs() {
        for stream in [true, false] {
            let reply = world.reply(route, path, Mode::Deltas, &body(path, stream, SCRIPT));
            let what = format!("{path} on {route}, stream {stream}");
            let choice = &reply.choices[0];
            assert_eq!((&choice.text, &choice.reasoning), (&text(), &reasoning()), "{what}");
            assert_eq!(choice.finish, FinishReason::ToolCalls, "{what}");
            assert_eq!(choice.tool_calls.len(), 2, "{what}");
            for (index, call) in choice.tool_calls.iter().enumerate() {
                assert_eq!((call.index as usize, &*call.name), (index, &*format!("tool_{index}")));
                let told: Value = serde_json::from_str(&call.arguments).unwrap();
                assert_eq!(told, serde_json::from_str::<Value>(&arguments(index)).unwrap());
                assert!(!call.id.is_empty(), "{what}");
            }
            let usage = reply.usage.unwrap();
            assert_eq!((usage.output, usage.input > 0), (20 + 4 + 2 * 12, true), "{what}");
            assert_eq!(usage.input_cached > 0, route == "claude", "{what}");
        }
    }
}

/// What a stream said, read as its own client library would.
#[derive(Debug, Default, PartialEq)]
struct Said {
    text: String,
    reasoning: String,
    arguments: Vec<String>,
    finish: String,
    output: u64,
    ended: bool,
}

impl Said {
    fn read(path: &str, stream: &[u8]) -> Said {
        let mut said = Said::default();
        for line in str::from_utf8(stream).unwrap().lines() {
            match line.strip_prefix("data: ") {
                None => {}
                Some("[DONE]") => said.ended = true,
                Some(data) => {
                    let event: Value = serde_json::from_str(data).unwrap();
                    if path == CHAT { said.add_chunk(&event) } else { said.add_event(&event) }
                }
            }
        }
        said
    }

    fn add_chunk(&mut self, chunk: &Value) {
        let choice = &chunk["choices"][0];
        let delta = &choice["delta"];
        self.text.push_str(delta["content"].as_str().unwrap_or_default());
        self.reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            if call["id"].is_string() {
                self.arguments.push(String::new());
            }
            let fragment = call["function"]["arguments"].as_str().unwrap_or_default();
            self.arguments.last_mut().unwrap().push_str(fragment);
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            reason.clone_into(&mut self.finish);
        }
        self.output = chunk["usage"]["completion_tokens"].as_u64().unwrap_or(self.output);
    }

    fn add_event(&mut self, event: &Value) {
        let delta = &event["delta"];
        self.text.push_str(delta["text"].as_str().unwrap_or_default());
        self.reasoning.push_str(delta["thinking"].as_str().unwrap_or_default());
        if event["content_block"]["type"] == "tool_use" {
            self.arguments.push(String::new());
        }
        if let Some(fragment) = delta["partial_json"].as_str() {
            self.arguments.last_mut().unwrap().push_str(fragment);
        }
        if let Some(reason) = delta["stop_reason"].as_str() {
            reason.clone_into(&mut self.finish);
        }
        self.output = event["usage"]["output_tokens"].as_u64().unwrap_or(self.output);
        self.ended |= event["type"] == "message_stop";
    }
}

#[test]
fn streams_come_in_the_words_of_the_caller() {
    let world = World::start();
    for (route, path) in pairs() {
        for mode in [Mode::Events, Mode::Body] {
            let mut stream = world.ask(route, path, mode, &body(path, true, SCRIPT));
            let (mut bytes, mut content_type) = (Vec::new(), String::new());
            while let Some(item) = stream.next().unwrap() {
                match item {
                    Item::Event(part) | Item::Body(part) => bytes.extend_from_slice(part),
                    Item::Head(head) => head.content_type.clone_into(&mut content_type),
                    _ => {}
                }
            }
            let finish = if path == CHAT { "tool_calls" } else { "tool_use" };
            let expected = Said {
                text: text(),
                reasoning: reasoning(),
                arguments: vec![arguments(0), arguments(1)],
                finish: finish.to_owned(),
                output: 20 + 4 + 2 * 12,
                ended: true,
            };
            assert_eq!(Said::read(path, &bytes), expected, "{path} on {route}, {mode:?}");
            assert!(content_type.starts_with("text/event-stream"), "{content_type}");
        }
    }
}

#[test]
fn whole_answers_come_in_the_words_of_the_caller() {
    let world = World::start();
    for (route, path) in pairs() {
        let reply = world.reply(route, path, Mode::Body, &body(path, false, SCRIPT));
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        let (said, called) = match path {
            CHAT => {
                let message = &answer["choices"][0]["message"];
                (&message["content"], message["tool_calls"].as_array().unwrap().len())
            }
            _ => {
                let blocks = answer["content"].as_array().unwrap();
                (&blocks[1]["text"], blocks.len() - 2)
            }
        };
        assert_eq!((said, called), (&json!(text()), 2), "{path} on {route}: {answer}");
        assert_eq!(reply.head.content_type, "application/json");
    }
}

#[test]
fn each_endpoint_is_asked_in_its_own_dialect() {
    let world = World::start();
    for (route, path) in pairs() {
        world.provider.reset_log();
        world.reply(route, path, Mode::Deltas, &body(path, true, "n=1"));
        let log = world.provider.log();
        let header = |name: &str| log[0].headers.iter().any(|(known, _)| known == name);
        let is_claude = route == "claude";
        assert_eq!(log[0].path, if is_claude { "/v1/messages" } else { "/v1/chat/completions" });
        assert_eq!(header("anthropic-version"), is_claude, "{path} on {route}");
        assert!(!log[0].authorization, "{path} on {route}");
        let plan = log[0].plan.as_ref().unwrap();
        assert!(plan.stream);
        // Usage is asked for where it has to be, and the endpoint's own model is named.
        assert_eq!((plan.usage, plan.model == "claude-big"), (!is_claude, is_claude));
    }
}

#[test]
fn errors_come_in_the_words_of_the_caller() {
    let world = World::start();
    for (route, path) in pairs() {
        let asked = body(path, true, "status=400");
        let reply = world.reply(route, path, Mode::Body, &asked);
        let error: Value = serde_json::from_slice(&reply.body).unwrap();
        let words = "the simulated provider answers 400";
        assert_eq!(reply.head.status, 400);
        assert_eq!(error["error"]["type"], "invalid_request_error", "{path} on {route}: {error}");
        assert!(error["error"]["message"].as_str().unwrap().starts_with(words), "{error}");
        assert_eq!(error["type"] == "error", path == MESSAGES, "{path} on {route}: {error}");
        let failed = world.ask(route, path, Mode::Deltas, &asked).collect_reply().unwrap_err();
        assert_eq!((failed.code(), failed.http_status()), (Code::UpstreamStatus, Some(400)));
    }
}

#[test]
fn what_cannot_be_said_is_refused_before_anything_is_sent() {
    let world = World::start();
    for (route, path, field) in
        [("claude", CHAT, "logprobs"), ("claude", CHAT, "seed"), ("tiny", MESSAGES, "top_k")]
    {
        let mut asked = body(path, true, "n=1");
        asked[field] = json!(7);
        for mode in [Mode::Deltas, Mode::Events, Mode::Body] {
            let refused = world.ask(route, path, mode, &asked).collect_reply().unwrap_err();
            assert_eq!(refused.code(), Code::InvalidRequest, "{refused}");
            assert!(refused.message().contains(field), "{refused}");
        }
    }
    let request = |path| world.ask("claude", path, Mode::Body, &json!({"input": "x"}));
    let refused = request("/embeddings").collect_reply().unwrap_err();
    assert!(refused.message().contains("/embeddings has no counterpart"), "{refused}");
    assert_eq!(world.provider.log().len(), 0);
    // In its own dialect an endpoint is told everything.
    let mut asked = body(CHAT, false, "n=1");
    asked["some_field_of_tomorrow"] = json!(1);
    assert_eq!(world.reply("tiny", CHAT, Mode::Body, &asked).head.status, 200);
}

#[test]
fn a_translated_stream_that_breaks_off_is_an_error_in_every_mode() {
    let world = World::start();
    for (route, path) in [("tiny", MESSAGES), ("claude", CHAT)] {
        for mode in [Mode::Deltas, Mode::Events, Mode::Body] {
            let asked = body(path, true, "n=50 fault=close_early at=5");
            let error = world.ask(route, path, mode, &asked).collect_reply().unwrap_err();
            let codes = [Code::UpstreamTruncated, Code::UpstreamReset];
            assert!(codes.contains(&error.code()), "{path} on {route}, {mode:?}: {error}");
        }
    }
}
