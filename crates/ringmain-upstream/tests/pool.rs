//! The pool against real sockets: how many connections, which of them, and when they go.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{call, endpoint, finish, http1, http2, send, send_body, send_of, soon, until};
use ringmain_upstream::{Call, Cause, Endpoint, Http2, Progress};
use ringmain_wire::{Code, Flags, Mode, RequestHead, Sent, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

fn prior(config: &mut ringmain_upstream::EndpointConfig) {
    config.http2 = Http2::PriorKnowledge;
}

type H2Connection = h2::server::Connection<TcpStream, Bytes>;

/// A server whose HTTP/2 connections each get a task of this kind; gives its base URL.
async fn h2_server<F>(serve: impl FnOnce(H2Connection) -> F + Clone + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serve = serve.clone();
            tokio::spawn(async move { serve(h2::server::handshake(stream).await.unwrap()).await });
        }
    });
    url
}

async fn calls_at_once(endpoint: &Arc<Endpoint>, count: usize) -> Vec<Result<usize, String>> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let endpoint = endpoint.clone();
        calls.spawn(async move { call(&endpoint).await.map_err(|error| error.to_string()) });
    }
    soon(calls.join_all()).await
}

#[tokio::test]
async fn one_request_after_the_other_takes_one_connection() {
    let server = http1::Server::start(http1::Manners::default()).await;
    let endpoint = endpoint(&server.url, |_| {});
    for _ in 0..50 {
        call(&endpoint).await.unwrap();
    }
    let gauges = endpoint.gauges();
    assert_eq!((server.seen.connections(), gauges.opened, gauges.reused), (1, 1, 49), "{gauges:?}");
    assert_eq!((gauges.open, gauges.idle, gauges.in_use, gauges.streams), (1, 1, 0, 0));
}

/// To read, translate or compress a body takes its time, for which no endpoint answers.
#[tokio::test]
async fn an_endpoint_is_waited_for_from_when_it_is_asked() {
    let silent = http1::Manners { silent: true, ..Default::default() };
    let server = http1::Server::start(silent).await;
    let endpoint = Arc::new(endpoint(&server.url, |config| config.connections_min = 1));
    endpoint.start();
    until(|| endpoint.gauges().idle == 1).await;
    let head = RequestHead::new("m", "/chat/completions");
    let mut call = Call::new(&head, Bytes::from_static(b"{}"), Mode::Body, Flags::NONE);
    let progress = Progress::default();
    call.progress = progress.clone();
    // The poll in which it goes out began long ago.
    let began_ns = progress.now_ns().saturating_sub(Duration::from_secs(60).as_nanos() as u64);
    let mut sending = pin!(endpoint.send(call));
    let is_pending = poll_fn(|cx| {
        let polled = progress.polled(began_ns, || sending.as_mut().poll(cx));
        Poll::Ready(polled.is_pending())
    });
    assert!(is_pending.await);
    assert_eq!(progress.stage(), Stage::AwaitHead);
    assert!(progress.silent_for().unwrap() < Duration::from_secs(30), "{progress:?}");
}

/// Whoever has every byte that was promised need not ask whether there is more.
#[tokio::test]
async fn an_answer_that_is_dropped_behind_its_last_byte_leaves_its_connection() {
    let server = http1::Server::start(http1::Manners::default()).await;
    let endpoint = endpoint(&server.url, |_| {});
    for _ in 0..10 {
        let mut answer = send(&endpoint).await.unwrap();
        assert_eq!(answer.body.chunk().await.unwrap().unwrap().len(), 2);
    }
    assert_eq!((server.seen.connections(), endpoint.gauges().reused), (1, 9));
}

/// What came while its reader paused is read behind the pause, also where that was given up.
#[tokio::test]
async fn a_pause_loses_nothing_of_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let endpoint = endpoint(&url, |_| {});
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        http1::read_request(&mut stream).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let (mut stream, answer) = soon(async { tokio::join!(serving, send(&endpoint)) }).await;
    let mut body = answer.unwrap().body;
    assert_eq!(soon(body.chunk()).await.unwrap().unwrap(), b"a"[..]);
    stream.write_all(b"b").await.unwrap();
    soon(body.pause(Duration::from_millis(1))).await;
    assert_eq!(soon(body.chunk()).await.unwrap().unwrap(), b"b"[..]);
    let given_up = tokio::time::timeout(Duration::ZERO, body.pause(Duration::from_secs(3600)));
    assert!(given_up.await.is_err());
    stream.write_all(b"c").await.unwrap();
    assert_eq!(soon(body.chunk()).await.unwrap().unwrap(), b"c"[..]);
    stream.write_all(b"d").await.unwrap();
    soon(body.pause(Duration::from_millis(1))).await;
    assert_eq!(soon(body.chunk()).await.unwrap().unwrap(), b"d"[..]);
    drop(body);
    assert_eq!(endpoint.gauges().idle, 1, "the connection is as good as before");
}

/// A list may stand in several lines. The server of this test ends its connections only when
/// something more is asked of them.
#[tokio::test]
async fn a_connection_serves_no_more_where_any_line_says_close() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked_again = Arc::new(AtomicU64::new(0));
    let seen = asked_again.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                http1::read_request(&mut stream).await.unwrap();
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-hop\r\n\
                              connection: close\r\n\r\n{}";
                stream.write_all(answer.as_bytes()).await.unwrap();
                if http1::read_request(&mut stream).await.is_some() {
                    seen.fetch_add(1, SeqCst);
                }
            });
        }
    });
    let endpoint = endpoint(&url, |_| {});
    for _ in 0..3 {
        assert_eq!(soon(call(&endpoint)).await.unwrap(), 2);
    }
    assert_eq!((asked_again.load(SeqCst), endpoint.gauges().opened), (0, 3));
}

#[tokio::test]
async fn at_the_ceiling_requests_wait_their_turn() {
    let delay = Duration::from_millis(20);
    let server = http1::Server::start(http1::Manners { delay, ..Default::default() }).await;
    let endpoint = Arc::new(endpoint(&server.url, |config| config.connections_max = 3));
    let answers = calls_at_once(&endpoint, 30).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((server.seen.connections(), server.seen.requests()), (3, 30));
    assert_eq!(endpoint.gauges().waiting, 0);
}

#[tokio::test]
async fn a_turn_that_nobody_waits_for_any_more_is_passed_on() {
    let server = http1::Server::start(http1::Manners { silent: true, ..Default::default() }).await;
    let endpoint = Arc::new(endpoint(&server.url, |config| config.connections_max = 1));
    let holder = tokio::spawn({
        let endpoint = endpoint.clone();
        async move { call(&endpoint).await }
    });
    until(|| server.seen.requests() == 1).await;
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let endpoint = endpoint.clone();
            tokio::spawn(async move { call(&endpoint).await })
        })
        .collect();
    until(|| endpoint.gauges().waiting == 3).await;
    waiting[0].abort();
    waiting[2].abort();
    until(|| endpoint.gauges().waiting == 1).await;
    holder.abort();
    until(|| server.seen.requests() == 2).await;
    waiting[1].abort();
    until(|| endpoint.gauges().open == 0).await;
    assert_eq!(endpoint.gauges().streams, 0);
}

#[tokio::test]
async fn uids_take_turns_at_the_ceiling() {
    let delay = Duration::from_millis(100);
    let server = http1::Server::start(http1::Manners { delay, ..Default::default() }).await;
    let endpoint = Arc::new(endpoint(&server.url, |config| config.connections_max = 1));
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut calls = JoinSet::new();
    for (waiting, uid) in [1, 1, 1, 1, 2, 3].into_iter().enumerate() {
        let (endpoint, order) = (endpoint.clone(), order.clone());
        let asked = endpoint.clone();
        calls.spawn(async move {
            finish(send_of(&asked, uid).await.unwrap()).await.unwrap();
            order.lock().unwrap().push(uid);
        });
        until(|| endpoint.gauges().waiting == waiting as u64).await;
    }
    soon(calls.join_all()).await;
    assert_eq!(*order.lock().unwrap(), [1, 1, 2, 3, 1, 1]);
}

/// The first connection shows what the server speaks, so all wait for it.
#[tokio::test]
async fn those_who_wait_for_a_connection_that_is_not_made_fail_with_it() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/v1", silent.local_addr().unwrap());
    let limit = Duration::from_millis(300);
    let endpoint = Arc::new(endpoint(&url, |config| config.connect_timeout = limit));
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let endpoint = endpoint.clone();
        calls.spawn(async move { call(&endpoint).await.unwrap_err() });
    }
    for error in soon(calls.join_all()).await {
        assert_eq!((error.code, error.sent), (Code::ConnectTimeout, Sent::No), "{error}");
    }
    let accepts = std::iter::from_fn(|| {
        let accepting = std::pin::pin!(silent.accept());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        accepting.poll(&mut context).is_ready().then_some(())
    });
    assert_eq!(accepts.count(), 1, "none had to find out for itself");
}

#[tokio::test]
async fn an_abandoned_request_ends_its_connection_and_no_other() {
    let delay = Duration::from_millis(300);
    let server = http1::Server::start(http1::Manners { delay, ..Default::default() }).await;
    let endpoint = Arc::new(endpoint(&server.url, |_| {}));
    let (kept, dropped) = {
        let (first, second) = (endpoint.clone(), endpoint.clone());
        (
            tokio::spawn(async move { call(&first).await }),
            tokio::spawn(async move { call(&second).await }),
        )
    };
    until(|| server.seen.requests() == 2).await;
    dropped.abort();
    until(|| endpoint.gauges().open == 1).await;
    assert_eq!(soon(kept).await.unwrap().unwrap(), 2);
    let gauges = endpoint.gauges();
    assert_eq!((gauges.retired(Cause::Aborted), gauges.open), (1, 1), "{gauges:?}");
    call(&endpoint).await.unwrap();
    assert_eq!(server.seen.connections(), 2);
}

#[tokio::test]
async fn what_a_server_says_of_its_connections_is_heeded() {
    let closing = http1::Manners { headers: "connection: close\r\n", ..Default::default() };
    let server = http1::Server::start(closing).await;
    let closed = endpoint(&server.url, |_| {});
    for _ in 0..5 {
        call(&closed).await.unwrap();
    }
    let gauges = closed.gauges();
    assert_eq!((gauges.opened, gauges.retired(Cause::ClosedByPeer)), (5, 5), "{gauges:?}");

    let brief = http1::Manners { headers: "keep-alive: timeout=0\r\n", ..Default::default() };
    let server = http1::Server::start(brief).await;
    let told = endpoint(&server.url, |_| {});
    call(&told).await.unwrap();
    call(&told).await.unwrap();
    assert_eq!((told.gauges().opened, told.gauges().retired(Cause::Idle)), (2, 1));
}

#[tokio::test]
async fn connections_that_end_unused_teach_how_long_they_last() {
    let idle = Some(Duration::from_millis(300));
    let server = http1::Server::start(http1::Manners { idle, ..Default::default() }).await;
    let endpoint = endpoint(&server.url, |_| {});
    call(&endpoint).await.unwrap();
    until(|| endpoint.gauges().retired(Cause::ClosedByPeer) == 1).await;
    // From now on a gap like the server's limit never meets a connection that is just closed.
    for _ in 0..6 {
        call(&endpoint).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(endpoint.gauges().retired(Cause::Idle) > 0, "{:?}", endpoint.gauges());
}

#[tokio::test]
async fn unused_and_old_connections_go_by_themselves() {
    let server = http1::Server::start(http1::Manners::default()).await;
    let idle = endpoint(&server.url, |config| config.idle_timeout = Duration::from_millis(30));
    call(&idle).await.unwrap();
    until(|| idle.gauges().open == 0).await;
    assert_eq!(idle.gauges().retired(Cause::Idle), 1);
    until(|| server.seen.open() == 0).await;
    let aged = endpoint(&server.url, |config| config.lifetime_max = Duration::from_millis(30));
    call(&aged).await.unwrap();
    until(|| aged.gauges().retired(Cause::Aged) == 1).await;
    until(|| server.seen.open() == 0).await;
}

#[tokio::test]
async fn the_floor_is_warm_before_anything_is_sent_and_after_a_loss() {
    let idle = Some(Duration::from_millis(300));
    let server = http1::Server::start(http1::Manners { idle, ..Default::default() }).await;
    let first = Arc::new(endpoint(&server.url, |config| config.connections_min = 3));
    first.start();
    until(|| first.gauges().idle == 3).await;
    assert_eq!(server.seen.requests(), 0);
    call(&first).await.unwrap();
    assert_eq!((first.gauges().opened, first.gauges().streams), (3, 0));
    // The server closes what is unused, and they are made again.
    until(|| first.gauges().opened >= 6 && first.gauges().idle == 3).await;
    assert_eq!(server.seen.requests(), 1);

    let server = http2::Server::start(http2::Manners::default()).await;
    let second = Arc::new(endpoint(&server.url, |config| {
        prior(config);
        config.connections_min = 2;
    }));
    second.start();
    until(|| second.gauges().idle == 2).await;
    call(&second).await.unwrap();
    assert_eq!((second.gauges().opened, server.seen.requests.load(SeqCst)), (2, 1));
}

#[tokio::test]
async fn over_http2_three_hundred_calls_spread_over_three_connections() {
    let delay = Duration::from_millis(200);
    let manners = http2::Manners { streams_max: Some(100), delay, ..Default::default() };
    let server = http2::Server::start(manners).await;
    let endpoint = Arc::new(endpoint(&server.url, prior));
    let answers = calls_at_once(&endpoint, 300).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(server.seen.connections.load(SeqCst), 3);
    assert_eq!(server.seen.streams_peak.load(SeqCst), 300);
    assert_eq!((endpoint.gauges().open, endpoint.gauges().streams), (3, 0));
}

#[tokio::test]
async fn no_connection_has_more_streams_than_its_server_says() {
    let delay = Duration::from_millis(30);
    let manners = http2::Manners { streams_max: Some(5), delay, ..Default::default() };
    let server = http2::Server::start(manners).await;
    let endpoint = Arc::new(endpoint(&server.url, prior));
    for round in 1..=2 {
        let answers = calls_at_once(&endpoint, 40).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        // All at once, none refused, and none behind another.
        let seen = &server.seen;
        assert_eq!(seen.connections.load(SeqCst), 8, "{:?}", endpoint.gauges());
        assert_eq!(seen.streams_peak.load(SeqCst), 40);
        assert_eq!(seen.requests.load(SeqCst), 40 * round);
    }
}

/// Whoever is not told what a server takes is given its connection all the same, after a while.
#[tokio::test]
async fn a_server_that_says_nothing_at_first_keeps_nobody_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let endpoint = Arc::new(endpoint(&url, prior));
    let calls = tokio::spawn({
        let endpoint = endpoint.clone();
        async move { calls_at_once(&endpoint, 5).await }
    });
    let (stream, _) = soon(listener.accept()).await.unwrap();
    until(|| endpoint.gauges().streams == 5).await;
    assert_eq!((endpoint.gauges().opened, endpoint.gauges().waiting), (1, 0));
    drop(stream);
    assert!(soon(calls).await.unwrap().iter().all(Result::is_err));
}

/// A limit that comes late, or changes, holds from then on.
#[tokio::test]
async fn a_limit_that_comes_late_is_kept_to() {
    const TWO_STREAMS: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let endpoint = Arc::new(endpoint(&url, prior));
    let one_more = || {
        let endpoint = endpoint.clone();
        tokio::spawn(async move { call(&endpoint).await })
    };
    let mut calls: Vec<_> = (0..5).map(|_| one_more()).collect();
    let (mut first, _) = soon(listener.accept()).await.unwrap();
    until(|| endpoint.gauges().streams == 5).await;
    first.write_all(&TWO_STREAMS).await.unwrap();
    // Those that it has stay, and as soon as it was heard no other is given to it.
    let mut accepting = std::pin::pin!(listener.accept());
    let second = soon(async {
        loop {
            calls.push(one_more());
            let wait = Duration::from_millis(10);
            if let Ok(accepted) = tokio::time::timeout(wait, &mut accepting).await {
                return accepted.unwrap();
            }
        }
    });
    drop(second.await);
    drop(first);
    for call in calls {
        assert!(soon(call).await.unwrap().is_err());
    }
}

/// What a server says behind an answer belongs to nobody: neither at once nor later.
#[tokio::test]
async fn words_that_nobody_asked_for_end_their_connection() {
    for later in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    http1::read_request(&mut stream).await?;
                    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned();
                    let stray = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray";
                    let (first, second) = match later {
                        false => (answer + stray, ""),
                        true => (answer, stray),
                    };
                    stream.write_all(first.as_bytes()).await.ok()?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    stream.write_all(second.as_bytes()).await.ok()?;
                    stream.read(&mut [0; 1]).await.ok()
                });
            }
        });
        let endpoint = endpoint(&url, |_| {});
        for calls in 1..=3 {
            assert_eq!(soon(call(&endpoint)).await.unwrap(), 2);
            until(|| endpoint.gauges().retired(Cause::ClosedByPeer) == calls).await;
        }
        assert_eq!(endpoint.gauges().opened, 3);
    }
}

#[tokio::test]
async fn a_storm_of_cancels_does_not_end_connections_under_others() {
    let delay = Duration::from_secs(2);
    let manners = http2::Manners { streams_max: Some(100), delay, ..Default::default() };
    let server = http2::Server::start(manners).await;
    let endpoint = Arc::new(endpoint(&server.url, prior));
    let kept = tokio::spawn({
        let endpoint = endpoint.clone();
        async move { call(&endpoint).await }
    });
    until(|| server.seen.requests.load(SeqCst) == 1).await;
    for round in 0..50_u64 {
        let sent: Vec<_> = (0..20)
            .map(|_| {
                let endpoint = endpoint.clone();
                tokio::spawn(async move { call(&endpoint).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(100 * (round % 7))).await;
        sent.iter().for_each(|call| call.abort());
        for call in sent {
            assert!(soon(call).await.is_err());
        }
    }
    assert_eq!(soon(kept).await.unwrap().unwrap(), 2);
    assert_eq!(server.seen.broken.load(SeqCst), 0, "{:?}", endpoint.gauges());
    assert!(endpoint.gauges().retired(Cause::Aborted) > 0);
}

/// Each connection announces its end with its first answer, while a second one still runs.
#[tokio::test]
async fn a_connection_that_goes_away_finishes_what_it_has() {
    let url = h2_server(|mut connection| async move {
        let mut first = None;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let head = http::Response::new(());
            let mut body = respond.send_response(head, false).unwrap();
            match first.take() {
                None => first = Some(body),
                Some(mut earlier) => {
                    connection.graceful_shutdown();
                    tokio::spawn(async move {
                        body.send_data(Bytes::from_static(b"two"), true).unwrap();
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        earlier.send_data(Bytes::from_static(b"first"), true).unwrap();
                    });
                }
            }
        }
    })
    .await;
    let endpoint = endpoint(&url, prior);
    for round in 1..4 {
        let first = send(&endpoint).await.unwrap();
        assert_eq!(call(&endpoint).await.unwrap(), 3);
        assert_eq!(finish(first).await.unwrap(), 5);
        assert_eq!(endpoint.gauges().opened, round);
    }
    assert_eq!(endpoint.gauges().streams, 0);
}

/// A connection that takes no second stream refuses it; the request finds another connection, and
/// both are told as what the provider saw.
#[tokio::test]
async fn a_stream_that_was_refused_for_its_connection_counts_as_a_request() {
    let seen = Arc::new(AtomicU64::new(0));
    let count = seen.clone();
    let url = h2_server(move |mut connection| {
        let count = count.clone();
        async move {
            let mut open = Vec::new();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                count.fetch_add(1, SeqCst);
                match open.is_empty() {
                    false => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    true => {
                        let head = http::Response::new(());
                        open.push(respond.send_response(head, false).unwrap());
                    }
                }
            }
        }
    })
    .await;
    let endpoint = endpoint(&url, prior);
    let _first = send(&endpoint).await.unwrap();
    let head = RequestHead::new("m", "/embeddings");
    let call = Call::new(&head, Bytes::from_static(b"{}"), Mode::Body, Flags::NONE);
    let progress = call.progress.clone();
    let answer = soon(endpoint.send(call)).await.unwrap();
    assert_eq!((answer.status, progress.attempts(), seen.load(SeqCst)), (200, 2, 3));
}

#[tokio::test]
async fn stalled_streams_leave_room_for_running_ones() {
    let manners = http2::Manners { bytes: 4 << 20, ..Default::default() };
    let server = http2::Server::start(manners).await;
    let endpoint = Arc::new(endpoint(&server.url, prior));
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut answer = send(&endpoint).await.unwrap();
        answer.body.chunk().await.unwrap();
        stalled.push(answer);
    }
    let answers = calls_at_once(&endpoint, 20).await;
    assert!(answers.iter().all(|answer| *answer == Ok(4 << 20)), "{answers:?}");
    assert_eq!(endpoint.gauges().open, 1);
    for answer in stalled {
        assert!(finish(answer).await.unwrap() < 4 << 20);
    }
}

#[tokio::test]
async fn a_stream_that_a_server_does_not_take_lets_its_body_go() {
    // Reads nothing at all, so not even a reset goes out.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", deaf.local_addr().unwrap());
    let endpoint = endpoint(&url, prior);
    for bytes in [100, 1 << 20, 32 << 20] {
        let body = Bytes::from(vec![b' '; bytes]);
        let sending = send_body(&endpoint, body.clone());
        assert!(tokio::time::timeout(Duration::from_millis(50), sending).await.is_err());
        let since = Instant::now();
        until(|| body.is_unique()).await;
        assert!(since.elapsed() < Duration::from_secs(1), "{bytes} {:?}", since.elapsed());
    }
}

/// A server answers the first request without having read its body, which then stands still; the
/// second request on the connection ends undisturbed, and the third gets another.
#[tokio::test]
async fn an_upload_that_stands_still_does_not_cut_others() {
    let url = h2_server(|mut connection| async move {
        let mut unread = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let length = &request.headers()["content-length"];
            let delay = if length.len() > 3 { 0 } else { 900 };
            unread.push(request);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                let head = http::Response::new(());
                let mut body = respond.send_response(head, false).unwrap();
                body.send_data(Bytes::from_static(b"ok"), true).unwrap();
                std::future::poll_fn(|cx| body.poll_reset(cx)).await
            });
        }
    })
    .await;
    let endpoint = Arc::new(endpoint(&url, prior));
    let second = {
        let endpoint = endpoint.clone();
        tokio::spawn(async move { call(&endpoint).await })
    };
    until(|| endpoint.gauges().open == 1).await;
    let large = Bytes::from(vec![b' '; 1 << 20]);
    finish(send_body(&endpoint, large.clone()).await.unwrap()).await.unwrap();
    assert_eq!(soon(second).await.unwrap().unwrap(), 2);
    until(|| large.is_unique()).await;
    assert_eq!(call(&endpoint).await.unwrap(), 2);
    assert_eq!(endpoint.gauges().opened, 2);
}

#[tokio::test]
async fn at_the_worst_gap_a_request_meets_no_closing_connection() {
    let idle = Some(Duration::from_millis(300));
    let server = http1::Server::start(http1::Manners { idle, ..Default::default() }).await;
    let endpoint = endpoint(&server.url, |_| {});
    let mut unclear = 0;
    for round in 0..12_u64 {
        match call(&endpoint).await {
            Ok(_) => {}
            // The server closed while the request was on its way: nobody can know.
            Err(error) => {
                assert_eq!(error.sent, Sent::Maybe, "{error}");
                unclear += 1;
            }
        }
        tokio::time::sleep(Duration::from_micros(296_000 + 700 * round)).await;
    }
    // The first close teaches, and it may be met itself.
    assert!(unclear <= 1, "{unclear} {:?}", endpoint.gauges());
}
