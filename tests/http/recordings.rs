//! Every recorded stream of real providers through the face, byte for byte.

use std::fs;

use ringmain_sim::ProviderConfig;
use serde_json::{Value, json};

use crate::World;
use crate::common::{Config, corpus};

/// Folders of answers in the OpenAI dialect.
const FOLDERS: [&str; 6] =
    ["openai/", "azure/", "groq/", "mistral/", "llm-variants/", "pydantic-ai/openai"];

#[test]
fn http_corpus_arrives_byte_for_byte() {
    let Some(streams) = corpus().map(|corpus| corpus.join("streams")) else { return };
    let provider =
        ProviderConfig { replay_dir: Some(streams.clone()), ..ProviderConfig::default() };
    let config = Config { endpoint: "usage = \"off\"".to_owned(), ..Config::default() };
    let world = World::of("", config, provider);
    let index = fs::read(streams.join("INDEX.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let mut count = 0;
    for entry in index.as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        if !FOLDERS.iter().any(|folder| file.starts_with(folder)) {
            continue;
        }
        let uri = entry["request_uri"].as_str().unwrap_or_default();
        let uri = uri.split(['?', '#']).next().unwrap();
        let path = match () {
            () if uri.ends_with("/chat/completions") => "/v1/chat/completions",
            () if uri.ends_with("/completions") => "/v1/completions",
            () => "/v1/responses",
        };
        let recording = fs::read(streams.join(file)).unwrap();
        let mut connection = world.connect();
        for (chunk, seed) in [(7, 2), (256, 3), (1 << 20, 4)] {
            let script = format!("[[sim replay={file} chunk={chunk} seed={seed}]]");
            let body = json!({"model": "tiny", "stream": true, "prompt": script,
                "messages": [{"role": "user", "content": script}]});
            let reply = connection.post(path, &[], body.to_string().as_bytes());
            assert_eq!((reply.status, reply.is_whole), (200, true), "{file}");
            assert!(recording.starts_with(&reply.body), "{file}");
            // Nothing counts behind the terminal event.
            let rest = recording[reply.body.len()..].trim_ascii();
            assert!(rest.is_empty() || rest == b"data: [DONE]", "{file}: {} missing", rest.len());
        }
        count += 1;
    }
    assert!(count >= 30, "only {count} recordings");
}
