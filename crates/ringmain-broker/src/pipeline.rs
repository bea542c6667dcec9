//! What happens to a request, from top to bottom.
//!
//! ```text
//! entry -> [intake] -> authorize -> account -> admit -> dispatch -> relay -> lane -> caller
//!                                                   \-> producer ----/
//! ```
//! Further stages have their place between these and stand here when they exist: session and
//! trim, cache, coalesce and batch after `account`; the attempt loop around `dispatch`.
//! A stage sees the head; the bytes of the answer run through `relay` alone.

use std::sync::Arc;

use bytes::Bytes;
use ringmain_policy::{Deadline, ExchangeLimits};
use ringmain_upstream::reach;
use ringmain_wire::{Code, Flags, Mode, RequestHead, Stage};

use crate::admit::{self, Candidate, Gate};
use crate::alarm::Alarm;
use crate::allow::Identity;
use crate::attempt;
use crate::egress::Egress;
use crate::failure::Failure;
use crate::intake::{Body, Copies};
use crate::log_id::LogId;
use crate::producer::Producers;
use crate::record::Record;
use crate::relay::Ended;
use crate::routes::{RouteTable, Served, ServedTarget};

/// A request whose head was judged, with everything that the stages need to know of its caller.
pub(crate) struct Inbound<'a> {
    pub id: LogId,
    pub head: RequestHead<'a>,
    pub body: Body,
    /// A private copy of the body, once somebody had to look into it.
    pub copy: Option<Bytes>,
    pub copies: &'a Copies,
    pub mode: Mode,
    pub flags: Flags,
    pub caller: &'a Identity,
    /// The session that it came by; 0 for what came by none.
    pub session: u64,
    /// The rate limits.
    pub gate: &'a Gate,
    /// The table as it was when the request came: a reload does not touch it.
    pub routes: Arc<RouteTable>,
    /// Who is attached to answer here.
    pub producers: &'a Producers,
    /// When it came, ns of the monotonic clock.
    pub started_ns: u64,
    /// The caller's own deadline.
    pub deadline_ns: Option<u64>,
    /// What the exchange waits for, and until when.
    pub alarm: &'a Alarm,
    /// The limits where neither route nor endpoint has its own.
    pub limits: ExchangeLimits,
    pub body_bytes_max: u64,
    pub copied_body_bytes_max: u64,
}

/// Takes a request to its end. The caller of this function puts the alarm and the stop around it:
/// dropping the future at any point drops the request upstream.
pub(crate) async fn run<E: Egress>(
    mut inbound: Inbound<'_>,
    egress: &mut E,
    record: &mut Record,
) -> Result<Ended, Failure> {
    check_body(&inbound)?;
    let route = authorize(&inbound, record)?;
    // account: the exchange was charged to its uid when the entry was taken.
    // session, trim, cache, coalesce, batch: not there yet.
    inbound.keep_within(&route.limits(None, inbound.limits));
    let permit = admit::enter(inbound.candidate(&route), &inbound.body).await;
    attempt::run(&route, permit, &mut inbound, egress, record).await
}

impl<'a> Inbound<'a> {
    /// Ends the exchange by the total limit of these, or by its caller's deadline.
    pub fn keep_within(&self, limits: &ExchangeLimits) {
        let deadline = Deadline::capped(self.started_ns, self.deadline_ns, limits.total);
        self.alarm.set_deadline(deadline);
    }

    /// What admission has to know of it.
    fn candidate<'b>(&self, route: &'b Served) -> Candidate<'b>
    where
        'a: 'b,
    {
        let (gate, session, uid) = (self.gate, self.session, self.caller.uid);
        let deadline_ns = self.alarm.deadline().at_ns;
        Candidate { gate, uid, session, deadline_ns, route: &route.model }
    }
}

fn check_body(inbound: &Inbound<'_>) -> Result<(), Failure> {
    check_size(inbound.body.len(), inbound.body_bytes_max, "the limit")
}

fn check_size(bytes: usize, limit: u64, what: &str) -> Result<(), Failure> {
    if bytes as u64 <= limit {
        return Ok(());
    }
    let text = format!("the body of {bytes} bytes is larger than {what} of {limit} bytes");
    Err(Failure::new(Code::BodyTooLarge, Stage::Intake, text))
}

/// Finds the route of the model and whether this caller may use it.
fn authorize(inbound: &Inbound<'_>, record: &mut Record) -> Result<Arc<Served>, Failure> {
    let name = inbound.head.route;
    let route = inbound
        .routes
        .find(name, inbound.caller)
        .map_err(|unknown| Failure::new(Code::UnknownRoute, Stage::Intake, unknown.to_string()))?;
    record.route(&route.model);
    if !route.permits(inbound.caller) {
        let text = format!("uid {} may not use route {:?}", inbound.caller.uid, route.model);
        return Err(Failure::new(Code::NotAllowed, Stage::Intake, text));
    }
    Ok(route)
}

/// Where some route is not for everybody, a request may not choose its model but by its body: a
/// path can name another one, or something that was stored for its users.
pub(crate) fn keep_to_the_body(
    inbound: &Inbound<'_>,
    target: &ServedTarget,
) -> Result<(), Failure> {
    let (method, path) = (inbound.head.method, inbound.head.path);
    let is_judged = reach::goes_by_body_model(method, path) || reach::lists_models(method, path);
    if !target.is_guarded {
        return Ok(());
    }
    if is_judged {
        return reach::reads_as_judged(&inbound.head).map_err(|error| {
            let text = format!("{} {}: {error}", target.role(), target.name());
            Failure::new(Code::InvalidRequest, Stage::Intake, text)
        });
    }
    let text = format!(
        "{} {} serves a route with an allow list, so it takes only requests whose body \
         names the model, and GET /models",
        target.role(),
        target.name()
    );
    Err(Failure::new(Code::NotAllowed, Stage::Intake, text))
}

/// A private copy of the body, for whoever looks into it.
pub(crate) async fn private_body(inbound: &Inbound<'_>) -> Result<Bytes, Failure> {
    let what = "the limit of one that has to be looked into,";
    check_size(inbound.body.len(), inbound.copied_body_bytes_max, what)?;
    inbound.body.copied(inbound.copies).await
}
