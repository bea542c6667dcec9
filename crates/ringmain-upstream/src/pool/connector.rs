//! The layer on the HTTP client's connector through which a slot's connection is made, once.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::Connection;
use parking_lot::Mutex;
use ringmain_shm::UnixConnections;
use thiserror::Error;
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
static UNIX_CONNECTS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

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
///
/// The HTTP client clones its connector half a dozen times for each request, whether it connects
/// or not, and what lies below would be cloned with it: boxes within boxes, and a dozen counts.
/// So clones share one place for what lies below, from which the one connection takes it.
pub(super) struct Connector<S>(Arc<Shared<S>>);

struct Shared<S> {
    below: Mutex<Option<S>>,
    line: Arc<Line>,
    is_unix: bool,
}

impl<S> Clone for Connector<S> {
    fn clone(&self) -> Self {
        Connector(self.0.clone())
    }
}

impl<S> Layer<S> for OneConnection {
    type Service = Connector<S>;

    fn layer(&self, connector: S) -> Connector<S> {
        let below = Mutex::new(Some(connector));
        Connector(Arc::new(Shared { below, line: self.line.clone(), is_unix: self.is_unix }))
    }
}

impl<S, Target> Service<Target> for Connector<S>
where
    S: Service<Target> + Send + 'static,
    S::Response: Connection + Send + 'static,
    S::Error: From<Spent> + Send + 'static,
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
        let Shared { below, line, is_unix } = &*self.0;
        let (line, is_unix) = (line.clone(), *is_unix);
        let below = if line.begin() { below.lock().take() } else { None };
        let Some(mut below) = below else {
            return Box::pin(async move {
                outlast(&line).await;
                Err(Spent.into())
            });
        };
        Box::pin(async move {
            poll_fn(|cx| below.poll_ready(cx)).await?;
            match is_unix {
                false => connect(below.call(target), line, Search::Tcp).await,
                true => {
                    let _alone = UNIX_CONNECTS.lock().await;
                    let search = UnixConnections::now().map_or(Search::Tcp, Search::Unix);
                    connect(below.call(target), line, search).await
                }
            }
        })
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
    let connection = poll_fn(polling).await?;
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
