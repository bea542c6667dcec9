//! Callers that make no room for their answers: those are timed and charged, over HTTP/2 however
//! small they are, and whole ones no less than streams.

use std::time::Duration;

use ringmain_sim::ProviderConfig;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::common::{Config, WATCHDOG, eventually};
use crate::wire::Connection;
use crate::{World, chat, plain};

const CHAT: &str = "/v1/chat/completions";
/// Room that a caller makes for each answer: none, less than any, less than a long one.
const WINDOWS: [u32; 3] = [0, 1, 100];

fn world(config: &str) -> World {
    let config = Config { tail: config.to_owned(), ..Config::default() };
    World::of("", config, ProviderConfig::default())
}

fn client(window: u32) -> reqwest::Client {
    let builder = reqwest::Client::builder().http2_prior_knowledge().no_proxy();
    builder.http2_initial_stream_window_size(window).build().unwrap()
}

async fn send(
    client: &reqwest::Client,
    world: &World,
    path: &str,
    body: &Value,
) -> reqwest::Response {
    let url = format!("http://{}{path}", world.addr);
    let request = client.post(url).header("content-type", "application/json");
    request.body(body.to_string()).send().await.unwrap()
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Asks over a connection that reads until there is room again for an answer.
async fn await_room(world: &World) {
    let client = client(65_535);
    let asking = async {
        while send(&client, world, CHAT, &plain("n=1")).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WATCHDOG, asking).await.expect("there is room again");
}

#[test]
fn http_unread_answers_over_http2_are_charged_and_given_up() {
    // Room for three answers.
    let world = world("[limits]\nslow_consumer = \"1s\"\n[quota]\ncopy_bytes = 196608\n");
    run(async {
        let blind = client(0);
        for window in WINDOWS {
            let client = client(window);
            // A whole answer, a stream, a refusal of the provider and one of the broker.
            let whole = send(&client, &world, CHAT, &plain("n=200")).await;
            let stream = send(&client, &world, CHAT, &chat("n=200")).await;
            let refused = send(&client, &world, CHAT, &plain("status=422")).await;
            let asked = world.provider.log().len();
            let unknown = send(&client, &world, "/v1/x", &json!({"a": 1})).await;
            let fourth = send(&client, &world, CHAT, &plain("n=1")).await;
            let answers = [whole, stream, refused, unknown, fourth];
            let statuses = answers.each_ref().map(|answer| answer.status().as_u16());
            assert_eq!(statuses, [200, 200, 422, 400, 429], "room for {window}");
            assert_eq!(world.provider.log().len(), asked, "nobody is asked without room");
            await_room(&world).await;
            // To read an answer makes room for it. When this one, which takes nothing and came
            // last, is given up, all of them are.
            let canary = send(&blind, &world, "/v1/x", &json!({"a": 1})).await;
            assert!(timeout(WATCHDOG, canary.bytes()).await.expect("it is ended").is_err());
            for (number, answer) in answers.into_iter().enumerate() {
                let read = timeout(WATCHDOG, answer.bytes()).await.expect("it is ended");
                assert!(read.is_err(), "answer {number}, room for {window}: {read:?}");
            }
            // Each was ended alone: the connection takes the next.
            assert_eq!(send(&client, &world, CHAT, &plain("n=1")).await.status(), 200);
            await_room(&world).await;
        }
    });
    world.await_rest();
}

/// What is kept for the sake of HTTP/1.0 stays charged while its caller does not read it.
#[test]
fn http_an_unread_answer_to_http_1_0_is_charged_and_given_up() {
    const LARGE: usize = 6 << 20;
    let addr = crate::canned::provider(|_| {
        let text = format!("{{\"x\":\"{}\"}}", "y".repeat(LARGE));
        crate::canned::answer(200, "application/json", text.as_bytes())
    });
    // Room for one, which takes 8 MiB.
    let world = world(&format!(
        "[limits]\nslow_consumer = \"1s\"\n[quota]\ncopy_bytes = 12582912\n[[endpoint]]\n\
         name = \"large\"\nbase_url = \"http://{addr}/v1\"\n[[route]]\nmodel = \"large\"\n\
         endpoints = [{{ name = \"large\" }}]\n"
    ));
    let body = json!({"model": "large", "messages": []}).to_string();
    let request = format!(
        "POST {CHAT} HTTP/1.0\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let ask = || {
        let mut connection = Connection::unix(&world.socket);
        connection.send(request.as_bytes());
        (connection.head().status, connection)
    };
    let (status, mut unread) = ask();
    assert_eq!(status, 200);
    world.await_rest();
    assert_eq!(ask().0, 429, "what is not read is held");
    let mut read = 0;
    eventually("there is room again", || {
        let (status, mut connection) = ask();
        read = connection.rest().len();
        status == 200
    });
    assert!(read > LARGE);
    assert!(unread.rest().len() < LARGE, "it was ended");
    world.await_rest();
}

/// A caller that reads as it goes is not hurried, and a small window is enough for it.
#[test]
fn http_answers_over_http2_pass_through_small_windows() {
    let world = world("[limits]\nslow_consumer = \"300ms\"\n");
    run(async {
        // The library makes room for what it has read.
        for window in [1 << 14, 65_535] {
            let client = client(window);
            for body in [plain("n=9000 seed=1"), chat("n=2000 seed=1"), chat("n=4 gap_us=400000")] {
                let answer = send(&client, &world, CHAT, &body).await;
                let bytes = answer.bytes().await.unwrap();
                assert!(!bytes.is_empty(), "{window} {body}");
            }
        }
    });
}
