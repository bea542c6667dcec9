//! The attempts of one request: pick a target, send, await the first content; one loop, and nothing
//! below it tries anything twice.
//!
//! What may follow a failed attempt is decided by [`ringmain_policy::retry`]: again only what is
//! provably unprocessed, or what was answered before its first content and does no harm when it is
//! done twice. With the first content the answer is settled, and with it the way back: the head of
//! an answer and what came before its first content are held in a [`window`] until then.

pub(crate) mod adaptive;
mod entry;
pub(crate) mod health;
mod plan;
pub(crate) mod verdict;
pub(crate) mod window;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringmain_policy::ExchangeLimits;
use ringmain_upstream::{Answer, Call, Endpoint, Progress};
use ringmain_wire::head::Method;
use ringmain_wire::{Mode, Sent};
use tokio::time::{Instant, sleep_until};

use crate::admit::Permit;
use crate::alarm::Waiting;
use crate::egress::Egress;
use crate::failure::Failure;
use crate::pipeline::{self, Inbound};
use crate::producer;
use crate::record::Record;
use crate::relay::{self, Ended};
use crate::routes::{Served, ServedBy, ServedTarget};

use self::entry::Pick;
use self::health::Running;
use self::plan::{Plan, Then};
use self::verdict::Failed;

/// How long a refusal is read before the next attempt, so that its connection is free meanwhile.
const HELD_WITHIN: Duration = Duration::from_millis(100);
/// Most bytes of a refusal that are kept meanwhile.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// Makes attempts until one gives content or none may follow, and relays its answer to the end.
pub(crate) async fn run<E: Egress>(
    route: &Arc<Served>,
    permit: Permit<'_>,
    inbound: &mut Inbound<'_>,
    egress: &mut E,
    record: &mut Record,
) -> Result<Ended, Failure> {
    let is_idempotent = verdict::is_idempotent(&inbound.head, inbound.flags);
    let uid = inbound.caller.uid;
    let mut plan = Plan::new(route.clone(), uid, is_idempotent, inbound.id.seed());
    record.is_admitting = true;
    record.adaptive = route.adaptive.clone().filter(|_| streams(inbound));
    let mut course = Course { route, permit, inbound, egress, record };
    let mut pick = entry::enter(&mut plan, &mut course.permit, course.inbound).await?;
    // Bound: each round makes an attempt, and the policy ends them by number and by time.
    loop {
        plan.makes(pick.index);
        let target = route.target(pick.index);
        let limits = limits_of(route, target, course.inbound);
        let mut failed = match course.attempt(target, pick.running, &limits).await {
            Ok(ended) => return Ok(ended),
            Err(Failed::Lost(failure)) if course.record.is_settled => return Err(failure),
            Err(failed) => failed,
        };
        course.charge(&failed);
        pick = match course.next(&mut plan, &mut failed).await {
            Some(pick) => pick,
            None => return course.pass_on(failed, &limits).await,
        };
    }
}

/// What all attempts of a request share.
struct Course<'a, 'i, E> {
    route: &'a Served,
    permit: Permit<'a>,
    inbound: &'a mut Inbound<'i>,
    egress: &'a mut E,
    record: &'a mut Record,
}

impl<E> Drop for Course<'_, '_, E> {
    /// What is cut off in the midst of an answer is charged with what was delivered of it.
    fn drop(&mut self) {
        self.permit.cut(self.record);
    }
}

impl<E: Egress> Course<'_, '_, E> {
    /// One attempt, up to the end of the exchange if it gives content.
    async fn attempt(
        &mut self,
        target: &ServedTarget,
        running: Option<Running>,
        limits: &ExchangeLimits,
    ) -> Result<Ended, Failed> {
        self.inbound.keep_within(limits);
        let ServedBy::Endpoint(endpoint) = &target.server else {
            return Ok(self.ask_producer(target, limits).await?);
        };
        let mut answer = self.send(target, endpoint, running, limits).await?;
        if answer.status >= 400 {
            return Err(Failed::Refused(answer));
        }
        self.record.had_head();
        if verdict::may_be_an_object(&self.inbound.head, self.inbound.mode) {
            self.inbound.alarm.wait_for(Waiting::FirstContent(limits.first_content));
            if answer.opens_with_error().await {
                return Err(Failed::Refused(answer));
            }
        }
        Ok(self.relay(&mut answer, limits).await?)
    }

    /// Sends the request to an endpoint and waits for the head of its answer.
    async fn send(
        &mut self,
        target: &ServedTarget,
        endpoint: &Endpoint,
        running: Option<Running>,
        limits: &ExchangeLimits,
    ) -> Result<Box<Answer>, Failure> {
        let Course { route, permit, inbound, record, .. } = self;
        let alarm = inbound.alarm;
        let mut call = call(inbound, target, endpoint, record.progress.clone()).await?;
        call.connect = Some(limits.connect);
        record.target(&route.model, endpoint.name());
        record.running = running;
        if let Some(running) = &mut record.running {
            running.begin(record.progress.clone());
        }
        permit.sent();
        let connect = limits.connect.min(endpoint.config().connect_timeout);
        alarm.wait_for(Waiting::Dispatch { connect, write: limits.write, head: limits.head });
        let answer = endpoint.send(call).await;
        // The endpoint repeats a request that was refused for what it put in itself.
        record.attempts = record.attempts.max(record.progress.attempts());
        let answer = answer?;
        record.status = Some(answer.status);
        Ok(answer)
    }

    async fn relay(
        &mut self,
        answer: &mut Answer,
        limits: &ExchangeLimits,
    ) -> Result<Ended, Failure> {
        let Course { permit, inbound, egress, record, .. } = self;
        let ended = relay::run(answer, limits, inbound, *egress, record).await;
        if ended.is_ok() || record.is_settled {
            permit.close(record, &ended);
        }
        ended
    }

    /// Gives the request to a producer. Once it has it, whatever becomes of it is what the caller
    /// is told.
    async fn ask_producer(
        &mut self,
        target: &ServedTarget,
        limits: &ExchangeLimits,
    ) -> Result<Ended, Failure> {
        let Course { route, permit, inbound, egress, record } = self;
        let held = producer::dispatch::ask(route, target, inbound, *egress, record).await?;
        record.is_settled = true;
        permit.sent();
        let ended = producer::relay::run(held, limits, inbound, *egress, record).await;
        permit.close(record, &ended);
        ended
    }

    /// An attempt failed: its endpoint's health and its limits are told.
    fn charge(&mut self, failed: &Failed) {
        if let Some(mut running) = self.record.running.take() {
            failed.charge(&mut running);
        }
        match failed {
            Failed::Refused(answer) if answer.status == 429 => {
                self.permit.refused(answer.retry_after_ms);
            }
            Failed::Refused(_) => {}
            Failed::Lost(failure) => self.permit.failed(failure.sent),
        }
    }

    /// Gives the caller what the last attempt ended with.
    async fn pass_on(&mut self, failed: Failed, limits: &ExchangeLimits) -> Result<Ended, Failure> {
        match failed {
            Failed::Lost(failure) => Err(failure),
            Failed::Refused(mut answer) => {
                let ended = self.relay(&mut answer, limits).await;
                self.permit.failed(Sent::Yes);
                ended
            }
        }
    }

    /// The target of the next attempt, when the time for it has come; `None`: there is to be none,
    /// and what failed is passed on.
    async fn next(&mut self, plan: &mut Plan, failed: &mut Failed) -> Option<Pick> {
        self.inbound.alarm.wait_for(Waiting::Nothing);
        let now_ns = self.inbound.alarm.now_ns();
        let left = self.inbound.alarm.deadline().left(now_ns);
        let then = plan.next(failed.fault(), failed.hints(), left, now_ns);
        if matches!(then, Then::PassOn) {
            return None;
        }
        self.let_go(failed).await;
        if let Then::Wait(wait) = then {
            if !wait.is_zero() {
                sleep_until(Instant::now() + wait).await;
            }
            plan.again();
        }
        entry::enter(plan, &mut self.permit, self.inbound).await.ok()
    }

    /// Another attempt may follow, and until then nothing is held of this one: its permit is given
    /// back, and a refusal is read into memory, so that its connection serves others.
    async fn let_go(&mut self, failed: &mut Failed) {
        self.record.sent = self.record.sent.max(failed.sent());
        self.permit.failed(failed.sent());
        if let Failed::Refused(answer) = failed {
            answer.hold(HELD_BYTES_MAX, HELD_WITHIN).await;
        }
    }
}

/// The time limits of an attempt. What does not stream has nothing to show before its answer is
/// whole, so only the total counts for it.
fn limits_of(route: &Served, target: &ServedTarget, inbound: &Inbound<'_>) -> ExchangeLimits {
    let limits = route.limits(Some(target), inbound.limits);
    match streams(inbound) {
        true => limits,
        false => ExchangeLimits { head: limits.total, first_content: limits.total, ..limits },
    }
}

fn streams(inbound: &Inbound<'_>) -> bool {
    inbound.mode != Mode::Body && inbound.head.method == Method::Post
}

/// The request for one endpoint. Its body goes out from where it lies if nobody looks into it; else
/// as a private copy, of which what was judged is what is sent. The copy is kept for the attempts
/// that may follow.
async fn call<'a>(
    inbound: &'a mut Inbound<'_>,
    target: &'a ServedTarget,
    endpoint: &Endpoint,
    progress: Progress,
) -> Result<Call<'a>, Failure> {
    let has_body = inbound.head.method == Method::Post;
    let looks_into = has_body && {
        let (head, progress) = (&inbound.head, progress.clone());
        let mut call = Call::observed(head, Bytes::new(), inbound.mode, inbound.flags, progress);
        call.model = model_of(target, inbound);
        endpoint.looks_into(&call)
    };
    if looks_into && inbound.copy.is_none() {
        inbound.copy = Some(pipeline::private_body(inbound).await?);
    }
    let body = match (&inbound.copy, looks_into) {
        (Some(copy), true) => copy.clone(),
        _ if has_body => inbound.body.lent(),
        _ => Bytes::new(),
    };
    let inbound = &*inbound;
    let mut call = Call::observed(&inbound.head, body, inbound.mode, inbound.flags, progress);
    call.model = model_of(target, inbound);
    call.uid = inbound.caller.uid;
    call.account = Some(inbound.copies);
    Ok(call)
}

/// The model name that is put into the body, if one has to be.
fn model_of<'a>(target: &'a ServedTarget, inbound: &'a Inbound<'_>) -> Option<&'a str> {
    let judged = target.is_guarded.then_some(inbound.head.route);
    target.model.as_deref().or(judged)
}
