//! A process that forks while its streams run: the child leaves them alone, gets told so, and
//! attaches anew; the parent loses nothing.
//!
//! Only a process with a single thread can be forked safely, so this test has no harness, and
//! provider and broker are processes of their own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ringmain_client::{Client, Code, Config, Exchange, Mode, Request, Session, Stream};
use ringmain_shm::testing::fork_child;
use ringmain_sim::Script;
use ringmain_sim::text::expected_text;

use common::{Broker, ringmain};

/// Tokens of each stream, and the seed of its text.
const TOKENS: u64 = 50;
const SEED: u64 = 9;

/// `ringmain sim`, gone at the end of the test.
struct Sim(Child, SocketAddr);

fn main() {
    let sim = Sim::start();
    let broker = Broker::start(sim.1, common::Config::default());
    let client = Client::at(broker.socket()).unwrap();
    let mut session = Session::attach(Config::at(broker.socket())).unwrap();

    let mut stream = begin(&client);
    let exchange = session.submit(&request(), body().as_str()).unwrap();
    let mut text = stream.next_text().unwrap().unwrap().to_owned();
    let mut other = session.next_text(exchange).unwrap().unwrap().to_owned();

    let sound = fork_child(|| {
        be_child(&client, &mut stream, &mut session, exchange, &broker.socket());
    });
    assert!(sound.unwrap(), "the child says above what it found");

    // Not one token is missing, and both sessions go on.
    while let Some(piece) = stream.next_text().unwrap() {
        text.push_str(piece);
    }
    while let Some(piece) = session.next_text(exchange).unwrap() {
        other.push_str(piece);
    }
    assert_eq!([&text, &other], [&expected(), &expected()]);
    session.ping().unwrap();
    drop(stream);
    assert_eq!(whole(begin(&client)), expected());

    common::eventually("the child's sessions are gone, the parent's are not", || {
        broker.status()["sessions"] == 2
    });
    // Of the parent two, of the child three, of the child's child one.
    assert_eq!(broker.status()["sessions_total"], 6);
    assert!(!broker.log().contains("session closed"), "{}", broker.log());
    println!("a forked child attached anew and its parent lost nothing");
}

fn be_child(
    client: &Client,
    stream: &mut Stream,
    session: &mut Session,
    exchange: Exchange,
    socket: &Path,
) {
    let told = stream.next().unwrap_err();
    assert_eq!(told.code(), Code::SessionClosed, "{told}");
    assert_eq!(session.next(exchange).unwrap_err().code(), Code::SessionClosed);
    session.cancel(exchange);
    stream.cancel();
    // New calls on what was inherited, and on what is new.
    assert_eq!(whole(begin(client)), expected());
    session.ping().unwrap();
    assert_eq!(whole(begin(&Client::at(socket).unwrap())), expected());
    // A child of the child is one too.
    assert!(fork_child(|| assert_eq!(whole(begin(client)), expected())).unwrap());
    assert_eq!(whole(begin(client)), expected());
}

fn begin(client: &Client) -> Stream {
    client.submit(&request(), body().as_str()).unwrap()
}

fn request() -> Request<'static> {
    Request::new("tiny", "/chat/completions").mode(Mode::Deltas)
}

fn body() -> String {
    let script = Script { gap_us: 5000, seed: Some(SEED), ..Script::tokens(TOKENS) };
    common::peer::chat(&script.to_string())
}

fn whole(mut stream: Stream) -> String {
    let mut text = String::new();
    while let Some(piece) = stream.next_text().unwrap() {
        text.push_str(piece);
    }
    text
}

fn expected() -> String {
    expected_text(SEED, TOKENS as usize, 0)
}

impl Sim {
    fn start() -> Sim {
        let mut child = Command::new(ringmain())
            .args(["sim", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("http://").trim_end_matches("/v1");
        Sim(child, address.parse().unwrap())
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
