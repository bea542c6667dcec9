//! The HTTP face, end to end: a real broker process between plain HTTP clients and the simulated
//! provider.
//!
//! | module | what it shows |
//! |---|---|
//! | `wire` | a client that writes and reads its bytes itself |
//! | `canned` | a provider that answers with bytes which a test has written |
//! | `calls` | every endpoint of the face; routes, headers, encodings |
//! | `breaks` | errors before and after the head, in the caller's own shape |
//! | `disconnect` | a caller that leaves, at every phase; one that does not read |
//! | `callers` | keys, peers, web pages |
//! | `large` | events and bodies as large as they may be |
//! | `hygiene` | bounds, keep-alive, HTTP/2, the drain |
//! | `unread` | callers that make no room for their answers |
//! | `smuggling` | requests that two readers could understand in two ways |
//! | `phases` | a caller that leaves before there is an answer, or amid one |
//! | `recordings` | every recorded stream and refusal, byte for byte |
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

#[path = "http/breaks.rs"]
mod breaks;
#[path = "http/callers.rs"]
mod callers;
#[path = "http/calls.rs"]
mod calls;
#[path = "http/canned.rs"]
mod canned;
#[path = "http/disconnect.rs"]
mod disconnect;
#[path = "http/hygiene.rs"]
mod hygiene;
#[path = "http/large.rs"]
mod large;
#[path = "http/phases.rs"]
mod phases;
#[path = "http/recordings.rs"]
mod recordings;
#[path = "http/smuggling.rs"]
mod smuggling;
#[path = "http/unread.rs"]
mod unread;
#[path = "http/wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;

use ringmain_sim::{Provider, ProviderConfig};
use serde_json::{Value, json};

use common::{Broker, Config};
use wire::{Connection, Reply};

/// A provider and a broker with an HTTP face on a free port and on a Unix socket.
struct World {
    provider: Provider,
    broker: Broker,
    addr: SocketAddr,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl World {
    fn start() -> World {
        World::with("")
    }

    /// With further lines of the `[http]` table and whatever follows it.
    fn with(lines: &str) -> World {
        World::of(lines, Config::default(), ProviderConfig::default())
    }

    fn of(lines: &str, config: Config, provider: ProviderConfig) -> World {
        let provider = Provider::start(provider).unwrap();
        World::beside(lines, config, provider)
    }

    /// With what the configuration says of this provider besides.
    fn following(
        mut config: Config,
        provider: ProviderConfig,
        tail: impl FnOnce(&Provider) -> String,
    ) -> World {
        let provider = Provider::start(provider).unwrap();
        config.tail = format!("{}\n{}", config.tail, tail(&provider));
        World::beside("", config, provider)
    }

    fn beside(lines: &str, mut config: Config, provider: Provider) -> World {
        let dir = tempfile::Builder::new().prefix("ringmain-http").tempdir().unwrap();
        let socket = dir.path().join("http.sock");
        let listen = format!("[\"127.0.0.1:0\", \"unix:{}\"]", socket.display());
        config.tail = format!("{}\n[http]\nlisten = {listen}\n{lines}\n", config.tail);
        let broker = Broker::start(provider.addr(), config);
        broker.await_log("serving HTTP address=unix:");
        let addr = port_of(&broker.log(), "127.0.0.1");
        World { provider, broker, addr, socket, _dir: dir }
    }

    fn connect(&self) -> Connection {
        Connection::tcp(self.addr)
    }

    /// A POST of JSON on a connection of its own.
    fn post(&self, path: &str, body: &Value) -> Reply {
        self.connect().post(path, &[], body.to_string().as_bytes())
    }

    fn chat(&self, script: &str) -> Reply {
        self.post("/v1/chat/completions", &chat(script))
    }

    fn get(&self, path: &str) -> Reply {
        self.connect().ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
    }

    /// Waits until no exchange is in flight, and nothing is held.
    fn await_rest(&self) {
        common::eventually("the broker is at rest", || self.broker.status()["streams"] == 0);
    }
}

fn port_of(log: &str, host: &str) -> SocketAddr {
    let marker = format!("serving HTTP address={host}:");
    let at = log.find(&marker).expect("the address is told") + marker.len();
    let digits: String = log[at..].chars().take_while(char::is_ascii_digit).collect();
    SocketAddr::from(([127, 0, 0, 1], digits.parse().unwrap()))
}

/// A streamed chat.
fn chat(script: &str) -> Value {
    let content = format!("[[sim {script}]]");
    json!({"model": "tiny", "stream": true, "messages": [{"role": "user", "content": content}]})
}

/// The same, not streamed.
fn plain(script: &str) -> Value {
    let mut body = chat(script);
    body["stream"] = false.into();
    body
}
