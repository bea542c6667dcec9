//! The three ways of waking a consumer that sleeps: a write to its bell for the broker's own uid,
//! the kernel's completion signal for any other, and a byte on its socket where that is refused.
//! Each carries whole streams to consumers that sleep between tokens, and is the one expected.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{self, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::sync::Once;
use std::time::Duration;

use parking_lot::Mutex;
use ringmain_broker::{Allow, BrokerConfig};
use ringmain_client::{Client, Compat, Config, Item, Mode, Request, Session};
use ringmain_sim::contract::{End, History};
use ringmain_sim::hostile::Hostile;
use ringmain_sim::{Provider, ProviderConfig, Script};
use ringmain_upstream::EndpointConfig;

use common::in_process::InProcess;
use common::record::{Plan, assert_kept, print};
use common::{WATCHDOG, child_of, child_script, eventually, peer};

/// A uid that the brokers here let in besides their own.
const OTHER_UID: u32 = 4242;
/// Tokens of a stream, and the time between them: long enough to sleep in.
const TOKENS: u64 = 100;
const GAP_US: u64 = 2000;
/// Sleeps that each consumer takes at least.
const SLEEPS_MIN: u64 = 50;

/// What the brokers of this process logged.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct ToLog;

impl Write for ToLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start(compat: Compat) -> (Provider, InProcess) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::fmt().with_writer(|| ToLog).with_ansi(false).init());
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let mut config = BrokerConfig::default();
    config.allow = Allow::standard(None).uid(OTHER_UID);
    config.compat = compat;
    let endpoint = EndpointConfig::new("local", provider.base_url());
    let broker = InProcess::start(endpoint, config, 0o666);
    (provider, broker)
}

/// The doorbells of the sessions that this process attached.
fn bells_of(pid: u32) -> Vec<String> {
    let log = String::from_utf8(LOG.lock().clone()).unwrap();
    let pid = format!(" pid={pid} ");
    let attached = log.lines().filter(|l| l.contains("session attached") && l.contains(&pid));
    attached.map(|line| line.rsplit_once("bell=").unwrap().1.trim().to_owned()).collect()
}

/// Runs the consumers in a process of this uid, and judges what came of it.
fn deliver(compat: Compat, uid: Option<u32>, bell: &str) {
    if uid.is_some() && !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start processes of other uids");
        return;
    }
    let (provider, broker) = start(compat);
    let mut command = child_of("doorbell_process", "consume", &broker.socket());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let said = common::read_all(child.stdout.take().unwrap());
    assert!(child.wait().unwrap().success(), "{said}");
    let bells = bells_of(child.id());
    assert!(bells.len() >= 3 && bells.iter().all(|used| used == bell), "{bells:?}, not {bell}");
    let mut history = History::default();
    let records = said.lines().filter_map(|line| line.find('{').map(|at| &line[at..]));
    let records: String = records.map(|record| format!("{record}\n")).collect();
    history.add_callers(BufReader::new(records.as_bytes())).unwrap();
    assert_eq!(history.callers.len(), 2, "{said}");
    for caller in &history.callers {
        assert!(matches!(caller.end, Some(End::End { .. })), "{:?}", caller.end);
    }
    assert!(said.contains("consumed"), "{said}");
    assert_kept(history, &provider);
}

/// Not a test by itself: consumers of every kind, each asleep between tokens.
#[test]
fn doorbell_process() {
    let Some(script) = child_script() else { return };
    let socket = std::env::var_os("RINGMAIN_SOCKET").unwrap();
    if script == "count rings" {
        let mut raw = Hostile::attach(socket.as_ref()).unwrap();
        raw.set_armed(1);
        let body = peer::chat("[[sim n=5 gap_us=5000]]");
        peer::ask(&mut raw, 0, &peer::head_of("tiny"), body.as_bytes());
        // By the end of the stream its beginning was rung for.
        assert_eq!(peer::end_of(&raw, 0), None);
        let rings = raw.wait_closed(Duration::ZERO).rings;
        println!("rings={rings}");
        return;
    }
    let client = Client::at(&socket).unwrap();
    let script = Script { gap_us: GAP_US, ..Script::tokens(TOKENS) };
    for mode in [Mode::Deltas, Mode::Events] {
        let deadline = Some(WATCHDOG);
        print(&Plan { mode, deadline, ..Plan::new(script.clone()) }.run(&client));
    }
    // A ring that is lost ends at the deadline, and does not hang.
    let request = || {
        let request = Request::new("tiny", "/chat/completions").mode(Mode::Deltas);
        request.usage_requested().deadline(WATCHDOG)
    };
    let body = peer::chat(&script.to_string());

    // On a busy machine tokens come together: then the consumer was awake, and reads another one.
    let mut session = Session::attach(Config::at(&socket)).unwrap();
    eventually("the blocking consumer sleeps", || {
        let exchange = session.submit(&request(), body.as_bytes()).unwrap();
        let mut deltas = 0;
        while let Some(item) = session.next(exchange).unwrap() {
            deltas += u64::from(matches!(item, Item::Delta { .. }));
        }
        assert_eq!(deltas, TOKENS);
        session.sleeps() >= SLEEPS_MIN
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut wakes = 0;
    eventually("the async consumer sleeps", || {
        wakes = runtime.block_on(async {
            let mut stream = client.submit_async(&request(), body.as_bytes()).await.unwrap();
            let mut deltas = 0;
            while let Some(item) = stream.next().await.unwrap() {
                deltas += u64::from(matches!(item, Item::Delta { .. }));
            }
            assert_eq!(deltas, TOKENS);
            stream.wakes()
        });
        wakes >= SLEEPS_MIN
    });
    let sleeps = session.sleeps();
    println!("consumed, {sleeps} sleeps, {wakes} wakes");
}

#[test]
fn doorbell_of_the_own_uid_is_written() {
    deliver(Compat::default(), None, "Write");
}

#[test]
fn doorbell_of_another_uid_is_signalled() {
    deliver(Compat::default(), Some(OTHER_UID), "Aio");
}

#[test]
fn doorbell_without_aio_is_a_byte_on_the_socket() {
    deliver(Compat { aio: false, ..Compat::default() }, Some(OTHER_UID), "Control");
}

/// Which way a ring really comes: over the socket only where the bell cannot be signalled.
#[test]
fn doorbell_rings_come_over_the_socket_only_as_a_fallback() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start processes of other uids");
        return;
    }
    for (aio, rings) in [(true, "rings=0"), (false, "rings=1")] {
        let (_provider, broker) = start(Compat { aio, ..Compat::default() });
        let mut command = child_of("doorbell_process", "count rings", &broker.socket());
        let output = command.uid(OTHER_UID).gid(OTHER_UID).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // One: the peer armed itself once.
        assert!(said.contains(rings), "aio {aio}: {said}");
    }
}
