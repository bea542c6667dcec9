//! Bounds, keep-alive, HTTP/2, the drain.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::common::{Config, WATCHDOG, eventually};
use crate::{World, chat, plain};

const HEAD: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
    content-type: application/json\r\n";

#[test]
fn http_a_connection_serves_many_requests() {
    let world = World::start();
    let mut connection = world.connect();
    for n in 0..20 {
        let streamed = chat("n=3").to_string();
        assert!(connection.post("/v1/chat/completions", &[], streamed.as_bytes()).is_whole);
        let unknown = json!({"model": format!("nope-{n}")}).to_string();
        assert_eq!(connection.post("/v1/chat/completions", &[], unknown.as_bytes()).status, 404);
        assert_eq!(connection.post("/v1/chat/completions", &[], b"{").status, 400);
    }
    assert!(!connection.is_closed_within(Duration::from_millis(50)));
}

/// What is answered at once leaves no time in which the end of the caller is looked for; the next
/// request must be seen nevertheless.
#[test]
fn http_a_connection_serves_what_needs_no_provider_many_times() {
    let world = World::start();
    let mut connection = world.connect();
    for _ in 0..20 {
        for (path, status) in
            [("/v1/models", 200), ("/v1/models/tinny", 404), ("/healthz", 200), ("/nowhere", 404)]
        {
            let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            assert_eq!(connection.ask(&request).status, status, "{path}");
            // As a caller that thinks before it asks again.
            assert!(!connection.is_closed_within(Duration::from_millis(2)));
        }
    }
}

#[test]
fn http_bodies_are_bounded() {
    let world = World::with("body_max = \"4KiB\"\n");
    let large = json!({"model": "tiny", "x": "y".repeat(5000)}).to_string();
    let mut connection = world.connect();
    let reply = connection.post("/v1/chat/completions", &[], large.as_bytes());
    assert_eq!((reply.status, reply.code().as_str()), (413, "BodyTooLarge"));
    // It was read to its end, so the connection is as good as before.
    let reply = connection.post("/v1/chat/completions", &[], plain("n=1").to_string().as_bytes());
    assert_eq!(reply.status, 200);
    // Without a length it is cut off where it becomes too long.
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let reply = world.connect().ask(&format!("{HEAD}transfer-encoding: chunked\r\n\r\n{chunk}"));
    assert_eq!(reply.status, 413);
    // Far too long to be read for nothing.
    let mut connection = world.connect();
    connection
        .send(format!("{HEAD}content-length: 99999999\r\nexpect: 100-continue\r\n\r\n").as_bytes());
    let reply = connection.reply();
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));
    assert!(world.provider.log().len() == 1);
}

#[test]
fn http_heads_are_bounded() {
    let world = World::start();
    let long =
        format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(99_000));
    assert_eq!(world.connect().ask(&long).status, 431);
    let many: String = (0..100).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{many}\r\n");
    assert_eq!(world.connect().ask(&many).status, 431);
}

#[test]
fn http_heads_and_bodies_have_a_time() {
    let world = World::with("head = \"200ms\"\nbody = \"200ms\"\n");
    let mut drip = world.connect();
    drip.send(b"POST /v1/chat/comp");
    assert!(drip.is_closed_within(WATCHDOG), "a head that does not come");
    let mut stuck = world.connect();
    stuck.send(format!("{HEAD}content-length: 10\r\n\r\n{{").as_bytes());
    let reply = stuck.reply();
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")));
    // Whoever says nothing at all has no more time, and neither has the first part of HTTP/2.
    for silence in [&b""[..], b"P", b"PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut silent = world.connect();
        silent.send(silence);
        assert!(silent.is_closed_within(WATCHDOG), "{silence:?}");
    }
    // Between two requests it is left alone for longer.
    let mut served = world.connect();
    let body = plain("n=1").to_string();
    assert_eq!(served.post("/v1/chat/completions", &[], body.as_bytes()).status, 200);
    assert!(!served.is_closed_within(Duration::from_millis(600)));
    assert_eq!(served.post("/v1/chat/completions", &[], body.as_bytes()).status, 200);
}

/// What comes before the answer is kept for after it, as far as it is a little.
#[test]
fn http_requests_that_come_early_wait() {
    let world = World::start();
    let mut connection = world.connect();
    let body = chat("n=3 ttft_us=300000").to_string();
    connection.send_post("/v1/chat/completions", &[], body.as_bytes());
    eventually("the first is sent", || world.provider.log().len() == 1);
    connection.send(b"GET /v1/mod");
    connection.send(b"els HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let (first, second) = (connection.reply(), connection.reply());
    assert!(first.is_whole && first.text().ends_with("[DONE]\n\n"), "{first:?}");
    assert_eq!((second.status, second.json()["object"].as_str()), (200, Some("list")));
    let mut flood = world.connect();
    flood.send_post(
        "/v1/chat/completions",
        &[],
        chat("n=3 ttft_us=20000000").to_string().as_bytes(),
    );
    eventually("the flood's is sent", || world.provider.log().len() == 2);
    flood.send(&vec![b'x'; 200_000]);
    assert!(flood.is_closed_within(WATCHDOG));
    world.await_rest();
}

#[test]
fn http_unused_connections_are_closed_in_the_end() {
    let world = World::with("idle = \"300ms\"\n");
    let mut connection = world.connect();
    let body = plain("n=1").to_string();
    assert_eq!(connection.post("/v1/chat/completions", &[], body.as_bytes()).status, 200);
    assert!(connection.is_closed_within(WATCHDOG));
    // An answer that takes longer is no idleness.
    let slow = chat("n=3 gap_us=400000").to_string();
    assert!(world.connect().post("/v1/chat/completions", &[], slow.as_bytes()).is_whole);
}

#[test]
fn http_connections_are_bounded() {
    let world = World::with("connections = 4\n");
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut connection = world.connect();
            let body = plain("n=1").to_string();
            assert_eq!(connection.post("/v1/chat/completions", &[], body.as_bytes()).status, 200);
            connection
        })
        .collect();
    assert!(world.connect().is_closed_within(WATCHDOG), "half of them for one uid");
    drop(held);
    eventually("there is room again", || world.get("/healthz").status == 200);
}

#[test]
fn http_version_2_serves_many_streams_on_one_connection() {
    let world = World::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
        let url = format!("http://{}/v1/chat/completions", world.addr);
        let calls: Vec<_> = (0..50)
            .map(|n| {
                let body = chat(&format!("n=20 gap_us=1000 id=h2-{n}")).to_string();
                let request = client.post(&url).header("content-type", "application/json");
                tokio::spawn(request.body(body).send())
            })
            .collect();
        for call in calls {
            let response = call.await.unwrap().unwrap();
            assert_eq!(response.version(), reqwest::Version::HTTP_2);
            assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
        }
        let body = chat("n=5 gap_us=1000 fault=close_early at=2").to_string();
        let broken = client.post(&url).header("content-type", "application/json").body(body);
        assert!(broken.send().await.unwrap().bytes().await.is_err(), "no clean end");
        let left = client.post(&url).header("content-type", "application/json");
        let left = left.body(chat("n=9 ttft_us=20000000 id=left").to_string()).send();
        assert!(tokio::time::timeout(Duration::from_millis(300), left).await.is_err());
        // The connection goes on while this is waited for: the stream alone was reset.
        let log = world.provider.log_handle();
        let is_gone = |record: &ringmain_sim::ProviderRecord| {
            record.id() == "left" && record.client_gone_ns().is_some()
        };
        let gone = move || log.wait_for(WATCHDOG, |records| records.iter().any(is_gone)).is_some();
        assert!(tokio::task::spawn_blocking(gone).await.unwrap(), "it is dropped upstream");
    });
}

#[test]
fn http_a_drain_finishes_what_runs_and_takes_nothing_new() {
    let mut world = World::start();
    let mut idle = world.connect();
    assert_eq!(
        idle.post("/v1/chat/completions", &[], plain("n=1").to_string().as_bytes()).status,
        200
    );
    let mut running = world.connect();
    let body = chat("n=40 gap_us=20000").to_string();
    running.send_post("/v1/chat/completions", &[], body.as_bytes());
    let mut reply = running.head();
    assert_eq!(reply.status, 200);
    world.broker.signal(Signal::SIGTERM);
    assert!(idle.is_closed_within(WATCHDOG), "an unused connection is closed");
    eventually("the port is closed", || std::net::TcpStream::connect(world.addr).is_err());
    reply.body = running.rest();
    assert!(reply.text().contains("data: [DONE]"), "{}", reply.text());
    assert!(world.broker.wait().success());
    assert!(!world.socket.exists());
}

#[test]
fn http_a_drain_finishes_the_streams_of_http2() {
    let mut world = World::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
        let url = format!("http://{}/v1/chat/completions", world.addr);
        let body = chat("n=40 gap_us=20000").to_string();
        let call = client.post(&url).header("content-type", "application/json").body(body);
        let running = call.send().await.unwrap();
        world.broker.signal(Signal::SIGTERM);
        let text = running.text().await.unwrap();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    });
    assert!(world.broker.wait().success());
}

/// Who asks for leave to send a body is given it, once, and the connection goes on.
#[test]
fn http_leave_to_send_a_body_is_given() {
    let world = World::start();
    let mut connection = world.connect();
    let body = plain("n=1").to_string();
    for _ in 0..2 {
        let told = format!("content-length: {}\r\nexpect: 100-continue\r\n\r\n", body.len());
        connection.send(format!("{HEAD}{told}").as_bytes());
        assert_eq!(connection.head().status, 100);
        connection.send(body.as_bytes());
        let reply = connection.reply();
        assert_eq!((reply.status, reply.is_whole), (200, true));
    }
}

#[test]
fn http_a_drain_that_takes_too_long_is_told_to_the_caller() {
    let config = Config { broker: "drain = \"300ms\"".to_owned(), ..Config::default() };
    let mut world = World::of("", config, ringmain_sim::ProviderConfig::default());
    let mut running = world.connect();
    let body = chat("n=100000 gap_us=20000").to_string();
    running.send_post("/v1/chat/completions", &[], body.as_bytes());
    assert_eq!(running.head().status, 200);
    world.broker.signal(Signal::SIGTERM);
    let rest = String::from_utf8(running.rest()).unwrap();
    assert!(rest.contains("\"Drained\"") && !rest.contains("[DONE]"), "{rest}");
    assert!(world.broker.wait().success());
}
