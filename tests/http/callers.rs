//! Who may call: keys, peers, web pages.

use std::process::Command;

use crate::common::{self, Config, eventually, ringmain};
use crate::wire::{Connection, Reply};
use crate::{World, plain};

/// A key and its line for the configuration, as the command prints them.
fn new_key() -> (String, String) {
    let output = Command::new(ringmain()).args(["key", "new", "--name", "batch"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let (key, lines) = text.split_once("\n\n").unwrap();
    (key.to_owned(), lines.to_owned())
}

fn ask(world: &World, headers: &[(&str, &str)]) -> Reply {
    let body = plain("n=1").to_string();
    world.connect().post("/v1/chat/completions", headers, body.as_bytes())
}

#[test]
fn http_without_clients_every_key_is_ignored_and_that_is_said() {
    let world = World::start();
    assert_eq!(ask(&world, &[("authorization", "Bearer anything")]).status, 200);
    assert_eq!(ask(&world, &[]).status, 200);
    world.broker.await_log("every process of this host may call over TCP");
    let mut check = Command::new(ringmain());
    check.args(["check", "--config"]).arg(world.broker.config_path());
    let output = check.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("whatever key it sends"), "{text}");
}

#[test]
fn http_the_first_client_closes_the_port() {
    let (key, client) = new_key();
    let world = World::with(&client);
    let bearer = format!("Bearer {key}");
    assert_eq!(ask(&world, &[("authorization", &bearer)]).status, 200);
    assert_eq!(ask(&world, &[("x-api-key", &key)]).status, 200);
    let other = format!("{bearer}0");
    for headers in [&[][..], &[("authorization", other.as_str())], &[("x-api-key", "rmk-x")]] {
        let reply = ask(&world, headers);
        assert_eq!((reply.status, reply.code().as_str()), (401, "NotAllowed"), "{headers:?}");
        assert!(!reply.text().contains(&key[4..20]));
    }
    assert_eq!(world.get("/v1/models").status, 401);
    assert_eq!(world.get("/metrics").status, 401);
    assert_eq!(world.get("/healthz").status, 200);
    // The kernel names the callers of the Unix socket; they need no key.
    let body = plain("n=1").to_string();
    let mut unix = Connection::unix(&world.socket);
    assert_eq!(unix.post("/v1/chat/completions", &[], body.as_bytes()).status, 200);
    let seen = world.provider.log();
    assert!(seen.iter().all(|record| !record.authorization), "a caller's key stays here");
    assert!(!world.broker.log().contains(&key[4..20]));
}

#[test]
fn http_a_reload_takes_clients_over() {
    let mut world = World::start();
    assert_eq!(ask(&world, &[]).status, 200);
    let (key, client) = new_key();
    let text = std::fs::read_to_string(world.broker.config_path()).unwrap();
    std::fs::write(world.broker.config_path(), format!("{text}\n{client}")).unwrap();
    world.broker.signal(nix::sys::signal::Signal::SIGHUP);
    world.broker.await_log("configuration read again");
    assert_eq!(ask(&world, &[]).status, 401);
    let bearer = format!("Bearer {key}");
    assert_eq!(ask(&world, &[("authorization", &bearer)]).status, 200);
    assert!(world.broker.is_alive());
}

/// The sockets stay where they are, so a reload is judged by them and not by what the file says.
#[test]
fn http_a_reload_does_not_open_a_port_that_other_hosts_reach() {
    let provider = ringmain_sim::Provider::start(ringmain_sim::ProviderConfig::default()).unwrap();
    let (key, client) = new_key();
    let with = |tail: String| Config { tail, ..Config::default() };
    let remote = "[http]\nlisten = [\"0.0.0.0:0\"]\nallow_remote = true\n";
    let mut broker = common::Broker::start(provider.addr(), with(format!("{remote}{client}")));
    broker.await_log("serving HTTP address=0.0.0.0:");
    let addr = crate::port_of(&broker.log(), "0.0.0.0");
    let status = |headers: &[(&str, &str)]| {
        let body = plain("n=1").to_string();
        Connection::tcp(addr).post("/v1/chat/completions", headers, body.as_bytes()).status
    };
    let bearer = format!("Bearer {key}");
    let local = "[http]\nlisten = [\"127.0.0.1:0\"]\n".to_owned();
    for (n, tail) in [local.clone(), String::new()].into_iter().enumerate() {
        broker.reconfigure(with(tail));
        broker.signal(nix::sys::signal::Signal::SIGHUP);
        eventually("the reload is refused", || {
            broker.log().matches("the old one stays in use").count() == n + 1
        });
        assert!(broker.log().contains("open to everybody"), "{}", broker.log());
        assert_eq!(status(&[]), 401);
        assert_eq!(status(&[("authorization", &bearer)]), 200);
    }
    broker.reconfigure(with(format!("{local}{client}")));
    broker.signal(nix::sys::signal::Signal::SIGHUP);
    broker.await_log("configuration read again");
    assert_eq!(status(&[]), 401);
    assert!(broker.is_alive());
}

#[test]
fn http_web_pages_are_refused() {
    let world = World::start();
    for headers in [
        [("origin", "http://evil.example"), ("accept", "*/*")],
        [("origin", "null"), ("accept", "*/*")],
        [("origin", "http://localhost:3000"), ("accept", "*/*")],
        [("sec-fetch-site", "cross-site"), ("accept", "*/*")],
        [("host", "evil.example"), ("accept", "*/*")],
    ] {
        let reply = ask(&world, &headers);
        assert_eq!((reply.status, reply.code().as_str()), (403, "NotAllowed"), "{headers:?}");
    }
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
        origin: http://evil.example\r\naccess-control-request-method: POST\r\n\r\n";
    let reply = world.connect().ask(preflight);
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (403, None));
    assert!(world.provider.log().is_empty());
    let named = World::with("hosts = [\"gpu.lan\"]\n");
    assert_eq!(ask(&named, &[("host", "gpu.lan:8117")]).status, 200);
}

#[test]
fn http_quotas_are_those_of_sessions() {
    let config = Config { tail: "[quota]\nexchanges = 1\n".to_owned(), ..Config::default() };
    let world = World::of("", config, ringmain_sim::ProviderConfig::default());
    let mut first = world.connect();
    let body = crate::chat("n=100000 gap_us=10000").to_string();
    first.send_post("/v1/chat/completions", &[], body.as_bytes());
    assert_eq!(first.head().status, 200);
    let refused = ask(&world, &[]);
    assert_eq!((refused.status, refused.code().as_str()), (429, "QuotaExceeded"));
    drop(first);
    world.await_rest();
    assert_eq!(ask(&world, &[]).status, 200);
}
