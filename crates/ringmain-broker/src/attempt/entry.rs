//! What an attempt needs before it is made: a target, room under the limits, and the leave of its
//! endpoint. In this order: leave is never held while its owner waits for room, or one caller with
//! nothing left under its limit would keep everybody from an endpoint that is to be probed.

use ringmain_wire::Sent;

use super::health::Running;
use super::plan::Plan;
use crate::admit::Permit;
use crate::failure::Failure;
use crate::pipeline::{self, Inbound};
use crate::routes::{ServedBy, ServedTarget};

/// A target that is asked now.
pub(super) struct Pick {
    pub index: usize,
    /// The leave of its endpoint; producers need none.
    pub running: Option<Running>,
}

/// Finds the target of the next attempt and takes what it needs. While several may be asked, one
/// that has no room now is passed over; where none has room, the one whose turn comes first is
/// waited for.
pub(super) async fn enter(
    plan: &mut Plan,
    permit: &mut Permit<'_>,
    inbound: &Inbound<'_>,
) -> Result<Pick, Failure> {
    let route = plan.route().clone();
    // Without leave, and without room now, one bit per target.
    let (mut shut, mut full) = (0u64, 0u64);
    let mut soonest: Option<(u64, usize)> = None;
    // Bound: each round takes one target out, and those without room come back only when one is
    // shut for good.
    loop {
        let now_ns = inbound.alarm.now_ns();
        let (index, waits) = match (plan.best(shut | full, now_ns), soonest) {
            (Ok(index), _) => (index, full == 0 && !plan.has_other(Some(index), shut, now_ns)),
            (Err(_), Some((_, index))) => (index, true),
            (Err(wait), None) => return Err(plan.resting(wait)),
        };
        let target = route.target(index);
        pipeline::keep_to_the_body(inbound, target)?;
        if waits {
            permit.attempt(name_of(target), now_ns).await?;
        } else if let Err(due_ns) = permit.attempt_now(name_of(target), now_ns) {
            full |= 1 << index;
            // Of equals the one that came first: it is the better one.
            if soonest.is_none_or(|(soonest_ns, _)| due_ns < soonest_ns) {
                soonest = Some((due_ns, index));
            }
            continue;
        }
        match plan.leave(index, inbound.alarm.now_ns()) {
            Ok(running) => return Ok(Pick { index, running }),
            Err(_) => {
                permit.failed(Sent::No);
                shut |= 1 << index;
                (full, soonest) = (0, None);
            }
        }
    }
}

/// The endpoint whose limits count; producers of this host have none.
fn name_of(target: &ServedTarget) -> Option<&str> {
    match &target.server {
        ServedBy::Endpoint(endpoint) => Some(endpoint.name()),
        _ => None,
    }
}
