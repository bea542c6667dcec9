//! A caller that leaves in the phases that a provider which answers does not show: while a
//! connection is made, while the next attempt is waited for, and amid a plain answer.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ringmain_sim::ProviderConfig;
use serde_json::json;

use crate::common::{Config, WATCHDOG, eventually};
use crate::{World, chat, plain};

const CHAT: &str = "/v1/chat/completions";

/// A server that takes connections and says nothing, and tells how each goes on.
fn silent() -> (SocketAddr, mpsc::Receiver<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (told, hears) = mpsc::channel();
    thread::spawn(move || {
        // It ends with the process of the test.
        for stream in listener.incoming() {
            let (mut stream, told) = (stream.unwrap(), told.clone());
            let _ = told.send("connected");
            thread::spawn(move || {
                let mut room = [0; 4096];
                while matches!(stream.read(&mut room), Ok(1..)) {}
                let _ = told.send("left");
            });
        }
    });
    (addr, hears)
}

#[test]
fn http_disconnect_while_a_connection_is_made() {
    let (addr, hears) = silent();
    let tail = format!(
        "[limits]\nconnect = \"60s\"\n\
         [[endpoint]]\nname = \"silent\"\nbase_url = \"https://{addr}/v1\"\n\
         [[route]]\nmodel = \"silent\"\nendpoints = [{{ name = \"silent\" }}]\n"
    );
    let world = World::of("", Config { tail, ..Config::default() }, ProviderConfig::default());
    let mut connection = world.connect();
    let body = json!({"model": "silent", "messages": []}).to_string();
    connection.send_post(CHAT, &[], body.as_bytes());
    // The handshake has begun, and will not be answered.
    assert_eq!(hears.recv_timeout(WATCHDOG), Ok("connected"));
    drop(connection);
    world.await_rest();
    assert_eq!(hears.recv_timeout(WATCHDOG), Ok("left"));
}

#[test]
fn http_disconnect_while_the_next_attempt_is_waited_for() {
    let world = World::start();
    let mut connection = world.connect();
    let body = chat("status=503 retry_after=15").to_string();
    connection.send_post(CHAT, &[], body.as_bytes());
    let log = world.provider.log_handle();
    let refused = |records: &[ringmain_sim::ProviderRecord]| {
        records.first().is_some_and(|record| record.ended.is_some())
    };
    log.wait_for(WATCHDOG, refused).expect("the first attempt is refused");
    eventually("the second is waited for", || world.broker.status()["streams"] == 1);
    drop(connection);
    world.await_rest();
    assert_eq!(world.provider.log().len(), 1);
}

#[test]
fn http_disconnect_amid_a_plain_answer() {
    let world = World::start();
    let mut connection = world.connect();
    // Its head comes at once, and its body never.
    let body = plain("n=3 ttft_us=20000000").to_string();
    connection.send_post(CHAT, &[], body.as_bytes());
    eventually("the provider has the request", || !world.provider.log().is_empty());
    drop(connection);
    let log = world.provider.log_handle();
    let is_left = |records: &[ringmain_sim::ProviderRecord]| records[0].client_gone_ns().is_some();
    assert!(log.wait_for(WATCHDOG, is_left).is_some(), "the provider is left alone");
    world.await_rest();
}

/// Over HTTP/2 the stream is reset, and the connection goes on.
#[test]
fn http_disconnect_of_a_stream_at_every_phase() {
    let world = World::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let phases = ["head_us=20000000", "n=3 ttft_us=20000000", "n=100000 gap_us=5000"];
    runtime.block_on(async {
        let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
        let url = format!("http://{}{CHAT}", world.addr);
        for (number, phase) in phases.into_iter().enumerate() {
            let body = chat(&format!("{phase} id=left-{number}")).to_string();
            let call = client.post(&url).header("content-type", "application/json").body(body);
            let asking = async { call.send().await.unwrap().bytes().await };
            let log = world.provider.log_handle();
            let id = format!("left-{number}");
            let of = move |records: &[ringmain_sim::ProviderRecord], is_gone: bool| {
                records.iter().any(|it| it.id() == id && it.client_gone_ns().is_some() == is_gone)
            };
            let (asked, gone) = (of.clone(), of);
            let asked_log = world.provider.log_handle();
            let waiting = tokio::task::spawn_blocking(move || {
                asked_log.wait_for(WATCHDOG, |records| asked(records, false)).is_some()
            });
            tokio::select! {
                _ = asking => panic!("{phase}: it ended"),
                came = waiting => assert!(came.unwrap(), "{phase}: it has come"),
            }
            let left = tokio::task::spawn_blocking(move || {
                log.wait_for(WATCHDOG, |records| gone(records, true)).is_some()
            });
            let left = tokio::time::timeout(WATCHDOG + Duration::from_secs(1), left).await;
            assert!(left.unwrap().unwrap(), "{phase}: it is dropped upstream");
        }
    });
    world.await_rest();
}
