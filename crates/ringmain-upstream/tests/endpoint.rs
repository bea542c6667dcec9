//! Endpoints against a raw TCP server that answers byte for byte what a test tells it.
#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use std::io::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ringmain_upstream::{
    Answer, Call, Endpoint, EndpointConfig, Http2, KeySource, Piece, Progress, Stored,
    UpstreamError,
};
use ringmain_wire::head::Method;
use ringmain_wire::{Code, Flags, Kind, Mode, RequestHead, Sent, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One answer: its parts, written one after the other, and what becomes of the connection.
#[derive(Clone)]
struct Script {
    parts: Vec<Vec<u8>>,
    then: Then,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Keep,
    Close,
    Reset,
}

fn answer(text: impl AsRef<[u8]>, then: Then) -> Script {
    Script { parts: vec![text.as_ref().to_vec()], then }
}

fn json(status: u16, body: &str) -> Script {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    answer(head + body, Then::Keep)
}

fn chunked(headers: &str, chunks: &[&[u8]], end: &str, then: Then) -> Script {
    let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{headers}\r\n");
    let mut parts = vec![head.into_bytes()];
    for chunk in chunks {
        let size = format!("{:x}\r\n", chunk.len());
        parts.push([size.as_bytes(), chunk, b"\r\n"].concat());
    }
    parts.push(end.as_bytes().to_vec());
    Script { parts, then }
}

const EVENTS: &str = "content-type: text/event-stream\r\n";
const HELLO: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// A server that gives the answers in order, over as many connections as it takes. What it was
/// sent can be read afterwards.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    async fn start(scripts: Vec<Script>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let server = Server { address, requests: Arc::default(), connections: Arc::default() };
        let (requests, connections) = (server.requests.clone(), server.connections.clone());
        let scripts = Arc::new(Mutex::new(scripts.into_iter()));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *connections.lock().unwrap() += 1;
                tokio::spawn(serve(stream, scripts.clone(), requests.clone()));
            }
        });
        server
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(EndpointConfig::new("test", &self.address)).unwrap()
    }

    fn request(&self, at: usize) -> String {
        self.requests.lock().unwrap()[at].clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    scripts: Arc<Mutex<std::vec::IntoIter<Script>>>,
    requests: Arc<Mutex<Vec<String>>>,
) {
    stream.set_nodelay(true).unwrap();
    while let Some(request) = read_request(&mut stream).await {
        requests.lock().unwrap().push(request);
        let Some(script) = scripts.lock().unwrap().next() else { return };
        for part in script.parts {
            if stream.write_all(&part).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        match script.then {
            Then::Keep => {}
            Then::Close => return,
            Then::Reset => {
                stream.set_zero_linger().unwrap();
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return Some(text);
        }
    }
}

fn chat() -> RequestHead<'static> {
    RequestHead::new("tiny", "/chat/completions")
}

async fn send(
    endpoint: &Endpoint,
    mode: Mode,
    body: &'static str,
) -> Result<Box<Answer>, UpstreamError> {
    let head = chat();
    endpoint.send(Call::new(&head, Bytes::from_static(body.as_bytes()), mode, Flags::NONE)).await
}

/// Kinds and payloads of all pieces, and the error that came instead of a good end.
async fn read(mut answer: Box<Answer>) -> (Vec<(Kind, Vec<u8>)>, Option<UpstreamError>) {
    let mut decoder = answer.decoder();
    let mut pieces = Vec::new();
    loop {
        loop {
            match decoder.next() {
                Ok(Some(Piece { kind, payload, .. })) => pieces.push((kind, payload.to_vec())),
                Ok(None) => break,
                Err(error) => return (pieces, Some(error)),
            }
        }
        if decoder.is_ended() {
            answer.body.settle().await;
            return (pieces, None);
        }
        match answer.body.chunk().await {
            Ok(Some(chunk)) => decoder.feed(chunk),
            Ok(None) => decoder.end_of_body(),
            Err(error) => {
                if let Err(error) = decoder.broken(error) {
                    return (pieces, Some(error));
                }
            }
        }
    }
}

/// What one answer leads to in mode deltas: the text and the code.
async fn outcome(script: Script) -> (String, Option<Code>) {
    let server = Server::start(vec![script]).await;
    let (pieces, error) = match send(&server.endpoint(), Mode::Deltas, "{}").await {
        Ok(answer) => read(answer).await,
        Err(error) => (Vec::new(), Some(error)),
    };
    let text = pieces.into_iter().filter(|(kind, _)| *kind == Kind::Delta);
    (text_of(text), error.map(|error| error.code))
}

fn text_of(pieces: impl IntoIterator<Item = (Kind, Vec<u8>)>) -> String {
    let text = pieces.into_iter().flat_map(|(_, payload)| payload);
    String::from_utf8(text.collect()).unwrap()
}

#[tokio::test]
async fn streams_end_well_or_tell_how_they_broke() {
    let hello = || "hello".to_owned();
    let end = "0\r\n\r\n";
    let good = chunked(EVENTS, &[HELLO, DONE], end, Then::Keep);
    assert_eq!(outcome(good).await, (hello(), None));
    let unmarked = chunked(EVENTS, &[HELLO], end, Then::Keep);
    assert_eq!(outcome(unmarked).await, (hello(), Some(Code::UpstreamTruncated)));
    let cut = chunked(EVENTS, &[HELLO], "", Then::Close);
    assert_eq!(outcome(cut).await, (hello(), Some(Code::UpstreamTruncated)));
    let cut = chunked(EVENTS, &[HELLO], "ff\r\ndata: {", Then::Close);
    assert_eq!(outcome(cut).await, (hello(), Some(Code::UpstreamTruncated)));
    let wrong = chunked(EVENTS, &[HELLO], "zz\r\n", Then::Close);
    assert_eq!(outcome(wrong).await, (hello(), Some(Code::UpstreamProtocol)));
}

#[tokio::test]
async fn plain_answers_are_read_and_their_framing_judged() {
    let body = r#"{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}"#;
    assert_eq!(outcome(json(200, body)).await, ("hello".into(), None));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n";
    let short = answer(format!("{head}{body}"), Then::Close);
    assert_eq!(outcome(short).await.1, Some(Code::UpstreamTruncated));
    let empty = answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Keep);
    assert_eq!(outcome(empty).await.1, Some(Code::UpstreamProtocol));
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 3\r\n\r\n<p>";
    assert_eq!(outcome(answer(page, Then::Keep)).await.1, Some(Code::UpstreamProtocol));
    let early = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    let Script { parts, then } = json(200, body);
    let hinted = Script { parts: [vec![early.as_bytes().to_vec()], parts].concat(), then };
    assert_eq!(outcome(hinted).await, ("hello".into(), None));
}

#[tokio::test]
async fn an_error_status_keeps_its_words_and_a_redirect_is_one() {
    let refusal = "HTTP/1.1 429 X\r\nretry-after: 1.5\r\nx-request-id: req_7\r\n\
        content-type: application/json\r\ncontent-length: 50\r\n\r\n\
        {\"error\":{\"message\":\"slow down\",\"code\":\"limit_1\"}}";
    let moved = "HTTP/1.1 302 X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let server = Server::start(vec![answer(refusal, Then::Keep), answer(moved, Then::Keep)]).await;
    let endpoint = server.endpoint();
    let answer = send(&endpoint, Mode::Deltas, "{}").await.unwrap();
    assert_eq!((answer.status, answer.retry_after_ms), (429, Some(1500)));
    assert_eq!(answer.request_id.as_deref(), Some("req_7"));
    let error = read(answer).await.1.unwrap();
    assert_eq!((error.code, error.http_status), (Code::UpstreamStatus, Some(429)));
    assert_eq!((error.provider_code.as_str(), error.retry_after_ms), ("limit_1", Some(1500)));
    assert!(error.message.contains("slow down"), "{error}");
    let answer = send(&endpoint, Mode::Events, "{}").await.unwrap();
    assert_eq!(answer.status, 302);
    assert_eq!(read(answer).await, (Vec::new(), None));
}

#[tokio::test]
async fn a_connection_that_breaks_proves_only_what_it_proves() {
    for then in [Then::Close, Then::Reset] {
        let server = Server::start(vec![answer("", then)]).await;
        let error = send(&server.endpoint(), Mode::Deltas, "{}").await.unwrap_err();
        assert_eq!((error.code, error.sent), (Code::UpstreamReset, Sent::Maybe), "{error}");
        assert!(error.stage >= Stage::Send, "{error:?}");
    }
    let reset = chunked(EVENTS, &[HELLO], "", Then::Reset);
    let (_, code) = outcome(reset).await;
    // The reset may overtake the bytes, but never looks like a good end.
    assert!(matches!(code, Some(Code::UpstreamReset | Code::UpstreamTruncated)), "{code:?}");
    assert_eq!(
        outcome(answer("no http at all\r\n\r\n", Then::Close)).await.1,
        Some(Code::UpstreamProtocol)
    );
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let address = |text: String| Endpoint::new(EndpointConfig::new("test", text)).unwrap();
    let refused = address(format!("http://{closed}"));
    let nameless = address("http://no-such-host.invalid/v1".into());
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let without_tls = address(format!("https://{}", plain.local_addr().unwrap()));
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
    });
    for (endpoint, code) in [
        (refused, Code::UpstreamConnect),
        (nameless, Code::UpstreamDns),
        (without_tls, Code::UpstreamTls),
    ] {
        let head = chat();
        let call = Call::new(&head, Bytes::from_static(b"{}"), Mode::Deltas, Flags::NONE);
        let progress = call.progress.clone();
        let error = endpoint.send(call).await.unwrap_err();
        assert_eq!((error.code, error.sent), (code, Sent::No), "{error}");
        assert_eq!(error.stage, Stage::Connect);
        assert_eq!((progress.sent(), progress.stage()), (Sent::No, Stage::Connect));
    }
}

#[tokio::test]
async fn connections_are_used_again_and_counted() {
    let stream = chunked(EVENTS, &[HELLO, DONE], "0\r\n\r\n", Then::Keep);
    let server = Server::start(vec![stream; 20]).await;
    let endpoint = server.endpoint();
    for _ in 0..20 {
        let answer = send(&endpoint, Mode::Events, "{}").await.unwrap();
        let (pieces, error) = read(answer).await;
        assert_eq!((pieces.len(), error), (2, None));
        // The connection goes back into the pool in a task of the client.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    let stats = endpoint.stats();
    assert_eq!(stats.answers, 20);
    assert_eq!(stats.connections_opened as usize, *server.connections.lock().unwrap());
    assert!(stats.connections_reused >= 18, "{stats:?}");
}

#[tokio::test]
async fn requests_carry_what_they_must_and_nothing_else() {
    let key = tempfile::NamedTempFile::new().unwrap();
    writeln!(key.as_file(), "sk-canary").unwrap();
    let server = Server::start(vec![json(200, "{}"), json(200, "{}")]).await;
    let mut config = EndpointConfig::new("test", format!("{}/", server.address));
    config.key = KeySource::File(key.path().to_owned());
    let endpoint = Endpoint::new(config).unwrap();
    let mut head = RequestHead::new("tiny", "/embeddings?beta=true");
    head.headers = vec![("x-trace", "t1")];
    head.idempotency_key = Some("k1");
    let body = Bytes::from_static(b"{\"model\":\"tiny\",\"input\":\"x\"}");
    let mut call = Call::new(&head, body, Mode::Body, Flags::NONE);
    call.model = Some("upstream-name");
    endpoint.send(call).await.unwrap();
    let request = server.request(0);
    for line in [
        "POST /v1/embeddings?beta=true HTTP/1.1\r\n",
        "\r\nauthorization: Bearer sk-canary\r\n",
        "\r\nx-trace: t1\r\n",
        "\r\nidempotency-key: k1\r\n",
        "\r\ncontent-type: application/json\r\n",
        "\r\ncontent-length: 37\r\n",
        "\r\n\r\n{\"model\":\"upstream-name\",\"input\":\"x\"}",
    ] {
        assert!(request.contains(line), "{request} lacks {line}");
    }
    assert!(!format!("{endpoint:?}").contains("canary"));

    std::fs::write(key.path(), "sk-second").unwrap();
    endpoint.use_key(endpoint.read_key().unwrap());
    let mut head = RequestHead::new("tiny", "/models");
    head.method = Method::Get;
    endpoint.send(Call::new(&head, Bytes::new(), Mode::Body, Flags::NONE)).await.unwrap();
    let request = server.request(1);
    assert!(request.starts_with("GET /v1/models HTTP/1.1\r\n") && request.contains("sk-second"));
    assert!(!request.contains("content-length"), "{request}");
}

#[tokio::test]
async fn a_refusal_that_a_caller_provoked_changes_nothing_for_others() {
    let stream = chunked(EVENTS, &[HELLO, DONE], "0\r\n\r\n", Then::Keep);
    let echo = json(400, r#"{"error":{"message":"no such tool: stream_options"}}"#);
    let server = Server::start(vec![echo.clone(), echo.clone(), echo, stream]).await;
    let endpoint = server.endpoint();
    let head = chat();
    let call =
        |flags| Call::new(&head, Bytes::from_static(br#"{"stream":true}"#), Mode::Events, flags);
    // Bad without our words too, so they were not what was refused.
    let first = call(Flags::NONE);
    let progress = first.progress.clone();
    assert_eq!(endpoint.send(first).await.unwrap().status, 400);
    assert_eq!(progress.attempts(), 2);
    // What is to be done once is not repeated, whatever the refusal says.
    let once = call(Flags::ONCE);
    let progress = once.progress.clone();
    assert_eq!(endpoint.send(once).await.unwrap().status, 400);
    assert_eq!(progress.attempts(), 1);
    assert_eq!(endpoint.send(call(Flags::NONE)).await.unwrap().status, 200);
    let asked: Vec<bool> = (0..4).map(|at| server.request(at).contains("include_usage")).collect();
    assert_eq!(asked, [true, false, true, true]);
}

#[tokio::test]
async fn a_refusal_that_breaks_while_it_is_searched_is_still_broken() {
    let head = "HTTP/1.1 400 X\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n";
    let server = Server::start(vec![answer(format!("{head}{{\"error\":"), Then::Close)]).await;
    let answer = send(&server.endpoint(), Mode::Events, r#"{"stream":true}"#).await.unwrap();
    let (pieces, error) = read(answer).await;
    assert_eq!(pieces, [(Kind::Body, b"{\"error\":".to_vec())]);
    assert_eq!(error.map(|error| error.code), Some(Code::UpstreamTruncated));
}

#[tokio::test]
async fn a_plain_body_that_ends_with_its_connection_is_not_proven_whole() {
    let body = r#"{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}"#;
    let code = |script, mode| async move {
        let server = Server::start(vec![script]).await;
        read(send(&server.endpoint(), mode, "{}").await.unwrap()).await.1.map(|error| error.code)
    };
    let cut = |status: &str, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\n{headers}\r\n");
        answer([head.as_bytes(), body].concat(), Then::Close)
    };
    let json = "content-type: application/json\r\n";
    let coded = format!("{json}transfer-encoding: identity\r\n");
    for mode in [Mode::Deltas, Mode::Events, Mode::Body] {
        for headers in [json, &coded] {
            let script = cut("200 X", headers, body.as_bytes());
            assert_eq!(code(script, mode).await, Some(Code::UpstreamTruncated), "{mode:?}");
        }
        // With length or marker it is, and without a body there is nothing to prove.
        let length = format!("{json}content-length: {}\r\n", body.len());
        assert_eq!(code(cut("200 X", &length, body.as_bytes()), mode).await, None, "{mode:?}");
    }
    let stream = [HELLO, DONE].concat();
    for mode in [Mode::Deltas, Mode::Events, Mode::Body] {
        assert_eq!(code(cut("200 X", EVENTS, &stream), mode).await, None, "{mode:?}");
        let lost = code(cut("200 X", EVENTS, HELLO), mode).await;
        assert_eq!(lost, Some(Code::UpstreamTruncated), "{mode:?}");
    }
    assert_eq!(code(cut("204 X", "", b""), Mode::Body).await, None);
    // The status of a refusal stands without its words.
    let refused = code(cut("429 X", json, b"{"), Mode::Deltas).await;
    assert_eq!(refused, Some(Code::UpstreamStatus));
}

#[tokio::test]
async fn a_refused_credential_is_told_in_our_own_words() {
    let words = r#"{"error":{"message":"Incorrect key: sk-can*nary","code":"invalid_api_key"}}"#;
    let page = "HTTP/1.1 403 X\r\ncontent-type: text/html\r\ncontent-length: 900\r\n\r\n<p>sk-can";
    for mode in [Mode::Deltas, Mode::Events, Mode::Body] {
        let scripts = vec![json(401, words), answer(page, Then::Close), json(404, words)];
        let server = Server::start(scripts).await;
        let endpoint = server.endpoint();
        for (status, code) in [(401, "invalid_api_key"), (403, "")] {
            let answer = send(&endpoint, mode, "{}").await.unwrap();
            assert_eq!((answer.status, answer.content_type.as_str()), (status, "application/json"));
            let (pieces, error) = read(answer).await;
            let said = match (mode, error) {
                (Mode::Deltas, Some(error)) => {
                    assert_eq!(
                        (error.code, error.http_status),
                        (Code::UpstreamStatus, Some(status))
                    );
                    assert_eq!(error.provider_code, code);
                    error.message
                }
                (_, None) => text_of(pieces),
                (_, error) => panic!("{mode:?} {error:?}"),
            };
            assert!(said.contains("withheld") && !said.contains("sk-"), "{said}");
            assert!(mode == Mode::Deltas || said.contains(code), "{said}");
        }
        // Every other status keeps its words.
        let (pieces, error) = read(send(&endpoint, mode, "{}").await.unwrap()).await;
        let said = error.map_or(text_of(pieces), |error| error.message);
        assert!(said.contains("Incorrect key"), "{mode:?} {said}");
    }
}

#[tokio::test]
async fn what_the_provider_stored_is_kept_from_callers_unless_shared() {
    let server = Server::start(vec![json(200, "{}"); 4]).await;
    let mut config = EndpointConfig::new("test", &server.address);
    let refusing = Endpoint::new(config.clone()).unwrap();
    config.stored = Stored::Shared;
    let sharing = Endpoint::new(config).unwrap();
    let stored = [(Method::Delete, "/models/m"), (Method::Get, "/files"), (Method::Get, "/x/y?z")];
    for (method, path) in stored {
        let mut head = RequestHead::new("tiny", path);
        head.method = method;
        let call = Call::new(&head, Bytes::new(), Mode::Body, Flags::NONE);
        let error = refusing.send(call.clone()).await.unwrap_err();
        assert_eq!((error.code, error.sent), (Code::NotAllowed, Sent::No), "{path}");
        assert!(error.message.contains("stored = \"shared\""), "{error}");
        assert_eq!(sharing.send(call).await.unwrap().status, 200);
    }
    let mut head = RequestHead::new("tiny", "/models/tiny");
    head.method = Method::Get;
    let call = Call::new(&head, Bytes::new(), Mode::Body, Flags::NONE);
    assert_eq!(refusing.send(call).await.unwrap().status, 200);
    assert_eq!(server.requests.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn usage_is_asked_for_withheld_and_given_up_when_refused() {
    let usage =
        b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3}}\n\n";
    let stream = chunked(EVENTS, &[HELLO, usage, DONE], "0\r\n\r\n", Then::Keep);
    let refusal = json(422, r#"{"detail":"stream_options: extra fields not permitted"}"#);
    let scripts = vec![stream.clone(), refusal, stream.clone(), stream];
    let server = Server::start(scripts).await;
    let endpoint = server.endpoint();
    let body = r#"{"stream":true}"#;

    let (pieces, error) = read(send(&endpoint, Mode::Events, body).await.unwrap()).await;
    assert_eq!(error, None);
    let kinds: Vec<Kind> = pieces.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::Event, Kind::Event, Kind::Usage]);
    assert_eq!((pieces[0].1.as_slice(), pieces[1].1.as_slice()), (HELLO, DONE));
    assert!(server.request(0).contains("include_usage"));

    // Refused once, sent again without, and not tried any more.
    let (pieces, _) = read(send(&endpoint, Mode::Events, body).await.unwrap()).await;
    assert_eq!(pieces[1].1, usage, "what was not provoked is not withheld");
    assert!(server.request(1).contains("include_usage"));
    assert!(server.request(2).ends_with(body));
    send(&endpoint, Mode::Events, body).await.unwrap();
    assert!(server.request(3).ends_with(body));
}

#[tokio::test]
async fn compressed_streams_flow_and_bombs_do_not() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(HELLO).unwrap();
    gzip.flush().unwrap();
    let first = gzip.get_ref().len();
    gzip.write_all(DONE).unwrap();
    let bytes = gzip.finish().unwrap();
    let (begin, rest) = bytes.split_at(first);
    let headers = format!("{EVENTS}content-encoding: gzip\r\n");
    // The end of the compressed stream never comes, and is not waited for.
    let parts: Vec<&[u8]> = vec![&begin[..5], &begin[5..], &rest[..rest.len() - 8]];
    let script = chunked(&headers, &parts, "0\r\n\r\n", Then::Keep);
    assert_eq!(outcome(script).await, ("hello".into(), None));
    let script = chunked(&headers, &[begin], "0\r\n\r\n", Then::Keep);
    assert_eq!(outcome(script).await, ("hello".into(), Some(Code::UpstreamTruncated)));

    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    bomb.write_all(&vec![b'\n'; 16 << 20]).unwrap();
    let script = chunked(&headers, &[&bomb.finish().unwrap()], "0\r\n\r\n", Then::Keep);
    assert_eq!(outcome(script).await.1, Some(Code::UpstreamTooLarge));
    let other = format!("{EVENTS}content-encoding: compress\r\n");
    let script = chunked(&other, &[HELLO], "0\r\n\r\n", Then::Keep);
    assert_eq!(outcome(script).await.1, Some(Code::UpstreamEncoding));
}

#[tokio::test]
async fn a_dropped_send_tells_how_far_it_came() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let endpoint = Endpoint::new(EndpointConfig::new("test", address)).unwrap();
    let head = chat();
    let call = Call::new(&head, Bytes::from_static(b"{}"), Mode::Deltas, Flags::NONE);
    let progress = call.progress.clone();
    {
        let mut sending = std::pin::pin!(endpoint.send(call));
        let (mut stream, _) = tokio::select! {
            _ = &mut sending => panic!("nobody answers"),
            accepted = silent.accept() => accepted.unwrap(),
        };
        tokio::select! {
            _ = &mut sending => panic!("nobody answers"),
            request = read_request(&mut stream) => assert!(request.unwrap().ends_with("{}")),
        }
    }
    assert_eq!((progress.stage(), progress.sent()), (Stage::AwaitHead, Sent::Maybe));
    assert_eq!(progress.body_bytes(), 2);
}

#[test]
fn bad_addresses_are_refused_with_the_reason() {
    for (url, word) in [
        ("ftp://host/v1", "http"),
        ("host/v1", "address"),
        ("http://user:canary@host/v1", "password"),
        ("http://host/v1?key=canary", "query"),
        ("http://host/v1#x", "fragment"),
    ] {
        let text = Endpoint::new(EndpointConfig::new("e1", url)).unwrap_err().to_string();
        assert!(text.contains(word) && text.contains("e1"), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
    let mut config = EndpointConfig::new("e1", "http://127.0.0.1:1");
    config.http2 = Http2::PriorKnowledge;
    assert!(Endpoint::new(config).is_ok());
}

#[tokio::test]
async fn over_http2_only_the_end_of_the_stream_ends_a_body_well() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config =
        EndpointConfig::new("test", format!("http://{}", listener.local_addr().unwrap()));
    config.http2 = Http2::PriorKnowledge;
    let endpoint = Endpoint::new(config).unwrap();
    // Length told, and how four bytes of body end.
    let answers = [
        (None, None, None),
        (Some("4"), None, None),
        (None, Some(h2::Reason::NO_ERROR), Some(Code::UpstreamTruncated)),
        (Some("9"), Some(h2::Reason::NO_ERROR), Some(Code::UpstreamTruncated)),
        (Some("9"), None, Some(Code::UpstreamReset)),
        (None, Some(h2::Reason::INTERNAL_ERROR), Some(Code::UpstreamReset)),
    ];
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut answers = answers.into_iter();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let Some((length, reset, _)) = answers.next() else { return };
            let mut head = http::Response::builder().header("content-type", "application/json");
            if let Some(length) = length {
                head = head.header("content-length", length);
            }
            let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
            body.send_data(Bytes::from_static(b"1234"), reset.is_none()).unwrap();
            let Some(reason) = reset else { continue };
            tokio::spawn(async move {
                // Let the data leave first.
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                body.send_reset(reason);
            });
        }
    });
    for (length, reset, code) in answers {
        let (_, error) = read(send(&endpoint, Mode::Body, "{}").await.unwrap()).await;
        assert_eq!(error.map(|error| error.code), code, "{length:?} {reset:?}");
    }
}

#[tokio::test]
async fn over_http2_a_refused_stream_was_provably_not_processed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config =
        EndpointConfig::new("test", format!("http://{}", listener.local_addr().unwrap()));
    config.http2 = Http2::PriorKnowledge;
    let endpoint = Endpoint::new(config).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let reasons = [h2::Reason::REFUSED_STREAM, h2::Reason::INTERNAL_ERROR];
        let mut reasons = reasons.into_iter();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            match reasons.next() {
                Some(reason) => respond.send_reset(reason),
                None => {
                    let head =
                        http::Response::builder().header("content-type", "text/event-stream");
                    let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
                    body.send_data(Bytes::from([HELLO, DONE].concat()), true).unwrap();
                }
            }
        }
    });
    // Attempts of one exchange share what is known of them.
    let (head, progress) = (chat(), Progress::default());
    let attempt = || async {
        let mut call = Call::new(&head, Bytes::from_static(b"{}"), Mode::Deltas, Flags::NONE);
        call.progress = progress.clone();
        endpoint.send(call).await.unwrap_err()
    };
    let error = attempt().await;
    assert_eq!((error.code, error.sent), (Code::UpstreamRefused, Sent::No), "{error}");
    assert_eq!((progress.sent(), progress.attempts()), (Sent::No, 1), "as proven");
    let error = attempt().await;
    assert_eq!((error.code, error.sent), (Code::UpstreamReset, Sent::Maybe), "{error}");
    assert_eq!((progress.sent(), progress.attempts()), (Sent::Maybe, 2));
    let (pieces, error) = read(send(&endpoint, Mode::Deltas, "{}").await.unwrap()).await;
    assert_eq!((pieces, error), (vec![(Kind::Delta, b"hello".to_vec())], None));
    let stats = endpoint.stats();
    assert_eq!((stats.connections_opened, stats.requests, stats.answers), (1, 3, 1));
}
