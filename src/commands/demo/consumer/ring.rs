//! Streams from the broker, through shared memory.

use ringmain_client::{Client, Item};

use super::{Job, Tally, Watch};

/// The control socket of the broker.
#[derive(Clone)]
pub struct Source(String);

impl Source {
    pub fn new(socket: &str) -> Source {
        Source(socket.to_owned())
    }
}

impl super::Source for Source {
    type Blocking = Client;
    type Shared = Client;

    fn blocking(&self) -> Result<Client, String> {
        self.shared()
    }

    fn shared(&self) -> Result<Client, String> {
        Client::at(&self.0).map_err(told)
    }

    fn receive(from: &Client, job: &Job) -> Tally {
        let mut watch = Watch::begin(job);
        let outcome = stream(from, job, &mut watch);
        watch.finish(outcome)
    }

    async fn receive_async(from: Client, job: Job) -> Tally {
        let mut watch = Watch::begin(&job);
        let outcome = stream_async(&from, &job, &mut watch).await;
        watch.finish(outcome)
    }
}

fn stream(client: &Client, job: &Job, watch: &mut Watch) -> Result<(), String> {
    let mut stream = client.chat("tiny").user(job.prompt.as_str()).stream().map_err(told)?;
    while let Some(item) = stream.next().map_err(told)? {
        match item {
            Item::Delta { text, .. } => watch.token(text),
            Item::End(_) => return Ok(()),
            _ => {}
        }
    }
    Err("through the broker: a stream ended without its end".to_owned())
}

async fn stream_async(client: &Client, job: &Job, watch: &mut Watch) -> Result<(), String> {
    let chat = client.chat("tiny").user(job.prompt.as_str());
    let mut stream = chat.stream_async().await.map_err(told)?;
    while let Some(item) = stream.next().await.map_err(told)? {
        match item {
            Item::Delta { text, .. } => watch.token(text),
            Item::End(_) => return Ok(()),
            _ => {}
        }
    }
    Err("through the broker: a stream ended without its end".to_owned())
}

fn told(error: impl std::fmt::Display) -> String {
    format!("through the broker: {error}")
}
