//! A server of HTTP/1.1, over whatever carries bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// How a server behaves.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Time before each answer.
    pub delay: Duration,
    /// Header lines of each answer.
    pub headers: &'static str,
    /// How long an unused connection is kept; `None`: for ever.
    pub idle: Option<Duration>,
    /// Never answers.
    pub silent: bool,
}

/// What a server saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub connections: AtomicU64,
    pub open: AtomicU64,
    pub requests: AtomicU64,
}

impl Seen {
    pub fn connections(&self) -> u64 {
        self.connections.load(SeqCst)
    }

    pub fn open(&self) -> u64 {
        self.open.load(SeqCst)
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }
}

pub struct Server {
    pub url: String,
    pub seen: Arc<Seen>,
}

impl Server {
    pub async fn start(manners: Manners) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Seen::default());
        let watch = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, manners.clone(), watch.clone()));
            }
        });
        Server { url, seen }
    }
}

/// Serves one connection to its end.
pub async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    manners: Manners,
    seen: Arc<Seen>,
) {
    seen.connections.fetch_add(1, SeqCst);
    seen.open.fetch_add(1, SeqCst);
    let _ = requests(&mut stream, &manners, &seen).await;
    drop(stream);
    seen.open.fetch_sub(1, SeqCst);
}

async fn requests(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    manners: &Manners,
    seen: &Seen,
) -> Option<()> {
    let patience = manners.idle.unwrap_or(Duration::from_secs(3600));
    loop {
        tokio::time::timeout(patience, read_request(stream)).await.ok()??;
        seen.requests.fetch_add(1, SeqCst);
        if manners.silent {
            while stream.read(&mut [0; 1024]).await.ok()? > 0 {}
            return None;
        }
        tokio::time::sleep(manners.delay).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{}\r\n{{}}", manners.headers);
        stream.write_all(head.as_bytes()).await.ok()?;
        if manners.headers.contains("connection: close") {
            return None;
        }
    }
}

/// Reads a request whole; its head.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
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
