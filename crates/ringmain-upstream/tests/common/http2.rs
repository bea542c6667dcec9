//! A server of HTTP/2.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Most streams of a connection; `None`: it says nothing.
    pub streams_max: Option<u32>,
    /// Time before each answer.
    pub delay: Duration,
    /// Bytes of each answer.
    pub bytes: usize,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners { streams_max: None, delay: Duration::ZERO, bytes: 2 }
    }
}

/// What a server saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub connections: AtomicU64,
    pub requests: AtomicU64,
    pub streams: AtomicU64,
    pub streams_peak: AtomicU64,
    /// Connections that ended in an error of theirs or ours.
    pub broken: AtomicU64,
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
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, manners: Manners, seen: Arc<Seen>) {
    seen.connections.fetch_add(1, SeqCst);
    let mut builder = h2::server::Builder::new();
    if let Some(streams) = manners.streams_max {
        builder.max_concurrent_streams(streams);
    }
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    while let Some(next) = connection.accept().await {
        match next {
            Ok((request, respond)) => {
                tokio::spawn(answer(request, respond, manners.clone(), seen.clone()));
            }
            Err(error) => {
                if error.is_go_away() {
                    seen.broken.fetch_add(1, SeqCst);
                }
                return;
            }
        }
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    manners: Manners,
    seen: Arc<Seen>,
) {
    seen.requests.fetch_add(1, SeqCst);
    let now = seen.streams.fetch_add(1, SeqCst) + 1;
    seen.streams_peak.fetch_max(now, SeqCst);
    let mut body = request.into_body();
    while let Some(Ok(bytes)) = body.data().await {
        let _ = body.flow_control().release_capacity(bytes.len());
    }
    tokio::select! {
        () = tokio::time::sleep(manners.delay) => {
            if let Ok(mut stream) = respond.send_response(http::Response::new(()), false) {
                let _ = stream.send_data(Bytes::from(vec![b'x'; manners.bytes]), true);
            }
        }
        _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {}
    }
    seen.streams.fetch_sub(1, SeqCst);
}
