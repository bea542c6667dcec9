//! The layer on the HTTP client's connector through which a slot's connection is made, once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::Connection;
use ringmain_shm::UnixConnections;
use thiserror::Error;
use tokio::sync::Mutex;
use tower_layer::Layer;
use tower_service::Service;

use super::line::{Line, Search};
use super::tls::poll_proving;

/// Rounds in which a connection is waited for that has just answered and is not back yet in the
/// HTTP client's own pool: first turns of the runtime, then steps of a millisecond.
const TURNS: u32 = 16;
const STEPS: u32 = 20;

/// A connection over a Unix socket has no address; it is found as the only new one. So all of
/// them are made one after the other, which takes no time: the kernel connects at once.
static UNIX_CONNECTS: Mutex<()> = Mutex::const_new(());

/// The slot has had its connection. Nothing was sent.
#[derive(Clone, Copy, Debug, Error)]
#[error("the connection of this slot has ended")]
pub(crate) struct Spent;

/// Lets a connector make the connection of one slot.
#[derive(Clone)]
pub(super) struct OneConnection {
    pub line: Arc<Line>,
    pub is_unix: bool,
}

/// A connector that connects once.
#[derive(Clone)]
pub(super) struct Connector<S> {
    connector: S,
    line: Arc<Line>,
    is_unix: bool,
}

impl<S> Layer<S> for OneConnection {
    type Service = Connector<S>;

    fn layer(&self, connector: S) -> Connector<S> {
        Connector { connector, line: self.line.clone(), is_unix: self.is_unix }
    }
}

impl<S, Target> Service<Target> for Connector<S>
where
    S: Service<Target>,
    S::Response: Connection + Send + 'static,
    S::Error: From<Spent> + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, target: Target) -> Self::Future {
        let line = self.line.clone();
        if !line.begin() {
            return Box::pin(async move {
                outlast(&line).await;
                Err(Spent.into())
            });
        }
        let connecting = self.connector.call(target);
        match self.is_unix {
            false => Box::pin(connect(connecting, line, Search::Tcp)),
            true => Box::pin(async move {
                let _alone = UNIX_CONNECTS.lock().await;
                let search = UnixConnections::now().map_or(Search::Tcp, Search::Unix);
                connect(connecting, line, search).await
            }),
        }
    }
}

async fn connect<R: Connection, E: From<Spent>>(
    connecting: impl Future<Output = Result<R, E>>,
    line: Arc<Line>,
    search: Search,
) -> Result<R, E> {
    let mut connecting = std::pin::pin!(connecting);
    let mut proven = false;
    let polling =
        |cx: &mut Context<'_>| poll_proving(&mut proven, cx, |cx| connecting.as_mut().poll(cx));
    let connection = std::future::poll_fn(polling).await?;
    match line.connected(&connection.connected(), search, proven) {
        true => Ok(connection),
        false => Err(Spent.into()),
    }
}

/// The HTTP client asks for a second connection when the first is over, or is not yet back from
/// its last request. In the second case it takes the first as soon as that is back, and what is
/// returned here is of no interest any more.
async fn outlast(line: &Line) {
    for _ in 0..TURNS {
        if line.is_over() {
            return;
        }
        tokio::task::yield_now().await;
    }
    for _ in 0..STEPS {
        if line.is_over() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
