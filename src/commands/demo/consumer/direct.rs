//! Streams straight from the provider: an HTTP client, lines of SSE, typed JSON.

use std::rc::Rc;

use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Runtime;

use super::{Job, Tally, Watch};

/// The base URL of the provider.
#[derive(Clone)]
pub struct Source(String);

/// A thread's own client. A runtime per thread spares the hop to a background thread that
/// reqwest's blocking client makes for each piece.
pub struct Blocking {
    runtime: Runtime,
    http: Http,
}

/// A client with its connections.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    url: Rc<str>,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Delta<'a>,
}

#[derive(Default, Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<std::borrow::Cow<'a, str>>,
}

impl Source {
    pub fn new(base_url: &str) -> Source {
        Source(base_url.to_owned())
    }
}

impl super::Source for Source {
    type Blocking = Blocking;
    type Shared = Http;

    fn blocking(&self) -> Result<Blocking, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Blocking { runtime: runtime.map_err(told)?, http: self.shared()? })
    }

    fn shared(&self) -> Result<Http, String> {
        let client = reqwest::Client::builder().no_proxy().build().map_err(told)?;
        Ok(Http { client, url: format!("{}/chat/completions", self.0).into() })
    }

    fn receive(from: &Blocking, job: &Job) -> Tally {
        from.runtime.block_on(receive(from.http.clone(), job.clone()))
    }

    fn receive_async(from: Http, job: Job) -> impl Future<Output = Tally> {
        receive(from, job)
    }
}

async fn receive(http: Http, job: Job) -> Tally {
    let mut watch = Watch::begin(&job);
    let outcome = stream(&http, &job, &mut watch).await;
    watch.finish(outcome)
}

async fn stream(http: &Http, job: &Job, watch: &mut Watch) -> Result<(), String> {
    let body = json!({
        "model": "tiny",
        "stream": true,
        "messages": [{ "role": "user", "content": job.prompt }],
    });
    let request = http.client.post(&*http.url).header("content-type", "application/json");
    let mut response = request.body(body.to_string()).send().await.map_err(told)?;
    // Bound: the provider is our own, and its events are small.
    let mut buffer = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(told)? {
        buffer.extend_from_slice(&piece);
        let mut used = 0;
        while let Some(end) = find_event(&buffer[used..]) {
            if !event(&buffer[used..used + end], watch)? {
                // The end of the body, so that the connection can be used again.
                while response.chunk().await.map_err(told)?.is_some() {}
                return Ok(());
            }
            used += end + 2;
        }
        buffer.drain(..used);
    }
    Err("the provider ended without [DONE]".to_owned())
}

fn find_event(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == b"\n\n")
}

/// Takes in one event; false at the terminal marker.
fn event(bytes: &[u8], watch: &mut Watch) -> Result<bool, String> {
    let Some(data) = bytes.strip_prefix(b"data: ") else { return Ok(true) };
    if data == b"[DONE]" {
        return Ok(false);
    }
    let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(told)?;
    let content = chunk.choices.first().and_then(|choice| choice.delta.content.as_deref());
    if let Some(content) = content.filter(|content| !content.is_empty()) {
        watch.token(content);
    }
    Ok(true)
}

fn told(error: impl std::fmt::Display) -> String {
    format!("over HTTP: {error}")
}
