use std::io::{self, Write};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use ringmain_wire::control::{Goodbye, Message};

use super::fake::{Fake, Order, long_event};
use super::{broker, client, narrow, session, socket};
use crate::{
    ChatBody, Client, Code, Config, Fill, FinishReason, Item, Mode, OwnedItem, Request, Sent,
    Session, Stage, Wait,
};

fn request(route: &str) -> Request<'_> {
    Request::new(route, "/chat/completions").mode(Mode::Deltas)
}

// --- Answers ---------------------------------------------------------------------------------

#[test]
fn a_chat_is_written_in_place_and_its_answer_read_in_place() {
    let (_dir, fake) = broker();
    let client = client(&fake);
    let chat = client.chat("tiny").system("be brief").user("hé\"llo").temperature(0.0);
    let reply = chat.send().unwrap();
    let body = ChatBody::new("tiny").message("system", "be brief").message("user", "hé\"llo");
    let mut expected = Vec::new();
    body.param("temperature", "0").write_json(&mut expected).unwrap();
    assert_eq!(reply.text().as_bytes(), expected);
    assert_eq!((reply.status(), &reply.head.log_id[..]), (200, "rm-1"));
    assert_eq!(reply.head.headers[0].1, "9");
    assert_eq!(reply.choices[0].finish, FinishReason::Stop);
    fake.seen(|seen| assert_eq!(seen.bodies, [expected]));
}

#[test]
fn frames_of_every_kind_become_items() {
    let (_dir, fake) = broker();
    let mut session = session(&fake);
    let exchange = session.submit(&request("all"), ()).unwrap();
    let (mut text, mut events, mut kinds) = (String::new(), Vec::new(), Vec::new());
    while let Some(item) = session.next(exchange).unwrap() {
        kinds.push(match &item {
            Item::Head(head) => format!("head {}", head.status),
            Item::Delta { choice: 1, text } => format!("choice 1 {text}"),
            Item::Delta { text: piece, .. } => {
                text.push_str(piece);
                continue;
            }
            Item::Reasoning { text, .. } => format!("reasoning {text}"),
            Item::Tool { call, .. } => {
                assert_eq!(call.arguments, "é{}".repeat(3000));
                format!("tool {} {}", call.index, call.name)
            }
            Item::Event(bytes) => {
                events.push(bytes.to_vec());
                continue;
            }
            Item::Body(bytes) => format!("body {}", String::from_utf8_lossy(bytes)),
            Item::Usage(usage) => format!("usage {}", usage.total),
            Item::End(end) => format!("end {}", end.text),
        });
    }
    assert_eq!(text, "漢".repeat(5000));
    assert_eq!(events, [long_event(), b"short".to_vec()]);
    let expected = ["head 200", "reasoning hm", "choice 1 other", "tool 1 f", "body bytes"];
    assert_eq!(kinds[..5], expected);
    assert_eq!(kinds[5..], ["usage 7", "end stop"]);
    assert!(session.next(exchange).unwrap().is_none());
}

#[test]
fn more_frames_than_a_lane_holds_arrive_in_order() {
    let (_dir, fake) = broker();
    for wait in [Wait::Block, Wait::Adaptive, Wait::Spin] {
        let mut config = narrow(&fake);
        config.wait = wait;
        let mut session = Session::attach(config).unwrap();
        for _ in 0..2 {
            let exchange = session.submit(&request("many"), ()).unwrap();
            let mut all = String::new();
            while let Some(text) = session.next_text(exchange).unwrap() {
                all.push_str(text);
            }
            let expected: String = (0..2000).map(|n| format!("{n} ")).collect();
            assert_eq!(all, expected);
        }
    }
}

#[test]
fn a_failed_exchange_tells_everything_once() {
    let (_dir, fake) = broker();
    let mut stream = client(&fake).chat("fail").user("x").stream().unwrap();
    let error = stream.next().unwrap_err();
    assert_eq!((error.code(), error.stage()), (Code::UpstreamStatus, Stage::AwaitHead));
    assert_eq!((error.http_status(), error.attempts()), (Some(429), 3));
    assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)));
    assert_eq!(error.provider_code(), "rate_limit_exceeded");
    assert!(error.is_retryable() && error.to_string().contains("rm-1"));
    assert!(stream.next().unwrap().is_none());
}

#[test]
fn a_stream_is_an_iterator_of_owned_items() {
    let (_dir, fake) = broker();
    let client = client(&fake);
    let stream = client.request("tiny", "/x").mode(Mode::Deltas).body("hello").stream().unwrap();
    let items: Vec<_> = Iterator::map(stream, Result::unwrap).collect();
    assert!(matches!(&items[0], OwnedItem::Head(head) if head.endpoint == "local"));
    assert_eq!(items[1], OwnedItem::Delta { choice: 0, text: "hello".into() });
    assert!(matches!(&items[2], OwnedItem::End { text, .. } if text == "stop"));
}

#[test]
fn many_exchanges_of_one_session_end_in_any_order() {
    let (_dir, fake) = broker();
    let mut session = session(&fake);
    let mut open: Vec<_> = (0..64)
        .map(|n| session.submit(&request("tiny"), format!("{n}").as_str()).unwrap())
        .collect();
    let full = session.submit(&request("tiny"), "65").unwrap_err();
    assert_eq!(full.code(), Code::WouldBlock);
    let mut texts = Vec::new();
    while let Some((exchange, item)) = session.next_any() {
        match item.unwrap() {
            Item::Delta { text, .. } => texts.push(text.parse::<u32>().unwrap()),
            Item::End(_) => open.retain(|&other| other != exchange),
            _ => {}
        }
    }
    texts.sort_unstable();
    assert_eq!(texts, (0..64).collect::<Vec<_>>());
    assert!(open.is_empty());
}

#[test]
fn a_ping_comes_back_however_the_session_waits() {
    let (_dir, fake) = broker();
    for wait in [Wait::Block, Wait::Spin] {
        let mut config = narrow(&fake);
        config.wait = wait;
        let mut session = Session::attach(config).unwrap();
        for _ in 0..20 {
            session.ping().unwrap();
        }
    }
}

#[test]
fn polling_never_waits() {
    let (_dir, fake) = broker();
    let mut session = session(&fake);
    let exchange = session.submit(&request("silent"), ()).unwrap();
    assert!(session.try_next(exchange).is_pending());
    session.cancel(exchange);
    session.cancel(exchange);
    let error = loop {
        if let Poll::Ready(result) = session.try_next(exchange) {
            break result.unwrap_err();
        }
        thread::yield_now();
    };
    assert_eq!(error.code(), Code::Cancelled);
    assert!(matches!(session.try_next(exchange), Poll::Ready(Ok(None))));
    fake.seen(|seen| assert_eq!(seen.cancels, 1));
}

// --- Lanes, chunks, bodies -------------------------------------------------------------------

#[test]
fn a_dropped_stream_is_cancelled_and_its_lane_used_again() {
    let (_dir, fake) = broker();
    let client = Client::builder().config(narrow(&fake)).build().unwrap();
    for round in 1..=5 {
        let mut stream = client.chat("begun").user("x").stream().unwrap();
        assert_eq!(stream.next_text().unwrap(), Some("so far"));
        drop(stream);
        fake.until(|seen| seen.cancels == round);
    }
    assert_eq!(client.chat("tiny").user("x").send().unwrap().status(), 200);
}

#[test]
fn a_chunk_is_taken_again_only_when_its_loan_came_back() {
    let (_dir, fake) = broker();
    let mut config = narrow(&fake);
    config.geometry = crate::Geometry::new(4, 4096, 64 * 1024).unwrap();
    let mut session = Session::attach(config).unwrap();
    let large = vec![b'x'; 40_000];
    let exchange = session.submit(&request("keep"), &large[..]).unwrap();
    while session.next(exchange).unwrap().is_some() {}
    let error = session.submit(&request("tiny"), &large[..]).unwrap_err();
    assert_eq!(error.code(), Code::WouldBlock);
    fake.order(Order::GiveBack);
    let exchange = loop {
        match session.submit(&request("tiny"), &large[..]) {
            Ok(exchange) => break exchange,
            Err(error) => assert_eq!(error.code(), Code::WouldBlock),
        }
        thread::yield_now();
    };
    while session.next(exchange).unwrap().is_some() {}
}

#[test]
fn a_large_body_gets_a_session_with_a_larger_arena() {
    let (_dir, fake) = broker();
    let client = Client::builder().config(narrow(&fake)).build().unwrap();
    let large = vec![b'x'; 200_000];
    let reply = client.request("tiny", "/x").mode(Mode::Deltas).body(&large[..]).send().unwrap();
    assert_eq!(reply.text().len(), large.len());
    fake.seen(|seen| assert_eq!(seen.arenas, [256 * 1024]));
    fake.order(Order::ArenaMax(64 * 1024));
    let larger = vec![b'x'; 300_000];
    let error = client.request("tiny", "/x").body(&larger[..]).send().unwrap_err();
    assert_eq!((error.code(), error.limit()), (Code::BodyTooLarge, Some(64 * 1024)));
    let error = client.request("tiny", "/x").body_with(1 << 31, |_| Ok(())).send().unwrap_err();
    assert_eq!((error.code(), error.limit()), (Code::BodyTooLarge, Some(1 << 30)));
}

#[test]
fn a_body_that_cannot_be_written_is_not_sent() {
    let (_dir, fake) = broker();
    let client = Client::builder().config(narrow(&fake)).build().unwrap();
    let call = client.request("tiny", "/x").body_with(4, |out| out.write_all(b"hello"));
    let error = call.send().unwrap_err();
    assert_eq!((error.code(), error.limit()), (Code::BodyTooLarge, Some(4)));
    let call = client.request("tiny", "/x").body_with(4, |_| Err(io::Error::other("no disk")));
    let error = call.send().unwrap_err();
    assert_eq!(error.code(), Code::InvalidRequest);
    assert!(error.to_string().contains("no disk"));
    let mut piecewise = 0;
    let body = Fill::new(1000, |out| {
        for piece in [&b"a"[..], b"bcdefghi", b"jk"] {
            out.write_all(piece)?;
            piecewise = out.written();
        }
        Ok(())
    });
    let reply = client.request("tiny", "/x").mode(Mode::Deltas).body(body).send().unwrap();
    assert_eq!((reply.text(), piecewise), ("abcdefghijk", 11));
}

#[test]
fn an_invalid_head_is_refused_before_anything_is_sent() {
    let (_dir, fake) = broker();
    let client = client(&fake);
    let error = client.request("tiny", "/x").header("authorization", "x").send().unwrap_err();
    assert_eq!((error.code(), error.stage()), (Code::InvalidHead, Stage::Submit));
    let error = client.chat("a\nb").user("x").send().unwrap_err();
    assert_eq!(error.code(), Code::InvalidHead);
    let call = client.request("tiny", "/x").get().header("x-a", "b").idempotency_key("k");
    call.send().unwrap();
    fake.seen(|seen| {
        assert_eq!(seen.heads.len(), 1);
        assert!(seen.heads[0].contains("Get") && seen.heads[0].contains("x-a"));
    });
}

// --- Attaching -------------------------------------------------------------------------------

#[test]
fn an_absent_broker_is_named_with_its_path() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut config = Config::at(socket(&dir));
    config.attach_wait = Duration::ZERO;
    let error = Session::attach(config).unwrap_err();
    assert_eq!((error.code(), error.stage()), (Code::BrokerAbsent, Stage::Attach));
    assert!(error.to_string().contains("broker.sock"), "{error}");
    assert_eq!(error.sent(), Sent::No);
}

#[test]
fn a_refusal_is_final_or_tried_again() {
    let (_dir, fake) = broker();
    fake.order(Order::Refuse(1, Code::NotAllowed));
    let client = Client::builder().config(narrow(&fake)).build().unwrap();
    let error = client.chat("tiny").user("x").send().unwrap_err();
    assert_eq!(error.code(), Code::NotAllowed);
    assert!(error.to_string().contains("uid 7 may not"));
    fake.order(Order::Refuse(3, Code::Draining));
    assert_eq!(client.chat("tiny").user("x").send().unwrap().status(), 200);
}

#[test]
fn an_absent_broker_is_waited_for() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = socket(&dir);
    let client = Client::at(&path).unwrap();
    thread::scope(|scope| {
        let call = scope.spawn(|| client.chat("tiny").user("x").send());
        let fake = Fake::start(&path, 1);
        assert_eq!(call.join().unwrap().unwrap().status(), 200);
        drop(fake);
    });
}

// --- Ends ------------------------------------------------------------------------------------

#[test]
fn a_silent_broker_cannot_hold_a_call_beyond_its_deadline() {
    let (_dir, fake) = broker();
    let client = client(&fake);
    let call = client.chat("mute").user("x").deadline(Duration::from_millis(30));
    let error = call.send().unwrap_err();
    assert_eq!((error.code(), error.sent()), (Code::DeadlineExceeded, Sent::Maybe));
    fake.until(|seen| seen.cancels == 1);
    fake.seen(|seen| assert!(seen.deadlines[0].is_some()));
    let past = client.chat("tiny").user("x").deadline(Instant::now()).send().unwrap_err();
    assert_eq!((past.code(), past.sent()), (Code::DeadlineExceeded, Sent::No));
    let mut session = session(&fake);
    let late = request("begun").deadline(Duration::from_millis(30));
    let exchange = session.submit(&late, ()).unwrap();
    let ended = loop {
        if let (_, Err(error)) = session.next_any().unwrap() {
            break error;
        }
    };
    assert_eq!((ended.code(), ended.stage()), (Code::DeadlineExceeded, Stage::Relay));
    assert_eq!((ended.bytes(), ended.sent(), ended.attempts()), (6, Sent::Yes, 1));
    assert!(!session.is_running(exchange) && session.next_any().is_none());
}

#[test]
fn a_dead_broker_ends_every_exchange_and_the_next_call_finds_its_successor() {
    let (dir, fake) = broker();
    let mut session = session(&fake);
    let begun = session.submit(&request("begun"), ()).unwrap();
    let silent = session.submit(&request("silent"), ()).unwrap();
    let mut stream = client(&fake).chat("silent").user("x").stream().unwrap();
    fake.until(|seen| seen.bodies.len() == 3);
    drop(fake);
    // What was published before the death is still delivered.
    assert_eq!(session.next_text(begun).unwrap(), Some("so far"));
    let error = session.next(begun).unwrap_err();
    assert_eq!((error.code(), error.bytes()), (Code::BrokerGone, 6));
    assert_eq!(stream.next().unwrap_err().code(), Code::BrokerGone);
    let fake = Fake::start(&socket(&dir), 2);
    let again = session.submit(&request("tiny"), "hi").unwrap();
    let error = session.next(silent).unwrap_err();
    assert_eq!((error.code(), error.sent()), (Code::BrokerRestarted, Sent::Maybe));
    assert_eq!(session.next_text(again).unwrap(), Some("hi"));
    drop(fake);
}

#[test]
fn a_spinning_call_notices_a_dead_broker_too() {
    let (_dir, fake) = broker();
    let mut config = narrow(&fake);
    config.wait = Wait::Spin;
    let mut session = Session::attach(config).unwrap();
    let exchange = session.submit(&request("silent"), ()).unwrap();
    fake.until(|seen| seen.bodies.len() == 1);
    drop(fake);
    assert_eq!(session.next(exchange).unwrap_err().code(), Code::BrokerGone);
}

#[test]
fn a_goodbye_is_passed_on_with_its_sentence() {
    let (_dir, fake) = broker();
    let mut session = session(&fake);
    let exchange = session.submit(&request("silent"), ()).unwrap();
    fake.until(|seen| seen.bodies.len() == 1);
    let goodbye = Goodbye::new(Code::ViolationEntry, "op 9 does not exist");
    fake.order(Order::Say(Message::Goodbye(goodbye)));
    let error = session.next(exchange).unwrap_err();
    assert_eq!(error.code(), Code::ViolationEntry);
    assert!(error.to_string().contains("op 9 does not exist"));
    session.ping().unwrap();
}

#[test]
fn a_draining_broker_finishes_what_runs_and_gets_nothing_new() {
    let (_dir, fake) = broker();
    let mut session = session(&fake);
    let old = session.submit(&request("silent"), ()).unwrap();
    fake.until(|seen| seen.bodies.len() == 1);
    fake.order(Order::Say(Message::Draining));
    let new = loop {
        let new = session.submit(&request("tiny"), "x").unwrap();
        if fake.seen(|seen| seen.arenas.len()) == 2 {
            break new;
        }
        while session.next(new).unwrap().is_some() {}
    };
    session.cancel(old);
    let mut ended = Vec::new();
    while let Some((exchange, item)) = session.next_any() {
        match item {
            Ok(Item::End(_)) => ended.push((exchange, None)),
            Err(error) => ended.push((exchange, Some(error.code()))),
            Ok(_) => {}
        }
    }
    ended.sort_by_key(|&(exchange, _)| exchange != old);
    assert_eq!(ended, [(old, Some(Code::Cancelled)), (new, None)]);
}

#[test]
fn a_forked_child_leaves_the_parents_sessions_alone_and_attaches_anew() {
    let (_dir, fake) = broker();
    let client = client(&fake);
    let mut stream = client.chat("begun").user("x").stream().unwrap();
    assert_eq!(stream.next_text().unwrap(), Some("so far"));
    let mut session = session(&fake);
    let exchange = session.submit(&request("begun"), ()).unwrap();
    client.pretend_fork();
    stream.session_mut().pretend_fork();
    session.pretend_fork();
    assert_eq!(stream.next().unwrap_err().code(), Code::SessionClosed);
    drop(stream);
    assert_eq!(session.next(exchange).unwrap_err().code(), Code::SessionClosed);
    session.ping().unwrap();
    assert_eq!(client.chat("tiny").user("x").send().unwrap().status(), 200);
    fake.seen(|seen| assert_eq!((seen.arenas.len(), seen.cancels), (4, 0)));
}
