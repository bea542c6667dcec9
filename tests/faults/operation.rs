//! What operators do wrong, and what a running broker does when it is told to change.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmain_client::{ChatBody, Client, Code, Config, Mode, Request, Session};
use ringmain_sim::contract::End;
use ringmain_sim::hostile::Hostile;
use ringmain_sim::text::{hash_whole, mix};
use ringmain_sim::{Provider, ProviderConfig, Script};

use crate::common::record::{Plan, assert_kept, history};
use crate::common::{Broker, Config as BrokerFile, eventually, peer, ringmain};
use crate::{ask, ask_for, client, world, world_with};

/// Runs `ringmain` with a configuration, without anything of this process's environment in it.
fn run(command: &str, config: &Path) -> Output {
    let mut ringmain = Command::new(ringmain());
    ringmain.args([command, "--config"]).arg(config);
    ringmain.env_remove("RINGMAIN_SOCKET").stdin(Stdio::null()).output().unwrap()
}

/// Fails unless this `serve` ended at once with one sentence; returns it.
fn refused(config: &Path) -> String {
    let output = run("serve", config);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

fn key_file(broker: &Path, name: &str, key: &str, mode: u32) -> String {
    let path = broker.join(name);
    fs::write(&path, key).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What the provider's log keeps of this key.
fn authorization_hash(key: &str) -> u64 {
    mix(hash_whole(format!("Bearer {key}").as_bytes()))
}

#[test]
fn second_broker_on_the_same_socket_is_refused() {
    let (_provider, broker) = world();
    let said = refused(&broker.config_path());
    assert!(said.contains(broker.socket().to_str().unwrap()), "{said}");
    // The first one was not touched.
    assert!(ask(&client(&broker), Mode::Deltas, "n=3").error.is_none());
}

#[test]
fn stale_socket_is_taken_over() {
    let (_provider, mut broker) = world();
    broker.kill();
    assert!(broker.socket().exists(), "a killed broker leaves its socket");
    let mut config = Config::at(broker.socket());
    config.attach_wait = Duration::from_millis(20);
    let absent = Session::attach(config).unwrap_err();
    assert_eq!(absent.code(), Code::BrokerAbsent, "{absent}");
    assert!(absent.message().contains(broker.socket().to_str().unwrap()), "{absent}");
    broker.restart();
    assert!(ask(&client(&broker), Mode::Deltas, "n=3").error.is_none());
}

#[test]
fn file_in_the_place_of_the_socket_is_left_alone() {
    let (_provider, mut broker) = world();
    broker.kill();
    fs::remove_file(broker.socket()).unwrap();
    fs::write(broker.socket(), "precious").unwrap();
    let said = refused(&broker.config_path());
    assert!(said.contains(broker.socket().to_str().unwrap()), "{said}");
    assert_eq!(fs::read_to_string(broker.socket()).unwrap(), "precious");
}

#[test]
fn faulty_configuration_is_told_by_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ringmain.toml");
    for (text, line, words) in [
        (
            "[[endpoint]]\nname = \"a\"\nbase_ulr = \"http://127.0.0.1/v1\"\n",
            "line 3",
            &["base_ulr", "base_url"][..],
        ),
        (
            "[[endpoint]]\nname = \"a\"\nbase_url = \"http://127.0.0.1/v1\"\n[[route]]\n\
             model = \"m\"\nendpoints = [{ name = \"b\" }]\n",
            "line 6",
            &["\"b\""],
        ),
        (
            "[[endpoint]]\nname = \"a\"\nbase_url = \"ftp://127.0.0.1/v1\"\n",
            "line 3",
            &["ftp", "http"],
        ),
    ] {
        fs::write(&path, text).unwrap();
        for command in ["check", "serve"] {
            let output = run(command, &path);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{command}: {said}");
            let told = said
                .lines()
                .any(|said| said.contains(line) && words.iter().all(|word| said.contains(word)));
            assert!(told, "{command}: {said}");
        }
    }
}

#[test]
fn key_file_that_others_can_read_is_refused_at_start() {
    let (_provider, mut broker) = world();
    broker.kill();
    for mode in [0o640, 0o604, 0o644] {
        let key = key_file(broker.dir(), "key", "sk-canary-7f3a", mode);
        let endpoint = format!("key_file = {key:?}");
        broker.reconfigure(BrokerFile { endpoint, ..BrokerFile::default() });
        let said = refused(&broker.config_path());
        assert!(said.contains(&key) && said.contains("chmod 600"), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
}

/// The key goes to the provider and nowhere else: at the loudest level of the log, in every error
/// that an exchange can end in, and in all that a client can map.
#[test]
fn key_never_leaves_but_for_the_provider() {
    key_never_leaves("off");
}

/// HTTP/2 has header tables, and a log of frames.
#[test]
fn key_never_leaves_but_for_the_provider_over_http2() {
    key_never_leaves("prior-knowledge");
}

fn key_never_leaves(http2: &str) {
    const KEY: &str = "sk-canary-51cf08e2";
    let dir = tempfile::tempdir().unwrap();
    let key = key_file(dir.path(), "key", &format!("{KEY}\n"), 0o600);
    let (provider, mut broker) = world_with(BrokerFile {
        broker: "log = \"trace\"".into(),
        endpoint: format!("key_file = {key:?}\nhttp2 = {http2:?}"),
        ..BrokerFile::default()
    });
    let client = client(&broker);
    let mut told = String::new();
    for script in [
        "n=3",
        "status=401",
        "status=500",
        "n=8 at=3 fault=close_early",
        "n=8 at=3 fault=error_event",
        "n=8 fault=not_sse",
        "n=8 at=3 fault=reset",
    ] {
        for mode in [Mode::Deltas, Mode::Events, Mode::Body] {
            let got = ask(&client, mode, script);
            told += &format!("{got:?} {}", String::from_utf8_lossy(&got.content));
            told += &got.error.map(|error| error.to_string()).unwrap_or_default();
        }
    }
    let unknown = ask_for(&client, &Request::new("none", "/chat/completions"), "n=1");
    told += &format!("{unknown:?}");
    broker.signal(Signal::SIGHUP);
    broker.await_log("configuration read again");
    assert!(ask(&client, Mode::Deltas, "n=3").error.is_none());
    for record in provider.log() {
        assert_eq!(record.authorization_hash, authorization_hash(KEY), "{record:?}");
    }
    // What a client maps, after exchanges of its own.
    let mut raw = Hostile::attach(&broker.socket()).unwrap();
    peer::ask(&mut raw, 0, &peer::head_of("tiny"), peer::chat("[[sim n=3]]").as_bytes());
    assert_eq!(peer::end_of(&raw, 0), None);
    let mut mapped = vec![0; raw.responder().len()];
    raw.responder().copy_out(0, &mut mapped);
    let proc = |name: &str| {
        let bytes = fs::read(format!("/proc/{}/{name}", broker.pid())).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    for (what, text) in [
        ("what callers were told", told),
        ("the command line", proc("cmdline")),
        ("the environment", proc("environ")),
        ("the counters", broker.status().to_string()),
        ("the mapped memory", String::from_utf8_lossy(&mapped).into_owned()),
    ] {
        assert!(!text.is_empty() && !text.contains("canary"), "{what}: {text}");
    }
    broker.signal(Signal::SIGTERM);
    drop((raw, client));
    assert!(broker.wait().success());
    let log = broker.log();
    assert!(log.contains("TRACE"), "the log is as loud as it can be");
    let line = log.lines().find(|line| line.contains("canary"));
    assert_eq!(line, None);
}

#[test]
fn reload_swaps_routes_without_touching_a_stream() {
    let other = Provider::start(ProviderConfig::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let key = key_file(dir.path(), "key", "first", 0o600);
    let endpoint = format!("key_file = {key:?}");
    let config = BrokerFile { endpoint, ..BrokerFile::default() };
    let (provider, mut broker) = world_with(config.clone());
    let client = client(&broker);
    let mut running = Plan::new(Script { gap_us: 1000, ..Script::tokens(600) }).submit(&client);
    running.read(1);
    let reading = std::thread::spawn(move || running.run());

    // A second endpoint and route, and another key for the first.
    let tail = format!(
        "[[endpoint]]\nname = \"other\"\nbase_url = \"{}\"\n\
         [[route]]\nmodel = \"new\"\nendpoints = [{{ name = \"other\" }}]\n",
        other.base_url()
    );
    let new = Request::new("new", "/chat/completions");
    let before = ask_for(&client, &new, "n=1").error.unwrap();
    assert_eq!(before.code(), Code::UnknownRoute);
    fs::write(&key, "second").unwrap();
    broker.reconfigure(BrokerFile { tail, ..config.clone() });
    broker.signal(Signal::SIGHUP);
    broker.await_log("configuration read again");
    assert!(ask_for(&client, &new, "n=1").error.is_none());
    assert_eq!(other.log().len(), 1);
    assert!(ask(&client, Mode::Deltas, "n=1").error.is_none());
    let hashes: Vec<_> = provider.log().iter().map(|record| record.authorization_hash).collect();
    assert_eq!(hashes, ["first", "second"].map(authorization_hash));

    // A faulty file, and a key that is gone: what was in use stays in use.
    let faulty = BrokerFile { tail: "[[rout]]\nmodel = \"x\"\n".into(), ..config.clone() };
    broker.reconfigure(faulty);
    broker.signal(Signal::SIGHUP);
    broker.await_log("the new configuration is refused");
    assert!(broker.log().contains("rout"), "{}", broker.log());
    broker.reconfigure(config);
    fs::remove_file(&key).unwrap();
    broker.signal(Signal::SIGHUP);
    eventually("that is refused too", || {
        broker.log().matches("the new configuration is refused").count() == 2
    });
    assert!(ask_for(&client, &new, "n=1").error.is_none());
    assert!(ask(&client, Mode::Deltas, "n=1").error.is_none());

    let record = reading.join().unwrap();
    assert!(matches!(record.end, Some(End::End { .. })), "{:?}", record.end);
    assert_kept(history([record]), &provider);
}

#[test]
fn successor_takes_the_socket_while_the_old_one_finishes() {
    let (provider, mut old) = world();
    let config = |broker: &Broker| Config::at(broker.socket());
    let old_client = client(&old);
    let mut running = Plan::new(Script { gap_us: 1000, ..Script::tokens(700) }).submit(&old_client);
    running.read(1);
    old.signal(Signal::SIGTERM);
    let socket = old.socket();
    eventually("the listener is released", || !socket.exists());
    let mut new = Command::new(ringmain())
        .args(["serve", "--config"])
        .arg(old.config_path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // A new client waits for the successor by itself.
    let mut session = Session::attach(config(&old)).unwrap();
    session.ping().unwrap();
    assert!(old.is_alive(), "the old one has a stream to finish");
    let record = running.run();
    assert!(matches!(record.end, Some(End::End { .. })), "{:?}", record.end);
    assert!(old.wait().success());
    // The end of the old one took nothing from the new one.
    assert!(socket.exists());
    session.ping().unwrap();
    assert_eq!(old.status()["pid"], new.id());
    // And the old client reaches it with its next call.
    let body = ChatBody::new("tiny").message("user", "[[sim n=2]]");
    let request = Request::new("tiny", "/chat/completions").mode(Mode::Deltas);
    let reply = old_client.submit(&request, &body).unwrap().collect_reply().unwrap();
    assert!(!reply.text().is_empty());
    kill(Pid::from_raw(new.id() as i32), Signal::SIGTERM).unwrap();
    drop((session, old_client));
    assert!(new.wait().unwrap().success());
    assert!(!socket.exists(), "and leaves no socket behind");
    assert_kept(history([record]), &provider);
    let late = Client::builder().socket(&socket).attach_wait(Duration::from_millis(20)).build();
    let late = ask(&late.unwrap(), Mode::Deltas, "n=1").error.unwrap();
    assert_eq!(late.code(), Code::BrokerAbsent, "{late}");
}
