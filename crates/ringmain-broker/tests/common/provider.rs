//! A provider on loopback that speaks HTTP/1.1 by hand: each model name is a script.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What the provider does next with a request. The response head of an event stream comes first.
#[derive(Clone)]
pub enum Step {
    /// One chat event with this text.
    Delta(String),
    /// Bytes of the event stream as they are.
    Bytes(String),
    /// An answer with this status and these header lines instead of a stream.
    Refuse(u16, &'static str),
    /// The end of the body, without a terminal marker.
    End,
    /// Waits until the test lets it go on.
    Gate(Arc<Notify>),
    /// The terminal marker and the end of the body.
    Done,
    /// Says nothing more, until the other side closes.
    Hang,
    /// As `Hang`, before any response head.
    HangWithoutHead,
    /// Cuts the connection.
    Cut,
}

pub struct Provider {
    address: SocketAddr,
    pub seen: Arc<Seen>,
}

/// What the provider saw.
#[derive(Default)]
pub struct Seen {
    pub requests: AtomicU64,
    pub bytes_written: AtomicU64,
    /// Connections that the other side closed while a script hung or wrote.
    pub dropped: AtomicU64,
    /// The heads of all requests, in lower case.
    pub heads: Mutex<Vec<String>>,
    /// Requests by script.
    turns: Mutex<HashMap<String, usize>>,
}

type Scripts = Arc<HashMap<String, Vec<Vec<Step>>>>;

impl Provider {
    /// Serves a script at each path prefix: the endpoint's base URL ends in the script's name.
    pub async fn start(scripts: &[(&str, Vec<Step>)]) -> Provider {
        let scripts = scripts.iter().map(|(name, steps)| (*name, vec![steps.clone()]));
        Provider::in_turn(&scripts.collect::<Vec<_>>()).await
    }

    /// The same with a script for each request in turn; the last one serves all that follow.
    pub async fn in_turn(scripts: &[(&str, Vec<Vec<Step>>)]) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scripts = scripts.iter().map(|(name, steps)| ((*name).to_owned(), steps.clone()));
        let scripts: Scripts = Arc::new(scripts.collect());
        let seen = Arc::new(Seen::default());
        let watch = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, scripts.clone(), watch.clone()));
            }
        });
        Provider { address, seen }
    }

    /// One script for every request.
    pub async fn of(steps: Vec<Step>) -> Provider {
        Provider::start(&[("v1", steps)]).await
    }

    pub fn base_url(&self) -> String {
        self.base_url_of("v1")
    }

    pub fn base_url_of(&self, script: &str) -> String {
        format!("http://{}/{script}", self.address)
    }

    pub fn requests(&self) -> u64 {
        self.seen.requests.load(SeqCst)
    }

    /// Requests at one script.
    pub fn requests_of(&self, script: &str) -> usize {
        self.seen.turns.lock().unwrap().get(script).copied().unwrap_or(0)
    }

    pub fn dropped(&self) -> u64 {
        self.seen.dropped.load(SeqCst)
    }
}

pub fn deltas(texts: &[&str]) -> Vec<Step> {
    let deltas = texts.iter().map(|text| Step::Delta((*text).to_owned()));
    deltas.chain([Step::Done]).collect()
}

async fn serve(mut stream: TcpStream, scripts: Scripts, seen: Arc<Seen>) {
    // Each step is seen when it is played.
    stream.set_nodelay(true).unwrap();
    while let Some(head) = read_request(&mut stream).await {
        seen.requests.fetch_add(1, SeqCst);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let name = path.split('/').nth(1).unwrap_or_default().to_owned();
        let turn = {
            let mut turns = seen.turns.lock().unwrap();
            let turn = turns.entry(name.clone()).or_default();
            *turn += 1;
            *turn - 1
        };
        seen.heads.lock().unwrap().push(head);
        let turns = scripts.get(&name).map(Vec::as_slice).unwrap_or_default();
        let script = turns.get(turn).or(turns.last()).cloned().unwrap_or_default();
        if !play(&mut stream, script, &seen).await {
            return;
        }
    }
}

/// True when the connection can take another request.
async fn play(stream: &mut TcpStream, script: Vec<Step>, seen: &Seen) -> bool {
    let mut said_head = false;
    for step in script {
        let has_head = matches!(step, Step::HangWithoutHead | Step::Cut | Step::Refuse(..));
        if !said_head && !has_head {
            said_head = true;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                        x-request-id: req-1\r\ntransfer-encoding: chunked\r\n\r\n";
            if stream.write_all(head.as_bytes()).await.is_err() {
                return false;
            }
        }
        let chunk = match step {
            Step::Delta(text) => chunk(&event(&text)),
            Step::Bytes(text) => chunk(text.as_bytes()),
            Step::End => b"0\r\n\r\n".to_vec(),
            Step::Refuse(status, headers) => refusal(status, headers),
            Step::Done => [chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat(),
            Step::Gate(gate) => {
                gate.notified().await;
                continue;
            }
            Step::Hang | Step::HangWithoutHead => {
                while let Ok(1..) = stream.read(&mut [0; 64]).await {}
                seen.dropped.fetch_add(1, SeqCst);
                return false;
            }
            Step::Cut => return false,
        };
        if stream.write_all(&chunk).await.is_err() {
            seen.dropped.fetch_add(1, SeqCst);
            return false;
        }
        seen.bytes_written.fetch_add(chunk.len() as u64, SeqCst);
    }
    true
}

fn refusal(status: u16, headers: &str) -> Vec<u8> {
    let body = format!(r#"{{"error":{{"message":"no, {status}","code":"c{status}"}}}}"#);
    let length = body.len();
    let head = format!("HTTP/1.1 {status} No\r\ncontent-type: application/json\r\n{headers}");
    format!("{head}content-length: {length}\r\n\r\n{body}").into_bytes()
}

pub fn event(text: &str) -> Vec<u8> {
    format!(r#"data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#)
        .into_bytes()
        .into_iter()
        .chain(*b"\n\n")
        .collect()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Reads one request whole and gives its head.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).ok()?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |text| text.trim().parse().unwrap());
    while bytes.len() < head_end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(head)
}
