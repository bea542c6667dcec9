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
use ringmain_policy::ExchangeLimits;
use ringmain_upstream::{Call, Endpoint, Progress, reach};
use ringmain_wire::head::Method;
use ringmain_wire::{Code, Flags, Mode, RequestHead, Stage};

use crate::admit::{self, Candidate, Gate};
use crate::allow::Identity;
use crate::dispatch;
use crate::egress::Egress;
use crate::failure::Failure;
use crate::intake::{Body, Copies};
use crate::log_id::LogId;
use crate::producer::{self, Producers};
use crate::record::Record;
use crate::relay::{self, Ended};
use crate::routes::{RouteTable, Served, ServedBy, ServedTarget};

/// A request whose head was judged, with everything that the stages need to know of its caller.
pub(crate) struct Inbound<'a> {
    pub id: LogId,
    pub head: RequestHead<'a>,
    pub body: Body,
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
    /// When the exchange ends whatever happens.
    pub deadline_ns: u64,
    pub limits: ExchangeLimits,
    pub body_bytes_max: u64,
    pub copied_body_bytes_max: u64,
}

/// Takes a request to its end. The caller of this function puts the deadline and the stop around
/// it: dropping the future at any point drops the request upstream.
pub(crate) async fn run<E: Egress>(
    mut inbound: Inbound<'_>,
    egress: &mut E,
    record: &mut Record,
) -> Result<Ended, Failure> {
    check_body(&inbound)?;
    let route = authorize(&inbound, record)?;
    // account: the exchange was charged to its uid when the entry was taken.
    // session, trim, cache, coalesce, batch: not there yet.
    let target = route.pick();
    keep_to_the_body(&inbound, target)?;
    let mut permit = admit::enter(inbound.candidate(&route), &inbound.body).await;
    let endpoint = match &target.server {
        ServedBy::Endpoint(endpoint) => endpoint,
        ServedBy::Producer(_) => {
            permit.attempt(None).await?;
            let asked = producer::dispatch::ask(&route, target, &mut inbound, egress, record);
            let asked = asked.await?;
            permit.sent();
            let ended = producer::relay::run(asked, &inbound, egress, record).await;
            permit.close(record, &ended);
            return ended;
        }
    };
    permit.attempt(Some(endpoint.name())).await?;
    let answer = {
        let call = call(&inbound, target, endpoint, record.progress.clone()).await?;
        record.target(&route.model, endpoint.name());
        permit.sent();
        let sent = dispatch::send(endpoint, call, &record.progress, &inbound.limits).await;
        // The endpoint repeats a request that was refused for what it put in itself.
        record.attempts = record.attempts.max(record.progress.attempts());
        sent.inspect_err(|failure| permit.failed(failure.sent))?
    };
    record.status = Some(answer.status);
    if answer.status == 429 {
        permit.refused(answer.retry_after_ms);
    }
    let ended = relay::run(answer, &mut inbound, egress, record).await;
    permit.close(record, &ended);
    ended
}

impl<'a> Inbound<'a> {
    fn candidate<'r>(&self, route: &'r Served) -> Candidate<'r>
    where
        'a: 'r,
    {
        let &Inbound { gate, session, deadline_ns, .. } = self;
        Candidate { gate, uid: self.caller.uid, session, deadline_ns, route: &route.model }
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
fn keep_to_the_body(inbound: &Inbound<'_>, target: &ServedTarget) -> Result<(), Failure> {
    let (method, path) = (inbound.head.method, inbound.head.path);
    let is_judged = reach::goes_by_body_model(method, path) || reach::lists_models(method, path);
    if !target.is_guarded || is_judged {
        return Ok(());
    }
    let text = format!(
        "{} {} serves a route with an allow list, so it takes only requests whose body \
         names the model, and GET /models",
        target.role(),
        target.name()
    );
    Err(Failure::new(Code::NotAllowed, Stage::Intake, text))
}

/// The request for one endpoint. Its body goes out from where it lies if nobody looks into it; else
/// as a private copy, of which what was judged is what is sent.
async fn call<'a>(
    inbound: &'a Inbound<'_>,
    target: &'a ServedTarget,
    endpoint: &Endpoint,
    progress: Progress,
) -> Result<Call<'a>, Failure> {
    let mut call = Call::new(&inbound.head, Bytes::new(), inbound.mode, inbound.flags);
    let judged = target.is_guarded.then_some(inbound.head.route);
    call.model = target.model.as_deref().or(judged);
    call.progress = progress;
    if inbound.head.method != Method::Post {
        return Ok(call);
    }
    call.body = match endpoint.looks_into(&call) {
        false => inbound.body.lent(),
        true => private_body(inbound).await?,
    };
    Ok(call)
}

/// A private copy of the body, for whoever looks into it.
pub(crate) async fn private_body(inbound: &Inbound<'_>) -> Result<Bytes, Failure> {
    let what = "the limit of one that has to be looked into,";
    check_size(inbound.body.len(), inbound.copied_body_bytes_max, what)?;
    inbound.body.copied(inbound.copies).await
}
