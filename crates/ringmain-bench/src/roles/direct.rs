//! The consumer without a broker: reqwest, events split at their blank line, JSON into types.
//!
//! It is written to be fast where its author has a choice: one thread, connections kept alive,
//! events found by memchr and parsed where they stand. The types are those of the API's
//! documentation, as a typed client library has them.

use std::hint::black_box;

use memchr::memmem;
use ringmain_client::ChatBody;
use ringmain_shm::monotonic_ns;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::consume::{gather, plain_body, runtime};
use super::load::{Load, Tally, run};
use crate::error::{BenchError, Result, Tried};
use crate::harness::servers::MODEL;

/// Where the provider, or a proxy before it, is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Direct {
    pub base_url: String,
    pub load: Load,
}

/// One event of a chat stream.
#[derive(Debug, Deserialize)]
struct Chunk {
    id: String,
    object: String,
    created: u64,
    model: String,
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    index: u16,
    delta: Delta,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    content: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

/// Consumes a load and tells what it cost.
pub(crate) fn direct(told: &Direct) -> Result<()> {
    let runtime = runtime()?;
    // Proxies of the environment are no part of what is compared.
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}/chat/completions", told.base_url);
    run(&told.load, |load, tally| {
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..load.streams {
                tasks.spawn(stream_task(client.clone(), url.clone(), load.clone()));
            }
            gather(tasks, tally).await
        })
    })
}

async fn stream_task(client: reqwest::Client, url: String, load: Load) -> Result<Tally> {
    let mut tally = Tally::new(&load);
    for _ in 0..load.rounds {
        let start_ns = monotonic_ns();
        let request = client.post(&url).header("content-type", "application/json");
        let answer = request.body(body(&load)?).send().await?.error_for_status()?;
        if load.plain {
            let bytes = answer.bytes().await?;
            tally.plain(&bytes);
        } else {
            events(answer, start_ns, &mut tally).await?;
        }
        tally.end(load.plain);
    }
    Ok(tally)
}

fn body(load: &Load) -> Result<Vec<u8>> {
    if load.plain {
        return Ok(plain_body(load));
    }
    let mut body = Vec::new();
    let chat = ChatBody::new(MODEL).message("user", load.prompt.as_str());
    chat.write_json(&mut body).tried("the body")?;
    Ok(body)
}

async fn events(mut answer: reqwest::Response, start_ns: u64, tally: &mut Tally) -> Result<()> {
    let end = memmem::Finder::new(b"\n\n");
    let mut buffer: Vec<u8> = Vec::with_capacity(64 * 1024);
    let mut is_first = true;
    let mut is_done = false;
    // Bound: the body of the answer.
    while let Some(chunk) = answer.chunk().await? {
        buffer.extend_from_slice(&chunk);
        let mut at = 0;
        while let Some(length) = end.find(&buffer[at..]) {
            let event = &buffer[at..at + length];
            at += length + 2;
            let Some(data) = event.strip_prefix(b"data: ") else { continue };
            if data == b"[DONE]" {
                is_done = true;
                continue;
            }
            let seen = tally_event(data, tally)?;
            if seen && is_first {
                tally.first(start_ns);
                is_first = false;
            }
        }
        buffer.drain(..at);
    }
    match is_done {
        true => Ok(()),
        false => Err(BenchError::NotIntact("a stream ended without [DONE]".to_owned())),
    }
}

/// Whether the event brought text.
fn tally_event(data: &[u8], tally: &mut Tally) -> Result<bool> {
    let chunk: Chunk =
        serde_json::from_slice(data).map_err(std::io::Error::from).tried("an event")?;
    let mut seen = false;
    for choice in &chunk.choices {
        if let Some(text) = choice.delta.content.as_deref().filter(|_| choice.index == 0) {
            tally.token(text);
            seen |= !text.is_empty();
        }
        black_box((&choice.delta.role, &choice.finish_reason));
    }
    black_box((&chunk.id, &chunk.object, chunk.created, &chunk.model));
    if let Some(usage) = chunk.usage {
        black_box((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens));
    }
    Ok(seen)
}
