//! Counting connections: a layer on the HTTP client's connector.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

/// Counts the connections that its connector makes.
#[derive(Clone, Debug, Default)]
pub(super) struct CountConnections(pub Arc<AtomicU64>);

/// A connector that counts.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    connector: S,
    opened: Arc<AtomicU64>,
}

impl<S> Layer<S> for CountConnections {
    type Service = Counted<S>;

    fn layer(&self, connector: S) -> Counted<S> {
        Counted { connector, opened: self.0.clone() }
    }
}

impl<S, Target> Service<Target> for Counted<S>
where
    S: Service<Target>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, target: Target) -> Self::Future {
        let connecting = self.connector.call(target);
        let opened = self.opened.clone();
        Box::pin(async move {
            let connection = connecting.await?;
            opened.fetch_add(1, Relaxed);
            Ok(connection)
        })
    }
}
