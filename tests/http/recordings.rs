//! Every recorded answer of real providers through the face, byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use ringmain_sim::ProviderConfig;
use serde_json::{Value, json};

use crate::World;
use crate::canned;
use crate::common::{self, Config, corpus};
use crate::wire::Reply;

/// Cuttings of each recording: most bytes of a piece, and the seed of their sizes.
const CUTTINGS: [(u64, u64); 4] = [(1, 1), (7, 2), (256, 3), (1 << 20, 4)];
/// Recordings beyond this many bytes are not sent byte by byte, which takes long.
const SINGLE_BYTES_MAX: usize = 4_000;

/// Where a recording came from, by its place in the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Api {
    Chat,
    Completions,
    Messages,
    /// An API that nobody here reads: it passes unopened.
    Ollama,
    Responses,
}

impl Api {
    /// Every recording is of one of them.
    fn of(file: &str, uri: &str) -> Api {
        let uri = uri.split(['?', '#']).next().unwrap();
        match file.split('/').next().unwrap() {
            "anthropic" | "anthropic-sdk" => Api::Messages,
            "ollama" => Api::Ollama,
            _ if uri.ends_with("/v1/messages") => Api::Messages,
            _ if uri.ends_with("/chat/completions") => Api::Chat,
            _ if uri.ends_with("/completions") => Api::Completions,
            _ if uri.contains("/responses") => Api::Responses,
            _ => panic!("{file} is of no known API: {uri}"),
        }
    }

    fn path(self) -> &'static str {
        match self {
            Api::Chat => "/v1/chat/completions",
            Api::Completions => "/v1/completions",
            Api::Messages => "/v1/messages",
            Api::Ollama => "/v1/api/chat",
            Api::Responses => "/v1/responses",
        }
    }

    /// The route to the endpoint that speaks its dialect.
    fn model(self) -> &'static str {
        if self == Api::Messages { "claude" } else { "tiny" }
    }
}

/// An endpoint of the other dialect, at the same provider.
fn claude(addr: SocketAddr) -> String {
    format!(
        "[[endpoint]]\nname = \"claude\"\ndialect = \"anthropic\"\nbase_url = \"http://{addr}/v1\"\n\
         [[route]]\nmodel = \"claude\"\nendpoints = [{{ name = \"claude\" }}]\n"
    )
}

fn index(of: &std::path::Path, name: &str) -> Vec<Value> {
    let index: Value = serde_json::from_slice(&fs::read(of.join(name)).unwrap()).unwrap();
    index.as_array().unwrap().clone()
}

#[test]
fn http_corpus_arrives_byte_for_byte() {
    let Some(streams) = corpus().map(|corpus| corpus.join("streams")) else { return };
    let replay = ProviderConfig { replay_dir: Some(streams.clone()), ..ProviderConfig::default() };
    let config = Config { endpoint: "usage = \"off\"".to_owned(), ..Config::default() };
    let world = World::following(config, replay, |provider| claude(provider.addr()));
    let index = index(&streams, "INDEX.json");
    let mut counts = BTreeMap::<Api, usize>::new();
    let mut connection = world.connect();
    for entry in &index {
        let file = entry["file"].as_str().unwrap();
        let api = Api::of(file, entry["request_uri"].as_str().unwrap_or_default());
        let recording = fs::read(streams.join(file)).unwrap();
        for (chunk, seed) in CUTTINGS {
            if chunk == 1 && recording.len() > SINGLE_BYTES_MAX {
                continue;
            }
            let script = format!("[[sim replay={file} chunk={chunk} seed={seed}]]");
            let body = json!({"model": api.model(), "stream": true, "prompt": script,
                "max_tokens": 100, "messages": [{"role": "user", "content": script}]});
            let reply = connection.post(api.path(), &[], body.to_string().as_bytes());
            judge(api, &reply, &recording, &format!("{file} in pieces of {chunk}"));
        }
        *counts.entry(api).or_default() += 1;
    }
    common::report(format_args!("recorded streams through the HTTP face: {counts:?}"));
    assert_eq!(counts.values().sum::<usize>(), index.len());
    assert!(counts.len() == 5 && index.len() >= 61, "{counts:?}");
}

fn judge(api: Api, reply: &Reply, recording: &[u8], what: &str) {
    assert_eq!((reply.status, reply.is_whole), (200, true), "{what}: {reply:?}");
    assert!(recording.starts_with(&reply.body), "{what}");
    let rest = recording[reply.body.len()..].trim_ascii();
    // Nothing counts behind the terminal event.
    let is_over = rest.is_empty() || api == Api::Responses && rest == b"data: [DONE]";
    assert!(is_over, "{what}: {} bytes are missing", rest.len());
}

/// The recorded refusals: the words of the provider are those that its caller reads.
#[test]
fn http_corpus_refusals_arrive_byte_for_byte() {
    let Some(streams) = corpus().map(|corpus| corpus.join("streams")) else { return };
    let refusals = index(&streams, "error-responses.json");
    let addr = refuse_all(refusals.clone());
    let tail = format!(
        "[[endpoint]]\nname = \"refusing\"\nbase_url = \"http://{addr}/v1\"\n\
         breaker = {{ failures = 0, percent = 0 }}\n\
         [[route]]\nmodel = \"refused\"\nendpoints = [{{ name = \"refusing\" }}]\n\
         [retry]\nattempts = 1\n{}",
        claude(addr)
    );
    let config = Config { tail, ..Config::default() };
    let world = World::of("", config, ProviderConfig::default());
    let mut connection = world.connect();
    for (number, refusal) in refusals.iter().enumerate() {
        let is_messages = refusal["uri"].as_str().unwrap().contains("api.anthropic.com");
        let (model, path) = match is_messages {
            true => ("claude", "/v1/messages"),
            false => ("refused", "/v1/chat/completions"),
        };
        let body = json!({"model": model, "max_tokens": 1, "messages": [], "user": number});
        let reply = connection.post(path, &[], body.to_string().as_bytes());
        assert_eq!(u64::from(reply.status), refusal["status"].as_u64().unwrap(), "{refusal}");
        assert_eq!(reply.body, refusal["body"].as_str().unwrap().as_bytes(), "{refusal}");
        let content_type = refusal["headers"]["content-type"].as_str();
        assert_eq!(reply.header("content-type"), content_type, "{refusal}");
    }
    let count = refusals.len();
    common::report(format_args!("recorded refusals through the HTTP face: {count}"));
    assert!(count >= 45);
}

/// A provider that answers with the refusal whose number the request names as its user.
fn refuse_all(refusals: Vec<Value>) -> SocketAddr {
    canned::provider(move |body| {
        let asked: Value = serde_json::from_slice(body).unwrap();
        let refusal = &refusals[asked["user"].as_u64().unwrap() as usize];
        let content_type = refusal["headers"]["content-type"].as_str().unwrap();
        let text = refusal["body"].as_str().unwrap();
        canned::answer(refusal["status"].as_u64().unwrap(), content_type, text.as_bytes())
    })
}
