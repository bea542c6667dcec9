//! How a connection is made: by the HTTP client's connector, which resolves names, goes through
//! proxies and does TLS, and whose connection is taken from it before it sends anything.
//!
//! The HTTP client connects for requests only, so it is given one. The layer here keeps the
//! connection for the slot and tells the client that there is none; what is sent on it goes by
//! [`Link`](super::link::Link).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::Connection;
use ringmain_shm::UnixConnections;
use thiserror::Error;
use tower_layer::Layer;
use tower_service::Service;

use super::line::{Line, Search};
use super::tls::poll_proving;

/// A connection over a Unix socket has no address; it is found as the only new one. So all of
/// them are made one after the other, which takes no time: the kernel connects at once.
static UNIX_CONNECTS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What the HTTP client is told of a connection that was taken from it.
#[derive(Clone, Copy, Debug, Error)]
#[error("the connection was taken")]
struct Taken;

/// Takes the connection of one slot from its connector.
#[derive(Clone)]
pub(super) struct Take {
    pub line: Arc<Line>,
    pub is_unix: bool,
}

/// A connector whose connections are taken.
#[derive(Clone)]
pub(super) struct Connector<S> {
    below: S,
    take: Take,
}

impl<S> Layer<S> for Take {
    type Service = Connector<S>;

    fn layer(&self, below: S) -> Connector<S> {
        Connector { below, take: self.clone() }
    }
}

impl<S, Target> Service<Target> for Connector<S>
where
    S: Service<Target> + Clone + Send + 'static,
    S::Response: Connection + Read + Write + Send + Unpin + 'static,
    S::Error: From<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    S::Future: Send + 'static,
    Target: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    /// What lies below is waited for when it is called.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Target) -> Self::Future {
        let (mut below, Take { line, is_unix }) = (self.below.clone(), self.take.clone());
        Box::pin(async move {
            poll_fn(|cx| below.poll_ready(cx)).await?;
            match is_unix {
                false => connect(below.call(target), &line, Search::Tcp).await?,
                true => {
                    let _alone = UNIX_CONNECTS.lock().await;
                    let search = UnixConnections::now().map_or(Search::Tcp, Search::Unix);
                    connect(below.call(target), &line, search).await?;
                }
            }
            Err(S::Error::from(Taken.into()))
        })
    }
}

async fn connect<R: Connection + Read + Write + Send + Unpin + 'static, E>(
    connecting: impl Future<Output = Result<R, E>>,
    line: &Arc<Line>,
    search: Search,
) -> Result<(), E> {
    let mut connecting = std::pin::pin!(connecting);
    let mut proven = false;
    let polling =
        |cx: &mut Context<'_>| poll_proving(&mut proven, cx, |cx| connecting.as_mut().poll(cx));
    let connection = poll_fn(polling).await?;
    line.connected(connection, search, proven);
    Ok(())
}
