//! A caller that leaves, at every phase of its request, and one that stays and does not read.

use std::time::Duration;

use ringmain_shm::monotonic_ns;
use ringmain_sim::provider::How;

use crate::common::{Config, WATCHDOG, eventually};
use crate::{World, chat};

/// The promise is 100 ms; the machine that runs this may be busy with something else.
const PROMISED: Duration = Duration::from_millis(100);
const SLACK: Duration = Duration::from_millis(900);

/// Sends the request, waits until the provider has it, hangs up, and waits until the provider is
/// left alone.
fn leave(world: &World, script: &str, bytes: usize) {
    leave_with(world, script, bytes, ["", ""]);
}

/// The same, with something behind the request: in one piece with it, and later.
fn leave_with(world: &World, script: &str, bytes: usize, [behind, later]: [&str; 2]) {
    let mut connection = world.connect();
    let body = chat(script).to_string();
    let (head, bytes_told) = ("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost", body.len());
    connection.send(
        format!(
            "{head}\r\ncontent-type: application/json\r\ncontent-length: {bytes_told}\r\n\r\n\
             {body}{behind}"
        )
        .as_bytes(),
    );
    eventually("the provider has the request", || !world.provider.log().is_empty());
    connection.send(later.as_bytes());
    if bytes > 0 {
        connection.head();
        connection.read_at_least(bytes);
    }
    let left_ns = monotonic_ns();
    drop(connection);
    let log = world.provider.log_handle();
    let gone = log.wait_for(WATCHDOG, |records| records[0].ended.is_some());
    let ended = gone.expect("the provider is left alone")[0].ended.unwrap();
    assert_eq!(ended.how, How::ClientGone, "{script}");
    let took = Duration::from_nanos(ended.at_ns.saturating_sub(left_ns));
    assert!(took < PROMISED + SLACK, "{script}: {took:?}");
    world.await_rest();
    log.reset();
}

#[test]
fn http_disconnect_while_the_head_is_awaited() {
    leave(&World::start(), "n=3 head_us=20000000", 0);
}

#[test]
fn http_disconnect_while_the_first_content_is_awaited() {
    leave(&World::start(), "n=3 ttft_us=20000000", 0);
}

/// Some callers send an empty line behind a body, or their next request early.
#[test]
fn http_disconnect_behind_further_bytes() {
    let world = World::start();
    let next = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for further in [["", "\r\n"], ["\r\n", ""], [next, ""], ["", next], [next, next]] {
        leave_with(&world, "n=3 head_us=20000000", 0, further);
        leave_with(&world, "n=100000 gap_us=20000000 at=1", 100, further);
    }
}

#[test]
fn http_disconnect_in_the_midst_of_a_stream() {
    let world = World::start();
    leave(&world, "n=100000 gap_us=5000", 400);
    leave(&world, "n=100000 gap_us=20000000 at=1", 100);
    // One that is sent as fast as it goes.
    leave(&world, "n=100000000", 4000);
}

#[test]
fn http_disconnect_while_the_request_is_sent_asks_nobody() {
    let world = World::start();
    let mut connection = world.connect();
    connection.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
    );
    eventually("the exchange has begun", || world.broker.status()["streams"] == 1);
    drop(connection);
    world.await_rest();
    assert!(world.provider.log().is_empty());
}

#[test]
fn http_disconnect_while_a_limit_is_waited_for_asks_nobody() {
    let config = Config {
        tail: "[[limit]]\nroute = \"tiny\"\nin_flight = 1\n".to_owned(),
        ..Config::default()
    };
    let world = World::of("", config, ringmain_sim::ProviderConfig::default());
    let mut first = world.connect();
    first.send_post(
        "/v1/chat/completions",
        &[],
        chat("n=100000 gap_us=10000").to_string().as_bytes(),
    );
    eventually("the first is sent", || world.provider.log().len() == 1);
    let mut second = world.connect();
    second.send_post("/v1/chat/completions", &[], chat("n=1").to_string().as_bytes());
    eventually("the second waits", || world.broker.status()["streams"] == 2);
    drop(second);
    eventually("the second is gone", || world.broker.status()["streams"] == 1);
    assert_eq!(world.provider.log().len(), 1);
}

/// A reader that stops holds back its own provider, is given up after its time, and disturbs
/// nobody.
#[test]
fn http_a_slow_reader_holds_back_its_own_provider_alone() {
    let config =
        Config { tail: "[limits]\nslow_consumer = \"1s\"\n".to_owned(), ..Config::default() };
    let world = World::of("", config, ringmain_sim::ProviderConfig::default());
    let mut slow = world.connect();
    let body = chat("n=10000000 size=500 id=slow").to_string();
    slow.send_post("/v1/chat/completions", &[], body.as_bytes());
    assert_eq!(slow.head().status, 200);
    let log = world.provider.log_handle();
    let reply = world.chat("n=20 id=quick");
    assert!(reply.is_whole, "another one is not disturbed");
    let given_up = log.wait_for(WATCHDOG, |records| {
        records.iter().any(|record| record.id() == "slow" && record.ended.is_some())
    });
    let records = given_up.expect("the slow one is given up");
    let sent = records.iter().find(|record| record.id() == "slow").unwrap().bytes_sent;
    // What sockets hold, not what the provider could have sent.
    assert!(sent < 64 << 20, "{sent} bytes were taken for a reader that reads nothing");
    world.await_rest();
}
