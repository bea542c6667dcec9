//! Bad input and faults, end to end: each ends in a clear typed error, nothing is lost, and nobody
//! else is disturbed.
//!
//! | module | who is at fault |
//! |---|---|
//! | `requests` | the caller: what it asks for, and that it does not read |
//! | `upstream` | the provider, or the way to it |
//! | `scripted` | the provider again: every fault of the simulated one's table |
//! | `operation` | the operator: configuration, keys, sockets, signals |
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "faults/operation.rs"]
mod operation;
#[path = "faults/requests.rs"]
mod requests;
#[path = "faults/scripted.rs"]
mod scripted;
#[path = "faults/upstream.rs"]
mod upstream;

use ringmain_client::{ChatBody, Client, Error, Item, Mode, Request, Result};
use ringmain_sim::{Provider, ProviderConfig};

use common::{Broker, Config as BrokerFile, WATCHDOG};

fn world() -> (Provider, Broker) {
    world_with(BrokerFile::default())
}

fn world_with(config: BrokerFile) -> (Provider, Broker) {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let broker = Broker::start(provider.addr(), config);
    (provider, broker)
}

fn client(broker: &Broker) -> Client {
    Client::at(broker.socket()).unwrap()
}

/// Everything that a caller got of an answer.
#[derive(Debug, Default)]
struct Got {
    status: u16,
    content: Vec<u8>,
    /// How it ended; `None` for END.
    error: Option<Error>,
}

/// Asks for a streamed chat by this script and reads it to its end.
fn ask(client: &Client, mode: Mode, script: &str) -> Got {
    let request = Request::new("tiny", "/chat/completions").mode(mode);
    ask_for(client, &request.deadline(WATCHDOG), script)
}

fn ask_for(client: &Client, request: &Request<'_>, script: &str) -> Got {
    let mut got = Got::default();
    let prompt = format!("[[sim {script}]]");
    got.error = read(client, request, &prompt, &mut got).err();
    got
}

fn read(client: &Client, request: &Request<'_>, prompt: &str, got: &mut Got) -> Result<()> {
    let body = ChatBody::new("tiny").message("user", prompt);
    let mut stream = client.submit(&request.clone().usage_requested(), &body)?;
    while let Some(item) = stream.next()? {
        match item {
            Item::Head(head) => got.status = head.status,
            Item::Delta { text, .. } => got.content.extend_from_slice(text.as_bytes()),
            Item::Event(bytes) | Item::Body(bytes) => got.content.extend_from_slice(bytes),
            _ => {}
        }
    }
    Ok(())
}
