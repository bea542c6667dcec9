//! Sending a request to an endpoint and waiting for the head of its answer, each within its limit.

use std::time::Duration;

use ringmain_policy::ExchangeLimits;
use ringmain_upstream::{Answer, Call, Endpoint, Progress};
use ringmain_wire::{Code, Stage};
use tokio::time::{Instant, sleep_until};

use crate::failure::Failure;

/// Sends. The endpoint itself limits the time of connecting.
pub(crate) async fn send(
    endpoint: &Endpoint,
    call: Call<'_>,
    progress: &Progress,
    limits: &ExchangeLimits,
) -> Result<Answer, Failure> {
    tokio::select! {
        biased;
        answer = endpoint.send(call) => answer.map_err(Failure::from),
        stalled = stalled(endpoint.name(), progress, limits) => Err(stalled),
    }
}

/// Ready when the request makes no progress for as long as its stage may take.
///
/// The stage is looked at four times per shortest limit, so a limit is at most a quarter of that
/// late, and a request that is answered in time costs one timer.
async fn stalled(endpoint: &str, progress: &Progress, limits: &ExchangeLimits) -> Failure {
    let step = (limits.write.min(limits.head) / 4).max(Duration::from_millis(1));
    let mut seen = (progress.stage(), progress.body_bytes());
    let mut since = Instant::now();
    // Bound: the first round without a change for the limit of its stage is the last.
    loop {
        let limit = limit_of(seen.0, limits);
        sleep_until((Instant::now() + step).min(since + limit)).await;
        let now = (progress.stage(), progress.body_bytes());
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= limit {
            return expired(endpoint, progress, limits);
        }
    }
}

fn limit_of(stage: Stage, limits: &ExchangeLimits) -> Duration {
    match stage {
        Stage::Send => limits.write,
        // A request without a body shows nothing between connecting and its answer.
        _ => limits.head,
    }
}

fn expired(endpoint: &str, progress: &Progress, limits: &ExchangeLimits) -> Failure {
    let stage = progress.stage();
    let limit = limit_of(stage, limits);
    let (code, text) = match stage {
        Stage::Send => {
            let bytes = progress.body_bytes();
            let text = format!(
                "endpoint {endpoint} took no more of the request for {limit:?}, after {bytes} bytes"
            );
            (Code::WriteTimeout, text)
        }
        _ => {
            (Code::HeadTimeout, format!("endpoint {endpoint} sent no response head for {limit:?}"))
        }
    };
    Failure::while_sent(code, stage, progress.sent(), text)
}
