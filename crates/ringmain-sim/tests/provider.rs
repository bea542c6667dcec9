//! The provider through real HTTP, over HTTP/1.1 and HTTP/2 alike.
// The lint's excuse for tests covers test functions; the helpers here are as much a test.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::time::Duration;

use reqwest::{Client, Response};
use ringmain_sim::provider::{How, embedding_of};
use ringmain_sim::text::{expected_text, reasoning_seed, seed_of, split_stamp, tool_arguments};
use ringmain_sim::{Fault, Provider, ProviderConfig, ProviderRecord, Script};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(5);

/// One provider, one client of one HTTP version.
struct World {
    provider: Provider,
    client: Client,
}

impl World {
    fn new(is_h2: bool, config: ProviderConfig) -> World {
        let builder = Client::builder().no_proxy();
        let builder = if is_h2 { builder.http2_prior_knowledge() } else { builder };
        World { provider: Provider::start(config).unwrap(), client: builder.build().unwrap() }
    }

    async fn post(&self, path: &str, body: &Value) -> reqwest::Result<Response> {
        let url = format!("{}{path}", self.provider.base_url());
        let request = self.client.post(url).header("content-type", "application/json");
        request.body(body.to_string()).send().await
    }

    async fn chat(&self, script: &Script) -> reqwest::Result<Response> {
        let messages = json!([{ "role": "user", "content": format!("hello {script}") }]);
        let options = json!({ "include_usage": true });
        let body = json!({
            "model": "tiny", "stream": true, "stream_options": options, "messages": messages
        });
        self.post("/chat/completions", &body).await
    }

    async fn events(&self, script: &Script) -> Vec<String> {
        split(&self.chat(script).await.unwrap().text().await.unwrap())
    }

    async fn ended(&self, id: &str) -> ProviderRecord {
        let has_ended = |record: &ProviderRecord| record.id() == id && record.ended.is_some();
        let wait = async {
            loop {
                if let Some(record) = self.provider.log().into_iter().find(has_ended) {
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the provider saw the end")
    }
}

/// Runs a test over both versions.
async fn over_both(test: impl AsyncFn(World)) {
    for is_h2 in [false, true] {
        test(World::new(is_h2, ProviderConfig::default())).await;
    }
}

fn split(body: &str) -> Vec<String> {
    let events = body.split_terminator("\n\n");
    events.map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
}

fn member(events: &[String], name: &str) -> String {
    let read = |event: &String| -> Option<String> {
        let event: Value = serde_json::from_str(event).ok()?;
        Some(event["choices"][0]["delta"][name].as_str()?.to_owned())
    };
    events.iter().filter_map(read).collect()
}

#[tokio::test]
async fn a_stream_says_what_both_ends_can_compute() {
    over_both(async |world| {
        let script = Script { reasoning: 3, tools: 2, ..Script::tokens(50) }.with_id("a-1");
        let events = world.events(&script).await;
        let seed = seed_of("a-1");
        assert_eq!(member(&events, "content"), expected_text(seed, 50, 0));
        assert_eq!(member(&events, "reasoning_content"), expected_text(reasoning_seed(seed), 3, 0));
        let arguments: String = events
            .iter()
            .filter_map(|event| serde_json::from_str::<Value>(event).ok())
            .map(|event| event["choices"][0]["delta"]["tool_calls"][0].clone())
            .filter(|call| call["index"] == 1)
            .map(|call| call["function"]["arguments"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(arguments, tool_arguments(seed, 1));
        let [.., finish, usage, done] = &events[..] else { panic!("{events:?}") };
        assert!(finish.contains(r#""finish_reason":"tool_calls""#));
        assert!(usage.contains(r#""choices":[],"usage""#));
        assert_eq!(done, "[DONE]");
    })
    .await;
}

#[tokio::test]
async fn pacing_coalescing_and_stamps_leave_the_text_alone() {
    over_both(async |world| {
        let script = Script {
            gap_us: 200,
            ttft_us: 500,
            coalesce: 7,
            size: 33,
            stamp: true,
            seed: Some(4),
            ..Script::tokens(40)
        };
        let events = world.events(&script).await;
        let tokens = events.iter().filter_map(|event| {
            let token = member(std::slice::from_ref(event), "content");
            split_stamp(&token).map(|(_, text)| text.to_owned())
        });
        assert_eq!(tokens.collect::<String>(), expected_text(4, 40, 33));
        let flushed = Script { flush: true, seed: Some(4), ..Script::tokens(40) };
        let events = world.events(&flushed).await;
        assert_eq!(member(&events, "content"), expected_text(4, 40, 0));
    })
    .await;
}

#[tokio::test]
async fn whole_answers_and_completions_say_the_same() {
    over_both(async |world| {
        let prompt = "[[sim n=20 id=w]]";
        let body = json!({ "model": "m", "messages": [{ "role": "user", "content": prompt }] });
        let answer = world.post("/chat/completions", &body).await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let text = expected_text(seed_of("w"), 20, 0);
        assert_eq!(answer["choices"][0]["message"]["content"], text);
        let body = json!({ "model": "m", "prompt": prompt, "stream": true });
        let events = world.post("/completions", &body).await.unwrap().text().await.unwrap();
        let events = split(&events);
        let said = events.iter().filter_map(|event| {
            let event: Value = serde_json::from_str(event).ok()?;
            Some(event["choices"][0]["text"].as_str()?.to_owned())
        });
        assert_eq!(said.collect::<String>(), text);
    })
    .await;
}

#[tokio::test]
async fn embeddings_are_deterministic_in_both_encodings() {
    over_both(async |world| {
        let body = json!({ "model": "e", "input": ["a", "b"], "dimensions": 3 });
        let answer = world.post("/embeddings", &body).await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let vector: Vec<f32> =
            serde_json::from_value(answer["data"][1]["embedding"].clone()).unwrap();
        assert_eq!(vector, embedding_of("b", 3));
        let body = json!({
            "model": "e", "input": "b", "dimensions": 3, "encoding_format": "base64"
        });
        let answer = world.post("/embeddings", &body).await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["data"][0]["embedding"].as_str().unwrap().len(), 16);
    })
    .await;
}

#[tokio::test]
async fn a_recording_comes_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let recording = "data: {\"x\":\"水\"}\r\n\r\n: note\n\ndata: [DONE]\n\n".repeat(40);
    std::fs::create_dir(folder.path().join("openai")).unwrap();
    std::fs::write(folder.path().join("openai/text.sse"), &recording).unwrap();
    for is_h2 in [false, true] {
        let replay_dir = Some(folder.path().to_owned());
        let world = World::new(is_h2, ProviderConfig { replay_dir, ..ProviderConfig::default() });
        for seed in 0..5 {
            let script = Script {
                replay: Some("openai/text.sse".to_owned()),
                chunk: 20,
                seed: Some(seed),
                ..Script::default()
            };
            let body = world.chat(&script).await.unwrap().text().await.unwrap();
            assert_eq!(body, recording);
        }
        let script = Script { replay: Some("../x".to_owned()), ..Script::default() };
        let answer = world.chat(&script).await.unwrap();
        assert_eq!(answer.status(), 400);
        assert!(answer.text().await.unwrap().contains("does not stay inside"));
    }
}

#[tokio::test]
async fn statuses_and_unknown_paths_are_errors_of_the_dialect() {
    over_both(async |world| {
        let script = Script {
            status: 429,
            retry_after: Some("2".to_owned()),
            retry_after_ms: Some("1500".to_owned()),
            ..Script::default()
        };
        let answer = world.chat(&script).await.unwrap();
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()["retry-after"], "2");
        assert_eq!(answer.headers()["retry-after-ms"], "1500");
        assert!(answer.text().await.unwrap().contains("rate_limit_error"));
        let answer = world.post("/nothing", &json!({})).await.unwrap();
        assert_eq!(answer.status(), 404);
        let models = format!("{}/models", world.provider.base_url());
        let models = world.client.get(models).send().await.unwrap().text().await.unwrap();
        assert!(models.contains("\"tiny\""));
    })
    .await;
}

#[tokio::test]
async fn faults_inside_the_body_leave_an_exact_prefix() {
    over_both(async |world| {
        for fault in [Fault::CloseEarly, Fault::Reset] {
            let id = fault.name();
            let script = Script { at: Some(3), ..Script::tokens(9) }.with_id(id).with_fault(fault);
            let mut answer = world.chat(&script).await.unwrap();
            let mut body = Vec::new();
            let error = loop {
                match answer.chunk().await {
                    Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                    Ok(None) => panic!("{fault} ended cleanly"),
                    Err(error) => break error,
                }
            };
            assert!(error.is_body() || error.is_decode(), "{error:?}");
            let events = split(str::from_utf8(&body).unwrap());
            assert_eq!(member(&events, "content"), expected_text(seed_of(id), 3, 0));
            let record = world.ended(id).await;
            assert_eq!(record.how(), Some(How::Fault(fault)));
            assert_eq!((record.tokens_sent, record.marker_sent), (3, false));
        }
    })
    .await;
}

#[tokio::test]
async fn streams_that_end_wrongly_end_cleanly() {
    over_both(async |world| {
        let fault = |fault: Fault| Script::tokens(5).with_id(fault.name()).with_fault(fault);
        let events = world.events(&fault(Fault::NoDone)).await;
        assert_eq!(member(&events, "content"), expected_text(seed_of("no_done"), 5, 0));
        assert!(!events.last().unwrap().contains("DONE"));
        let events = world.events(&fault(Fault::ErrorEvent)).await;
        assert!(events.last().unwrap().contains("overloaded_error"));
        let events = world.events(&fault(Fault::InvalidJson)).await;
        assert_eq!(events.last().unwrap(), "[DONE]");
        let bad = events.iter().filter(|event| serde_json::from_str::<Value>(event).is_err());
        assert_eq!(bad.count(), 2, "the broken one and [DONE]");
        let mut big = fault(Fault::BigEvent);
        big.big = 100_000;
        let events = world.events(&big).await;
        assert!(events.iter().any(|event| event.len() > 100_000));
        let answer = world.chat(&fault(Fault::NotSse)).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &"text/html".parse().unwrap())
        );
        let answer = world.chat(&fault(Fault::Empty)).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "");
    })
    .await;
}

#[tokio::test]
async fn gzip_is_decodable_and_the_same() {
    over_both(async |world| {
        let script = Script::tokens(30).with_id("z").with_fault(Fault::Gzip);
        let answer = world.chat(&script).await.unwrap();
        assert_eq!(answer.headers()["content-encoding"], "gzip");
        let coded = answer.bytes().await.unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&coded[..]).read_to_string(&mut text).unwrap();
        assert_eq!(member(&split(&text), "content"), expected_text(seed_of("z"), 30, 0));
    })
    .await;
}

#[tokio::test]
async fn silence_lasts_until_the_client_goes() {
    over_both(async |world| {
        let script = Script::tokens(9).with_id("stall").with_fault(Fault::Stall);
        let mut answer = world.chat(&script).await.unwrap();
        let mut body = Vec::new();
        while !body.windows(5).any(|five| five == b"\"text" || five == b"conte") {
            body.extend_from_slice(&answer.chunk().await.unwrap().unwrap());
        }
        assert_eq!(world.provider.log()[0].ended, None);
        drop(answer);
        assert_eq!(world.ended("stall").await.how(), Some(How::ClientGone));

        let script = Script::tokens(9).with_id("mute").with_fault(Fault::RefuseHead);
        let call = world.chat(&script);
        assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err());
        let record = world.ended("mute").await;
        assert_eq!((record.how(), record.status), (Some(How::ClientGone), None));

        let script = Script { head_us: Some(20_000), ..Script::tokens(2) }.with_id("slow");
        let events = world.events(&script.with_fault(Fault::SlowHead)).await;
        assert_eq!(member(&events, "content"), expected_text(seed_of("slow"), 2, 0));
        let record = world.ended("slow").await;
        assert!(record.head_ns.unwrap() - record.arrived_ns >= 20_000_000);
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_stream_back() {
    for is_h2 in [false, true] {
        let send_buffer_bytes = Some(64 * 1024);
        let config = ProviderConfig { send_buffer_bytes, ..ProviderConfig::default() };
        let world = World::new(is_h2, config);
        // 256 MiB if nobody holds it back.
        let script = Script { size: 4096, ..Script::tokens(65_536) }.with_id("slow");
        let mut answer = world.chat(&script).await.unwrap();
        answer.chunk().await.unwrap().unwrap();
        let sent = || world.provider.log()[0].bytes_sent;
        let mut before = 0;
        while before != sent() || before == 0 {
            before = sent();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert!(before < 32 << 20, "{before} bytes went out unread");
        drop(answer);
        assert_eq!(world.ended("slow").await.how(), Some(How::ClientGone));
    }
}

#[tokio::test]
async fn the_log_tells_what_came_and_keeps_no_key() {
    over_both(async |world| {
        let url = format!("{}/chat/completions", world.provider.base_url());
        let body = r#"{"model":"tiny","messages":[{"role":"user","content":"[[sim id=q n=2]]"}]}"#;
        let request = world.client.post(url).body(body).header("x-trace", "t-1");
        let answer = request.header("authorization", "Bearer canary-key").send().await.unwrap();
        answer.bytes().await.unwrap();
        let record = world.ended("q").await;
        assert_eq!(record.how(), Some(How::Completed));
        assert_eq!((record.status, record.number, record.connection), (Some(200), 1, 1));
        assert_eq!(record.path, "/v1/chat/completions");
        assert_eq!(record.header("x-trace"), Some("t-1"));
        assert_eq!((record.authorization, record.authorization_hash != 0), (true, true));
        assert_eq!(record.body_bytes, body.len() as u64);
        assert_eq!(record.body_hash, ringmain_sim::text::hash_whole(body.as_bytes()));

        let sim = format!("http://{}/sim", world.provider.addr());
        let lines = world.client.get(format!("{sim}/log")).send().await.unwrap();
        let lines = lines.text().await.unwrap();
        assert!(!lines.contains("canary-key"));
        let read: ProviderRecord = serde_json::from_str(lines.trim_end()).unwrap();
        assert_eq!(read, record);
        world.client.post(format!("{sim}/reset")).send().await.unwrap();
        assert!(world.provider.log().is_empty());
    })
    .await;
}

#[tokio::test]
async fn one_connection_carries_many_calls() {
    over_both(async |world| {
        for index in 0..5 {
            world.events(&Script::tokens(2).with_id(format!("c-{index}"))).await;
        }
        let records = world.provider.log();
        assert_eq!(records.len(), 5);
        assert!(records.iter().all(|record| record.connection == 1), "{records:?}");
        assert!(records.iter().all(|record| record.http == records[0].http));
    })
    .await;
}

#[test]
fn a_dropped_provider_is_gone() {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let addr = provider.addr();
    assert!(std::net::TcpStream::connect(addr).is_ok());
    drop(provider);
    assert!(std::net::TcpStream::connect(addr).is_err());
}

#[test]
fn a_provider_serves_on_a_thread_of_its_callers() {
    use std::io::Write;
    let mut asked = false;
    let ready = |addr| {
        // The kernel takes the connection before anybody serves it.
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        asked = true;
    };
    let done = async {};
    ringmain_sim::provider::run_until(ProviderConfig::default(), ready, done).unwrap();
    assert!(asked);
}
