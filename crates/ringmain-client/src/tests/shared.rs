use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream as _;
use ringmain_wire::control::Message;

use super::fake::{Fake, Order};
use super::{broker, client, socket};
use crate::{Client, Code, Geometry, OwnedItem};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_a_few_sessions() {
    let (_dir, fake) = broker();
    let client = client(&fake);
    let tasks: Vec<_> = (0..600)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let text = format!("text {n}");
                let call = client.request("tiny", "/x").mode(crate::Mode::Deltas);
                let reply = call.body(text.as_str()).send_async().await.unwrap();
                assert_eq!(reply.text(), text);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    fake.seen(|seen| assert!(seen.arenas.len() <= 3, "{} sessions", seen.arenas.len()));
}

#[tokio::test]
async fn a_long_answer_arrives_whole_through_a_small_lane() {
    let (_dir, fake) = broker();
    let geometry = Geometry::new(2, 4096, 64 * 1024).unwrap();
    let client = Client::builder().socket(fake.path()).geometry(geometry).build().unwrap();
    let mut stream = client.chat("many").user("x").stream_async().await.unwrap();
    let mut all = String::new();
    while let Some(text) = stream.next_text().await.unwrap() {
        all.push_str(text);
    }
    let expected: String = (0..2000).map(|n| format!("{n} ")).collect();
    assert_eq!(all, expected);
    assert!(stream.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_yields_owned_items() {
    let (_dir, fake) = broker();
    let mut stream = client(&fake).chat("all").user("x").stream_async().await.unwrap();
    let mut items = Vec::new();
    while let Some(item) = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        items.push(item.unwrap());
    }
    assert!(matches!(&items[0], OwnedItem::Head(head) if head.status == 200));
    assert!(matches!(items.last(), Some(OwnedItem::End { .. })));
}

#[tokio::test]
async fn a_dropped_stream_is_cancelled_and_its_lane_used_again() {
    let (_dir, fake) = broker();
    let geometry = Geometry::new(1, 4096, 64 * 1024).unwrap();
    let builder = Client::builder().socket(fake.path()).geometry(geometry);
    let client = builder.sessions_max(1).build().unwrap();
    for round in 1..=3 {
        let mut stream = client.chat("begun").user("x").stream_async().await.unwrap();
        assert_eq!(stream.next_text().await.unwrap(), Some("so far"));
        let full = client.chat("tiny").user("x").send_async().await.unwrap_err();
        assert_eq!(full.code(), Code::WouldBlock);
        drop(stream);
        fake.until(|seen| seen.cancels == round);
        // The session's task frees the lane when it has seen the end.
        while let Err(error) = client.chat("tiny").user("x").send_async().await {
            assert_eq!(error.code(), Code::WouldBlock);
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_deadline_ends_a_stream_of_a_silent_broker() {
    let (_dir, fake) = broker();
    let client = client(&fake);
    let call = client.chat("mute").user("x").deadline(Duration::from_millis(30));
    let mut stream = call.stream_async().await.unwrap();
    assert_eq!(stream.next().await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(stream.next().await.unwrap().is_none());
    fake.until(|seen| seen.cancels == 1);
}

#[tokio::test]
async fn a_dead_broker_ends_every_stream_and_the_next_call_finds_its_successor() {
    let (dir, fake) = broker();
    let client = client(&fake);
    let mut begun = client.chat("begun").user("x").stream_async().await.unwrap();
    let mut silent = client.chat("silent").user("x").stream_async().await.unwrap();
    fake.until(|seen| seen.bodies.len() == 2);
    tokio::task::spawn_blocking(move || drop(fake)).await.unwrap();
    assert_eq!(begun.next_text().await.unwrap(), Some("so far"));
    let error = begun.next().await.unwrap_err();
    assert_eq!((error.code(), error.bytes()), (Code::BrokerGone, 6));
    let fake = Fake::start(&socket(&dir), 2);
    assert_eq!(client.chat("tiny").user("x").send_async().await.unwrap().status(), 200);
    assert_eq!(silent.next().await.unwrap_err().code(), Code::BrokerRestarted);
    drop(fake);
}

#[tokio::test]
async fn a_draining_broker_gets_nothing_new_and_finishes_what_runs() {
    let (_dir, fake) = broker();
    let client = client(&fake);
    let mut old = client.chat("silent").user("x").stream_async().await.unwrap();
    fake.until(|seen| seen.bodies.len() == 1);
    fake.order(Order::Say(Message::Draining));
    while fake.seen(|seen| seen.arenas.len()) == 1 {
        assert_eq!(client.chat("tiny").user("x").send_async().await.unwrap().status(), 200);
    }
    old.cancel();
    assert_eq!(old.next().await.unwrap_err().code(), Code::Cancelled);
}

#[tokio::test]
async fn refusals_reach_async_callers() {
    let (_dir, fake) = broker();
    fake.order(Order::Refuse(1, Code::NotAllowed));
    let client = client(&fake);
    let error = client.chat("tiny").user("x").send_async().await.unwrap_err();
    assert_eq!(error.code(), Code::NotAllowed);
    fake.order(Order::Refuse(2, Code::Draining));
    assert_eq!(client.chat("tiny").user("x").send_async().await.unwrap().status(), 200);
}

#[test]
fn a_runtime_that_ends_takes_no_later_call_with_it() {
    let (_dir, fake) = broker();
    let client = client(&fake);
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let first = runtime();
    let mut stream = first.block_on(client.chat("silent").user("x").stream_async()).unwrap();
    drop(first);
    let second = runtime();
    assert_eq!(second.block_on(stream.next()).unwrap_err().code(), Code::SessionClosed);
    let reply = second.block_on(client.chat("tiny").user("x").send_async()).unwrap();
    assert_eq!(reply.status(), 200);
}

#[tokio::test]
async fn a_forked_child_leaves_the_parents_streams_alone() {
    let (_dir, fake) = broker();
    let client = client(&fake);
    let mut stream = client.chat("begun").user("x").stream_async().await.unwrap();
    assert_eq!(stream.next_text().await.unwrap(), Some("so far"));
    assert!(stream.age() < Duration::from_secs(60), "not the age of its last frame");
    client.pretend_fork();
    stream.pretend_fork();
    assert_eq!(stream.next().await.unwrap_err().code(), Code::SessionClosed);
    drop(stream);
    assert_eq!(client.chat("tiny").user("x").send_async().await.unwrap().status(), 200);
    fake.seen(|seen| assert_eq!((seen.arenas.len(), seen.cancels), (2, 0)));
}

#[tokio::test]
async fn the_patience_of_many_callers_does_not_add_up() {
    let dir = tempfile::TempDir::new().unwrap();
    let wait = Duration::from_millis(200);
    let client = Client::builder().socket(socket(&dir)).attach_wait(wait).build().unwrap();
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.chat("tiny").user("x").send_async().await })
        })
        .collect();
    // Two hundred seconds if they waited one after the other: the watchdog would end the test.
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().code(), Code::BrokerAbsent);
    }
}
