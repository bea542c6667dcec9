//! The broker as its owner sees it.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ringmain_shm::Listener;
use ringmain_upstream::Endpoint;

use crate::config::BrokerConfig;
use crate::counters::Snapshot;
use crate::routes::RouteTable;

/// One broker: sessions, routes, quotas, counters.
pub struct Broker {}

/// How a broker ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Exchanges in flight when it was told to end.
    pub in_flight: u64,
    /// Exchanges that were cut at the drain limit.
    pub cut: u64,
    /// Sessions that were closed.
    pub sessions: u64,
    /// How long it took.
    pub took: Duration,
}

impl Broker {
    /// A broker that serves nobody yet.
    pub fn new(_config: BrokerConfig, _table: RouteTable) -> Arc<Broker> {
        unimplemented!()
    }

    /// Serves until `drain` is ready, then refuses what is new, finishes what is in flight within
    /// the drain limit and closes the sessions.
    ///
    /// # Errors
    /// The listener cannot be waited for.
    pub async fn serve(
        self: &Arc<Self>,
        _listener: Listener,
        _drain: impl Future<Output = ()>,
    ) -> io::Result<DrainReport> {
        unimplemented!()
    }

    /// Replaces routes and endpoints. Exchanges in flight keep what they were given.
    pub fn swap_routes(&self, _table: RouteTable) {}

    /// The routes and endpoints in use.
    pub fn routes(&self) -> Arc<RouteTable> {
        unimplemented!()
    }

    /// The endpoints in use.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.routes().endpoints().to_vec()
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        unimplemented!()
    }
}
