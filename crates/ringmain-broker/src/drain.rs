//! The end of a broker: nothing new, then what is in flight, then the sessions.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::broker::{Broker, Phase};
use crate::stop::StopCause;

/// How long cut exchanges and closed sessions may take to be gone.
const CUT: Duration = Duration::from_secs(1);

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

/// Drains a broker whose phase is draining and whose listener is gone.
pub(crate) async fn run(broker: &Broker) -> DrainReport {
    let started = Instant::now();
    let in_flight = broker.in_flight();
    let limit = broker.config().drain;
    tracing::info!(in_flight, ?limit, "draining");
    let is_idle = |broker: &Broker| broker.in_flight() == 0;
    let mut cut = 0;
    if timeout(limit, broker.until(is_idle)).await.is_err() {
        cut = broker.in_flight();
        tracing::warn!(cut, ?limit, "the drain limit passed");
        broker.stop_all(StopCause::Drained);
        // Whatever is left then is told the same by the end of its session.
        let _ = timeout(CUT, broker.until(is_idle)).await;
    }
    let sessions = broker.session_count() as u64;
    broker.set_phase(Phase::Closing);
    let _ = timeout(CUT, broker.until(|broker| broker.session_count() == 0)).await;
    DrainReport { in_flight, cut, sessions, took: started.elapsed() }
}
