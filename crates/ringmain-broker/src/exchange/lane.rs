//! Exchanges of a session: begun by the session's task, carried by a task of their own, answered on
//! their lane.

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};

use ringmain_wire::frame::EndFrame;
use ringmain_wire::{ExchangeId, Kind, LaneId, Request};

use super::{Asked, Exchange, Held, Origin, settle};
use crate::broker::Broker;
use crate::egress::LaneEgress;
use crate::failure::{Failure, Violation};
use crate::intake::{Body, HeadCopy, chunk_bytes};
use crate::loan::Loan;
use crate::relay::Ended;
use crate::session::Session;
use crate::stop::Stop;

/// Answers a ping: the way of a request through validation and charging, without an upstream.
pub(crate) fn ping(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    lane: LaneId,
    id: ExchangeId,
) -> Result<(), Violation> {
    session.lane(lane).begin(id, None)?;
    let verdict = Held::new(broker, session.peer.uid, Some(session));
    session.lane(lane).return_loan(id);
    let done = match verdict {
        Ok(mut held) => {
            held.settle();
            broker.live().ended.fetch_add(1, Relaxed);
            let done = session.lane(lane).finish(Kind::End, &PONG);
            drop(held);
            done
        }
        Err(failure) => {
            broker.live().refused(failure.code);
            let payload = failure.payload(broker.log_id(), 0, 0);
            session.lane(lane).finish(Kind::Error, &payload)
        }
    };
    debug_assert_eq!(done, Ok(()), "an open exchange takes its terminal");
    Ok(())
}

/// The payload of a ping's END, the same for all.
static PONG: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut payload = Vec::new();
    EndFrame::default().encode(&mut payload);
    payload
});

/// Accepts a request, or refuses it on its lane. Only what no honest caller does is an error.
pub(crate) fn start(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    exchange: ExchangeId,
    request: Request,
) -> Result<(), Violation> {
    let stop = Arc::new(Stop::default());
    session.lane(request.lane).begin(exchange, Some(stop.clone()))?;
    let bytes = chunk_bytes(&request);
    session.lend(bytes)?;
    let loan = Loan::new(session.clone(), request.lane, exchange, bytes);
    let id = broker.log_id();
    let egress = LaneEgress::new(session.clone(), request.lane, id, loan);
    let origin = Origin::of_session(session);
    match Exchange::begin(broker, origin, Some(session), id, stop) {
        Ok(exchange) => {
            tokio::spawn(in_place(|| run(exchange, session.clone(), request, egress)));
        }
        Err(failure) => egress.finish(Kind::Error, &failure.payload(id, 0, 0)),
    }
    Ok(())
}

/// A future in memory of its own, made where it is to stay: the runtime would copy its kilobytes on
/// their way in and at their end, and a box that is made around it once.
fn in_place<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}

/// The task of an exchange.
async fn run(
    mut exchange: Exchange,
    session: Arc<Session>,
    request: Request,
    mut egress: LaneEgress,
) {
    let verdict = answer(&mut exchange, &session, &request, &mut egress).await;
    exchange.settle(&verdict);
    match verdict {
        Ok(Ended { payload, rest }) => {
            egress.finish(Kind::End, &payload);
            drop(exchange);
            // The caller has its END; what is left of the answer only saves a connection.
            if let Some(rest) = rest {
                settle(rest, session.peer.uid).await;
            }
        }
        Err(failure) => egress.finish(Kind::Error, &exchange.error_payload(&failure)),
    }
}

async fn answer(
    exchange: &mut Exchange,
    session: &Session,
    request: &Request,
    egress: &mut LaneEgress,
) -> Result<Ended, Failure> {
    let (caller, geometry) = (session.caller(), &session.geometry);
    let head = HeadCopy::of(caller, geometry, request, &exchange.copies())?;
    let asked = Asked {
        head: head.judge()?,
        body: Body::lent_by(caller, geometry, request, egress.loan()),
        mode: request.mode,
        flags: request.flags,
        deadline_ns: request.deadline_ns,
        caller: &session.peer,
    };
    exchange.run(asked, egress).await
}
