//! Whole exchanges over a wire that is told what comes, and how it is cut.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::connection::INTERIM_MAX;
use super::error::{ChunkFault, HeadFault};
use super::play;
use super::{Connection, Error, Unanswered};
use crate::body::RequestBody;
use crate::call::Progress;

/// What a read finds.
#[derive(Clone, Debug)]
enum Come {
    Bytes(Vec<u8>),
    /// Nothing yet; whoever asks is woken at once.
    Later,
    /// Nothing before something more is written.
    AfterWrite,
    End,
    Broken,
}

/// The other end of a connection.
#[derive(Debug, Default)]
struct Wire {
    comes: VecDeque<Come>,
    written: Vec<u8>,
    /// Bytes that are taken at most, in all.
    takes: Option<usize>,
    /// What is said to more.
    is_deaf: bool,
    reads: usize,
}

impl Wire {
    fn of(comes: impl IntoIterator<Item = Come>) -> Wire {
        Wire { comes: comes.into_iter().collect(), ..Wire::default() }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reads += 1;
        match self.comes.pop_front() {
            None => Poll::Pending,
            Some(Come::AfterWrite) => {
                self.comes.push_front(Come::AfterWrite);
                Poll::Pending
            }
            Some(Come::Later) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Come::End) => {
                self.comes.push_front(Come::End);
                Poll::Ready(Ok(()))
            }
            Some(Come::Broken) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(Come::Bytes(mut bytes)) => {
                let rest = bytes.split_off(bytes.len().min(buffer.remaining()));
                buffer.put_slice(&bytes);
                if !rest.is_empty() {
                    self.comes.push_front(Come::Bytes(rest));
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = self.takes.map_or(usize::MAX, |takes| takes - self.written.len());
        if room == 0 {
            return match self.is_deaf {
                true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                false => Poll::Pending,
            };
        }
        let bytes = &bytes[..bytes.len().min(room)];
        self.written.extend_from_slice(bytes);
        if let Some(Come::AfterWrite) = self.comes.front() {
            self.comes.pop_front();
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn request(body: &'static [u8]) -> Request<RequestBody> {
    let body = RequestBody::new(vec![Bytes::from_static(body)], Progress::default());
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("/v1/x?y");
    request
}

/// An answer as it was read: its body, and how that broke.
type Read = (Response<()>, Vec<u8>, Option<Error>);

/// Sends a request, and reads what comes. Nothing here waits for anything but its own waker.
fn exchange(connection: &mut Connection<Wire>, body: &'static [u8]) -> Result<Read, Unanswered> {
    let head = wait(connection.send(request(body)))?;
    let (mut read, mut error) = (Vec::new(), None);
    while let Some(chunk) = wait(poll_fn(|cx| connection.poll_body(cx))) {
        match chunk {
            Ok(bytes) => {
                assert!(!bytes.is_empty());
                read.extend_from_slice(&bytes);
            }
            Err(broken) => error = Some(broken),
        }
    }
    Ok((head, read, error))
}

fn wait<T>(waiting: impl Future<Output = T>) -> T {
    let mut waiting = pin!(waiting);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        if let Poll::Ready(ready) = waiting.as_mut().poll(&mut cx) {
            return ready;
        }
    }
    panic!("nothing comes any more")
}

/// One answer over a fresh connection, which begins when the request was written.
fn answered(bytes: &[u8], then: Come) -> (Result<Read, Unanswered>, Connection<Wire>) {
    let wire = Wire::of([Come::AfterWrite, Come::Bytes(bytes.to_vec()), then]);
    let mut connection = Connection::new(wire);
    (exchange(&mut connection, b"{}"), connection)
}

fn is_ready(connection: &mut Connection<Wire>) -> bool {
    wait(poll_fn(|cx| connection.poll_ready(cx)))
}

#[derive(Clone, Debug)]
struct Chunk {
    data: Vec<u8>,
    extension: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Framed {
    Chunks,
    Length,
    UntilClose,
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let data = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 1..200),
        1 => prop::collection::vec(any::<u8>(), 1..40_000),
    ];
    let extension = prop::sample::select(vec!["", ";a=b", "; q=\"x y\""]);
    (data, extension).prop_map(|(data, extension)| Chunk { data, extension })
}

fn message(chunks: &[Chunk], framed: Framed, trailer: &str) -> Vec<u8> {
    let body: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.data.clone()).collect();
    let (head, body) = match framed {
        Framed::Length => (format!("content-length: {}\r\n", body.len()), body),
        Framed::UntilClose => (String::new(), body),
        Framed::Chunks => {
            let mut coded = Vec::new();
            for Chunk { data, extension } in chunks {
                coded.extend_from_slice(format!("{:x}{extension}\r\n", data.len()).as_bytes());
                coded.extend_from_slice(data);
                coded.extend_from_slice(b"\r\n");
            }
            coded.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
            ("transfer-encoding: chunked\r\n".to_owned(), coded)
        }
    };
    [format!("HTTP/1.1 200 OK\r\nx-a: b\r\n{head}\r\n").into_bytes(), body].concat()
}

/// The bytes cut where `cuts` say, with a pause behind some of the cuts.
fn cut(bytes: &[u8], cuts: &[(prop::sample::Index, bool)]) -> Vec<Come> {
    let mut places: Vec<(usize, bool)> =
        cuts.iter().map(|(index, pauses)| (index.index(bytes.len() + 1), *pauses)).collect();
    places.push((bytes.len(), false));
    places.sort_unstable();
    let (mut comes, mut from) = (Vec::new(), 0);
    for (place, pauses) in places {
        if place > from {
            comes.push(Come::Bytes(bytes[from..place].to_vec()));
        }
        if pauses {
            comes.push(Come::Later);
        }
        from = place;
    }
    comes
}

proptest! {
    #[test]
    fn http1_bodies_are_the_same_however_they_are_framed_and_cut(
        chunks in prop::collection::vec(chunk(), 0..60),
        framed in prop::sample::select(vec![Framed::Chunks, Framed::Length, Framed::UntilClose]),
        trailer in prop::sample::select(vec!["", "x-t: 1\r\n", "a: b\r\nc: d\r\n"]),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..40),
    ) {
        let comes = cut(&message(&chunks, framed, trailer), &cuts);
        let mut wire = Wire::of([Come::AfterWrite]);
        wire.comes.extend(comes);
        if let Framed::UntilClose = framed {
            wire.comes.push_back(Come::End);
        }
        let mut connection = Connection::new(wire);
        let (head, body, error) = exchange(&mut connection, b"{}").unwrap();
        prop_assert_eq!(&head.headers()["x-a"], "b");
        prop_assert!(error.is_none(), "{:?}", error);
        let sent: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.data.clone()).collect();
        prop_assert!(body == sent, "{} of {} bytes", body.len(), sent.len());
        prop_assert_eq!(is_ready(&mut connection), !matches!(framed, Framed::UntilClose));
    }

    #[test]
    fn http1_whatever_comes_ends_and_is_never_taken_for_whole(
        chunks in prop::collection::vec(chunk(), 0..20),
        is_chunked in any::<bool>(),
        end in any::<prop::sample::Index>(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..20),
    ) {
        let framed = if is_chunked { Framed::Chunks } else { Framed::Length };
        let whole = message(&chunks, framed, "");
        let part = &whole[..end.index(whole.len())];
        let mut wire = Wire::of([Come::AfterWrite]);
        wire.comes.extend(cut(part, &cuts));
        wire.comes.push_back(Come::End);
        let mut connection = Connection::new(wire);
        match exchange(&mut connection, b"{}") {
            Err(Unanswered::Broken(Error::Headless)) => {}
            Ok((_, _, Some(Error::Cut))) => {}
            other => prop_assert!(false, "{other:?}"),
        }
        prop_assert!(!is_ready(&mut connection));
    }

    #[test]
    fn http1_answers_do_not_depend_on_how_they_are_cut(
        chunks in prop::collection::vec(chunk(), 0..10),
        framed in prop::sample::select(vec![Framed::Chunks, Framed::Length, Framed::UntilClose]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cuts in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut bytes = message(&chunks, framed, "x: y\r\n");
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        play::play(&[&[cuts.len() as u8][..], &cuts, &bytes].concat());
    }

    #[test]
    fn http1_noise_is_read_to_its_end_within_bounds(
        chunks in prop::collection::vec(chunk(), 0..10),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..10),
    ) {
        let mut bytes = message(&chunks, Framed::Chunks, "x: y\r\n");
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let mut wire = Wire::of([Come::AfterWrite]);
        wire.comes.extend(cut(&bytes, &cuts));
        wire.comes.push_back(Come::End);
        let mut connection = Connection::new(wire);
        if let Ok((_, body, _)) = exchange(&mut connection, b"{}") {
            prop_assert!(body.len() <= bytes.len());
        }
    }
}

#[test]
fn http1_a_burst_of_chunks_leaves_in_few_pieces_and_its_memory_with_it() {
    let chunks = vec![Chunk { data: vec![b'x'; 120], extension: "" }; 2000];
    let message = message(&chunks, Framed::Chunks, "");
    let mut connection =
        Connection::new(Wire::of([Come::AfterWrite, Come::Bytes(message), Come::Later]));
    wait(connection.send(request(b"{}"))).unwrap();
    let mut sizes = Vec::new();
    while let Some(piece) = wait(poll_fn(|cx| connection.poll_body(cx))) {
        sizes.push(piece.unwrap().len());
    }
    assert_eq!(sizes.iter().sum::<usize>(), 240_000);
    assert!(sizes.iter().all(|size| *size <= 16 * 1024), "{sizes:?}");
    assert!(sizes.len() <= 24, "{sizes:?}");
    assert!(connection.memory() <= 16 * 1024, "an unused connection keeps little");
    assert!(is_ready(&mut connection));
}

#[test]
fn http1_a_request_is_written_as_it_is_meant() {
    let (read, mut connection) =
        answered(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Come::Later);
    read.unwrap();
    let written = "POST /v1/x?y HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(str::from_utf8(&connection.io().written), Ok(written));
    let mut get = Request::new(RequestBody::new(Vec::new(), Progress::default()));
    *get.uri_mut() = Uri::from_static("http://host:81/v1/models");
    get.headers_mut().insert("x-a", "b".parse().unwrap());
    connection.io_mut().written.clear();
    connection.io_mut().comes =
        [Come::AfterWrite, Come::Bytes(b"HTTP/1.1 204 X\r\n\r\n".to_vec())].into();
    wait(connection.send(get)).unwrap();
    let written = "GET http://host:81/v1/models HTTP/1.1\r\nx-a: b\r\n\r\n";
    assert_eq!(str::from_utf8(&connection.io().written), Ok(written), "the form for proxies");
}

#[test]
fn http1_heads_say_where_a_body_ends_or_are_refused() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(INTERIM_MAX as usize + 1);
    for (text, fault) in [
        (&*long, HeadFault::TooLong),
        (&*interim, HeadFault::Interim),
        ("HTTP/1.1 101 X\r\n\r\n", HeadFault::Switched),
        ("HTTP/1.1 099 X\r\n\r\n", HeadFault::Status),
        ("HTTP/1.1 200 X\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n", HeadFault::Length),
        ("HTTP/1.1 200 X\r\ncontent-length: +2\r\n\r\n", HeadFault::Length),
        ("HTTP/1.1 200 X\r\ncontent-length: 2, 2\r\n\r\n", HeadFault::Length),
        ("HTTP/1.1 200 X\r\ncontent-length: 99999999999999999999\r\n\r\n", HeadFault::Length),
        ("HTTP/1.1 200 X\r\ntransfer-encoding: gzip, chunked\r\n\r\n", HeadFault::Coding),
        ("HTTP/1.1 200 X\r\ntransfer-encoding: chunked, chunked\r\n\r\n", HeadFault::Coding),
        ("HTTP/1.0 200 X\r\ntransfer-encoding: chunked\r\n\r\n", HeadFault::Coding),
        ("HTTP/2.0 200 X\r\n\r\n", HeadFault::Syntax(httparse::Error::Version)),
        ("{}\r\n\r\n", HeadFault::Syntax(httparse::Error::Version)),
        ("no line", HeadFault::Syntax(httparse::Error::Version)),
        ("HTTP/2", HeadFault::Syntax(httparse::Error::Version)),
        ("SSH-2.0-x", HeadFault::Syntax(httparse::Error::Version)),
        ("\x15\x03\x01\0\x02\x02\x46", HeadFault::Syntax(httparse::Error::Version)),
        ("\n\n\n\n\n\n\n\n\n", HeadFault::Syntax(httparse::Error::Version)),
        ("HTTP/1.1 200 X\r\na : b\r\n\r\n", HeadFault::Syntax(httparse::Error::HeaderName)),
        ("HTTP/1.1 200 X\r\na: b\r\n c\r\n\r\n", HeadFault::Syntax(httparse::Error::HeaderName)),
    ] {
        let (read, _) = answered(text.as_bytes(), Come::Later);
        match read {
            Err(Unanswered::Broken(Error::Head(found))) => assert_eq!(found, fault, "{text:.60}"),
            other => panic!("{text:.60}: {other:?}"),
        }
    }
    for (text, then, body) in [
        ("HTTP/1.1 204 X\r\ncontent-length: 5\r\n\r\n", Come::Later, ""),
        ("HTTP/1.1 200 X\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab", Come::Later, "ab"),
        ("HTTP/1.1 200\r\ncontent-length: 1\r\n\r\na", Come::Later, "a"),
        ("\r\nHTTP/1.1 200 X\ncontent-length: 1\n\na", Come::Later, "a"),
        ("HTTP/1.1 100 X\r\n\r\nHTTP/1.1 200 X\r\ncontent-length: 1\r\n\r\na", Come::Later, "a"),
        (
            "HTTP/1.1 200 X\r\ncontent-length: 9\r\ntransfer-encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            Come::Later,
            "a",
        ),
        (
            "\r\n\r\nHTTP/1.1 200 X\r\ntransfer-encoding: , chunked,\r\n\r\n1\r\na\r\n0\r\n\r\n",
            Come::Later,
            "a",
        ),
        ("HTTP/1.1 200 X\r\ntransfer-encoding: identity\r\n\r\nabc", Come::End, "abc"),
        ("HTTP/1.0 200 X\r\n\r\nabc", Come::End, "abc"),
    ] {
        let (_, read, error) = answered(text.as_bytes(), then).0.unwrap();
        assert_eq!((str::from_utf8(&read), error.is_none()), (Ok(body), true), "{text}");
    }
}

#[test]
fn http1_faulty_chunks_break_the_body_behind_what_was_good() {
    let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(4000));
    let line = format!("1;{}\r\nx\r\n", "e".repeat(5000));
    let lines = format!("1;{}\r\n", "e".repeat(4000)).repeat(5).replace("\r\n", "\r\nx\r\n");
    for (text, fault) in [
        ("5\r\nhello\r\nzz\r\n", ChunkFault::Size),
        ("5\r\nhello\r\n11112222333344445\r\n", ChunkFault::Size),
        // Not the last chunk, whatever stands behind it.
        ("5\r\nhello\r\n\r\n\r\n", ChunkFault::Size),
        ("5\r\nhello\r\n \r\n\r\n", ChunkFault::Size),
        ("5\r\nhello\r\n;x\r\n\r\n", ChunkFault::Size),
        ("5\r\nhello\r\n-1\r\n\r\n", ChunkFault::Size),
        ("5\r\nhello!\r\n", ChunkFault::End),
        ("5\r\nhello\r\n2;a\nb\r\nxx\r\n0\r\n\r\n", ChunkFault::Line),
        ("5\r\nhello\r\n2;a\rb\r\nxx\r\n0\r\n\r\n", ChunkFault::Line),
        ("5\r\nhello\r\n0\r\nno trailer\n\n", ChunkFault::Line),
        (&format!("5\r\nhello\r\n{trailers}"), ChunkFault::Extra),
        (&format!("5\r\nhello\r\n{line}"), ChunkFault::Extra),
    ] {
        let text = format!("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n{text}");
        let (read, mut connection) = answered(text.as_bytes(), Come::Later);
        let (_, read, error) = read.unwrap();
        assert_eq!(read, b"hello", "{text:.80}");
        assert!(matches!(error, Some(Error::Chunk(found)) if found == fault), "{error:?}");
        assert!(!is_ready(&mut connection));
    }
    let text = format!("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n{lines}");
    let (_, read, error) = answered(text.as_bytes(), Come::Later).0.unwrap();
    let told = matches!(error, Some(Error::Chunk(ChunkFault::Extra)));
    assert_eq!((read, told), (b"xxxx".to_vec(), true), "the sum is bounded, too");
}

/// The server ends the connection just when its next request is given to it.
#[test]
fn http1_a_connection_that_ends_before_a_request_has_sent_nothing_of_it() {
    for end in [Come::End, Come::Broken, Come::Bytes(b"HTTP/1.1 408 X\r\n\r\n".to_vec())] {
        let (read, mut connection) =
            answered(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Come::Later);
        read.unwrap();
        assert!(is_ready(&mut connection));
        connection.io_mut().written.clear();
        connection.io_mut().comes.push_back(end);
        assert!(matches!(exchange(&mut connection, b"{}"), Err(Unanswered::Unsent)));
        assert!(connection.io().written.is_empty());
        assert!(!is_ready(&mut connection));
    }
}

#[test]
fn http1_a_connection_on_which_anything_was_said_unasked_never_serves_again() {
    let (read, mut connection) =
        answered(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Come::Later);
    read.unwrap();
    connection.io_mut().comes = [Come::Later, Come::Bytes(b"\n".to_vec()), Come::Later].into();
    assert_eq!([(); 3].map(|()| is_ready(&mut connection)), [true, false, false]);
}

/// While the connection takes nothing of a request, the request is still to come for the server:
/// what it says then is no answer.
#[test]
fn http1_what_is_said_before_a_request_has_gone_out_is_no_answer() {
    let late = b"HTTP/1.1 408 X\r\ncontent-length: 0\r\n\r\n".to_vec();
    let wire = Wire::of([Come::Later, Come::Later, Come::Bytes(late)]);
    let mut connection = Connection::new(Wire { takes: Some(0), ..wire });
    assert!(matches!(exchange(&mut connection, b"{}"), Err(Unanswered::Unsent)));
    assert!(connection.io().written.is_empty());
}

/// The runtime shows every connection as silent to a task that has run for long.
#[tokio::test]
async fn http1_a_connection_is_not_taken_for_silent_unseen() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let io = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut connection = Connection::new(io);
    server.write_all(b"HTTP/1.1 408 X\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    connection.io().readable().await.unwrap();
    tokio::task::yield_now().await;
    let mut looks = 0;
    let is_ready = poll_fn(|cx| {
        looks += 1;
        if looks == 1 {
            use_budget_up(cx);
        }
        connection.poll_ready(cx)
    });
    assert!(!is_ready.await, "the server has said good-bye");
    assert_eq!(looks, 2, "it could not be told at once");

    let io = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut connection = Connection::new(io);
    assert!(poll_fn(|cx| connection.poll_ready(cx)).await);
    server.write_all(b"HTTP/1.1 408 X\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    connection.io().readable().await.unwrap();
    tokio::task::yield_now().await;
    let sent = {
        let mut sending = pin!(connection.send(request(b"{}")));
        let mut looks = 0;
        poll_fn(|cx| {
            looks += 1;
            if looks == 1 {
                use_budget_up(cx);
            }
            sending.as_mut().poll(cx)
        })
        .await
    };
    assert!(matches!(sent, Err(Unanswered::Unsent)), "{sent:?}");
    drop(connection);
    let mut got = Vec::new();
    // With what is unread the connection ends by a reset.
    let _ = server.read_to_end(&mut got).await;
    assert!(got.is_empty(), "{got:?}");
}

fn use_budget_up(cx: &mut Context<'_>) {
    // Bound: more than any budget.
    for _ in 0..10_000 {
        if pin!(tokio::task::coop::consume_budget()).poll(cx).is_pending() {
            return;
        }
    }
    panic!("the budget has no end");
}

#[test]
fn http1_an_answer_counts_that_came_before_its_request_was_taken() {
    let answer = b"HTTP/1.1 413 X\r\ncontent-length: 3\r\n\r\nbig".to_vec();
    // It may also be on its way still when the server stops to read.
    for (is_deaf, pauses) in [(false, 0), (true, 0), (true, 1), (true, 5)] {
        let mut wire = Wire::of([Come::AfterWrite]);
        wire.comes.extend(vec![Come::Later; pauses]);
        wire.comes.extend([Come::Bytes(answer.clone()), Come::Later]);
        let mut connection = Connection::new(Wire { takes: Some(20), is_deaf, ..wire });
        let (head, body, error) = exchange(&mut connection, b"{\"a\":1}").unwrap();
        assert_eq!((head.status().as_u16(), &*body, error.is_none()), (413, &b"big"[..], true));
        assert!(!is_ready(&mut connection), "its request is not whole");
    }
    for (then, pauses) in [(Come::End, 0), (Come::Broken, 3)] {
        let mut wire = Wire::of([Come::AfterWrite]);
        wire.comes.extend(vec![Come::Later; pauses]);
        wire.comes.push_back(then);
        let mut connection = Connection::new(Wire { takes: Some(20), is_deaf: true, ..wire });
        let broken = exchange(&mut connection, b"{\"a\":1}").map(|_| ());
        let Err(Unanswered::Broken(Error::Io(error))) = broken else { panic!("{broken:?}") };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "what went wrong first");
    }
}

/// Whoever knows the length does not ask for an end behind the last byte.
#[test]
fn http1_a_connection_is_free_with_the_last_byte_of_its_answer() {
    for body in
        ["content-length: 2\r\n\r\n{}", "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]
    {
        let text = format!("HTTP/1.1 200 X\r\n{body}");
        let wire = Wire::of([Come::AfterWrite, Come::Bytes(text.into_bytes()), Come::Later]);
        let mut connection = Connection::new(wire);
        wait(connection.send(request(b"{}"))).unwrap();
        assert!(!is_ready(&mut connection));
        assert_eq!(wait(poll_fn(|cx| connection.poll_body(cx))).unwrap().unwrap(), b"{}"[..]);
        assert!(is_ready(&mut connection), "{body}");
        assert!(wait(poll_fn(|cx| connection.poll_body(cx))).is_none());
    }
    let wire = Wire::of([
        Come::AfterWrite,
        Come::Bytes(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n".to_vec()),
        Come::Later,
    ]);
    let mut connection = Connection::new(wire);
    wait(connection.send(request(b"{}"))).unwrap();
    assert!(is_ready(&mut connection), "there is no body to read");
}

#[test]
fn http1_memory_for_a_burst_goes_when_the_burst_is_over() {
    // A long head that came slowly.
    let head = format!("HTTP/1.1 200 X\r\ncontent-length: 0\r\nx: {}\r\n\r\n", "y".repeat(60_000));
    let mut wire = Wire::of([Come::AfterWrite]);
    wire.comes.extend(head.as_bytes().chunks(1000).map(|part| Come::Bytes(part.to_vec())));
    let mut connection = Connection::new(wire);
    wait(connection.send(request(b"{}"))).unwrap();
    assert!(is_ready(&mut connection));
    assert_eq!(connection.memory(), 0);
    // A burst, and then one token after the other.
    let part = |bytes| format!("{bytes:x}\r\n{}\r\n", "x".repeat(bytes)).into_bytes();
    let mut wire = Wire::of([Come::AfterWrite]);
    let head = "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n";
    wire.comes.push_back(Come::Bytes([head.as_bytes(), &part(300_000)].concat()));
    wire.comes.extend(vec![Come::Bytes(part(100)); 200]);
    let mut connection = Connection::new(wire);
    wait(connection.send(request(b"{}"))).unwrap();
    let (mut read, mut most) = (0, 0);
    while read < 300_000 + 200 * 100 {
        read += wait(poll_fn(|cx| connection.poll_body(cx))).unwrap().unwrap().len();
        most = most.max(connection.memory());
    }
    assert!((64 * 1024..=128 * 1024).contains(&most), "{most}");
    assert!(connection.memory() <= 16 * 1024, "{}", connection.memory());
}

#[test]
fn http1_nothing_that_is_shown_of_a_connection_holds_its_key() {
    let mut connection = Connection::new(Wire::of([Come::AfterWrite, Come::Later]));
    let mut request = request(b"{}");
    request.headers_mut().insert("authorization", "Bearer sk-secret".parse().unwrap());
    {
        let mut sending = pin!(connection.send(request));
        assert!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    assert!(str::from_utf8(&connection.io().written).unwrap().contains("sk-secret"));
    let shown = format!("{connection:?}");
    let bytes = format!("{:?}", b"sk-secret");
    assert!(!shown.contains("sk-secret") && !shown.contains(bytes.trim_matches(['[', ']'])));
    assert!(shown.contains("head_bytes"), "{shown}");
}

#[test]
fn http1_an_upload_goes_on_beside_its_answer() {
    let answer = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n".to_vec();
    let wire = Wire::of([Come::AfterWrite, Come::Bytes(answer), Come::Later]);
    let mut connection = Connection::new(Wire { takes: Some(20), ..wire });
    wait(connection.send(request(b"{\"a\":1}"))).unwrap();
    assert_eq!(wait(poll_fn(|cx| connection.poll_body(cx))).unwrap().unwrap(), b"a"[..]);
    connection.io_mut().takes = None;
    connection.io_mut().comes.push_back(Come::Bytes(b"0\r\n\r\n".to_vec()));
    assert!(wait(poll_fn(|cx| connection.poll_body(cx))).is_none());
    assert!(connection.io().written.ends_with(b"{\"a\":1}"));
    assert!(is_ready(&mut connection));
}

#[test]
fn http1_of_a_request_that_was_given_up_nothing_goes_out() {
    let progress = Progress::default();
    progress.restart(crate::call::Phase::Connecting);
    progress.give_up();
    let mut connection = Connection::new(Wire::default());
    let body = RequestBody::new(vec![Bytes::from_static(b"{}")], progress);
    let answer = wait(connection.send(Request::new(body)));
    assert!(matches!(answer, Err(Unanswered::Broken(Error::GivenUp(_)))));
    assert!(connection.io().written.is_empty());
}

#[test]
fn http1_what_breaks_is_told_as_what_it_is() {
    let (read, _) = answered(b"HTTP/1.1 200 X\r\ncontent-le", Come::Broken);
    assert!(matches!(read, Err(Unanswered::Broken(Error::Io(_)))));
    let (read, _) = answered(b"HTTP/1.1 200 X\r\ncontent-le", Come::End);
    assert!(matches!(read, Err(Unanswered::Broken(Error::Headless))));
    let (read, _) = answered(b"HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\nabc", Come::Broken);
    assert!(matches!(read, Ok((_, body, Some(Error::Io(_)))) if body == b"abc"));
    let (read, mut connection) =
        answered(b"HTTP/1.1 200 X\r\ncontent-length: 1\r\n\r\nabc", Come::Later);
    assert!(matches!(read, Ok((_, body, None)) if body == b"a"));
    assert!(!is_ready(&mut connection), "nobody asked for the rest");
}
