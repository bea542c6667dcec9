//! Writing the counters of a broker to its segment.

use std::convert::Infallible;
use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringmain_upstream::Endpoint;
use tokio::time::sleep;

use super::{EndpointHealth, EndpointRow, LimitRow, Segment, SessionRow, Snapshot, State};
use crate::attempt::health::Condition;
use crate::broker::Broker;
use crate::producer::Producer;
use crate::routes::RouteTable;
use crate::session::Session;

/// Least time between two writes of the counters.
const COUNTERS_EVERY: Duration = Duration::from_millis(250);

impl Broker {
    pub(crate) fn open_counters(&self) -> Option<Segment> {
        let name = self.config().counters.as_deref()?;
        Segment::create(name, self.config().counters_gid)
            .inspect_err(|error| tracing::warn!(name, %error, "no counters segment"))
            .ok()
    }

    /// Writes the counters whenever they changed.
    pub(crate) async fn publish(&self, segment: &mut Option<Segment>) -> Infallible {
        // Bound: as long as the broker serves, and at most one write per interval.
        loop {
            let state = self.snapshot().state;
            self.write_counters(segment, state);
            sleep(COUNTERS_EVERY).await;
            self.live().changed().await;
        }
    }

    pub(crate) fn write_counters(&self, segment: &mut Option<Segment>, state: State) {
        let Some(open) = segment else { return };
        if let Err(error) = open.write(&self.snapshot_in(state)) {
            tracing::warn!(%error, "the counters segment is given up");
            *segment = None;
        }
    }

    pub(crate) fn snapshot_in(&self, state: State) -> Snapshot {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (sessions, producers) = (self.all_sessions(), self.producers().all());
        let mut snapshot = Snapshot {
            state,
            pid: process::id(),
            epoch: self.epoch(),
            started_ms: self.started_ms(),
            updated_ms: now.as_millis() as u64,
            sessions: (sessions.len() + producers.len()) as u64,
            endpoints: endpoint_rows(&self.routes()),
            session_rows: session_rows(&sessions, &producers),
            limits: self.gate().gauges().into_iter().map(LimitRow::from).collect(),
            ..Snapshot::default()
        };
        self.live().fill(&mut snapshot);
        snapshot
    }
}

fn endpoint_rows(routes: &RouteTable) -> Vec<EndpointRow> {
    let endpoints = routes.endpoints().iter().zip(routes.conditions());
    endpoints.map(|(endpoint, condition)| endpoint_row(endpoint, &condition)).collect()
}

fn endpoint_row(endpoint: &Endpoint, condition: &Condition) -> EndpointRow {
    let stats = endpoint.stats();
    EndpointRow {
        name: endpoint.name().to_owned(),
        connections_opened: stats.connections_opened,
        connections_reused: stats.connections_reused,
        requests: stats.requests,
        answers: stats.answers,
        pool: endpoint.gauges(),
        health: EndpointHealth::of(condition),
    }
}

/// Those of applications and of producers, by number.
fn session_rows(sessions: &[Arc<Session>], producers: &[Arc<Producer>]) -> Vec<SessionRow> {
    let mut rows: Vec<_> = sessions.iter().map(session_row).collect();
    rows.extend(producers.iter().map(producer_row));
    rows.sort_unstable_by_key(|row| row.session);
    rows
}

fn producer_row(producer: &Arc<Producer>) -> SessionRow {
    SessionRow {
        session: producer.id,
        uid: producer.peer.uid,
        pid: u32::try_from(producer.peer.pid).unwrap_or(0),
        exchanges: producer.exchanges.load(Relaxed),
        exchanges_total: producer.exchanges_total.load(Relaxed),
    }
}

fn session_row(session: &Arc<Session>) -> SessionRow {
    SessionRow {
        session: session.id,
        uid: session.peer.uid,
        pid: u32::try_from(session.peer.pid).unwrap_or(0),
        exchanges: session.exchanges.load(Relaxed),
        exchanges_total: session.exchanges_total.load(Relaxed),
    }
}
