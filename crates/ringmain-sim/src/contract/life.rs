//! Clauses about lives: of exchanges, processes, brokers and sessions: 10, 11, 18, 19 and 20.

use ringmain_wire::Code;

use super::check::{Case, Findings, is_accepted, ms};
use super::delivery::is_broker_loss;
use super::history::Drain;
use super::record::{CallerRecord, End};

pub(super) fn judge(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    // A process killed inside the call has no answer on record, and may have published all the
    // same.
    death(case, caller, found);
    if !is_accepted(caller) {
        return;
    }
    cancel(case, caller, found);
    broker_death(case, caller, found);
    for drain in case.history.drains.iter().filter(|drain| drain.epoch == caller.epoch) {
        drained(case, drain, caller, found);
    }
    let is_hostile = case.history.hostilities.iter().any(|peer| peer.session == caller.session);
    if caller.error_code().is_some_and(Code::is_violation) && !is_hostile {
        found.add(20, caller, "a violation was charged to a peer that committed none");
    }
}

/// What no single exchange shows.
pub(super) fn judge_all(case: &Case<'_>, found: &mut Findings) {
    for gauge in case.history.gauges.iter().filter(|gauge| gauge.value != gauge.rest) {
        let (name, value, rest) = (&gauge.name, gauge.value, gauge.rest);
        found.add_general(11, format!("{name} is {value} after everything ended, not {rest}"));
    }
    for peer in &case.history.hostilities {
        let code = peer.code.and_then(Code::from_number);
        let what = match (peer.closed_ns, code) {
            (None, _) => "was not closed".to_owned(),
            (Some(_), Some(code)) if code.is_violation() => continue,
            (Some(_), code) => format!("was closed with {code:?}, not with its violation"),
        };
        let (session, did) = (peer.session, &peer.what);
        found.add_general(20, format!("session {session} did {did:?} and {what}"));
    }
    for drain in &case.history.drains {
        let limit =
            drain.at_ns + drain.limit_ns + case.bounds.broker_gone_ns + case.bounds.slack_ns;
        if drain.exited_ns.is_none_or(|exited| exited > limit) {
            let epoch = drain.epoch;
            found.add_general(18, format!("broker {epoch} did not exit within its drain limit"));
        }
    }
}

/// 10: after a cancel the upstream is let go, and never called anew.
fn cancel(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    let Some(cancelled) = caller.cancelled_ns else { return };
    if caller.ended_ns().is_some_and(|ended| ended < cancelled) {
        return;
    }
    let limit = cancelled + case.bounds.cancel_ns + case.bounds.slack_ns;
    let died = case.broker_died_ns(caller).is_some_and(|died| died < limit);
    for attempt in case.attempts(caller) {
        let number = attempt.number;
        match attempt.ended {
            None => found.add(10, caller, format_args!("request {number} still runs upstream")),
            Some(ended) if ended.at_ns > limit && !died => {
                let late = ms(ended.at_ns - cancelled);
                let what = format_args!("request {number} was let go {late} after the cancel");
                found.add(10, caller, what);
            }
            Some(_) => {}
        }
        if attempt.arrived_ns > limit {
            found.add(10, caller, format_args!("request {number} came after the cancel"));
        }
    }
}

/// 11: the death of a client cancels all it had.
fn death(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    let Some(died) = case.died_ns(caller) else { return };
    let limit = died + case.bounds.death_ns + case.bounds.slack_ns;
    for attempt in case.attempts(caller) {
        let number = attempt.number;
        if attempt.ended.is_none_or(|ended| ended.at_ns > limit) {
            let what = format_args!("request {number} outlived its client by more than the bound");
            found.add(11, caller, what);
        }
        if attempt.arrived_ns > limit {
            found.add(11, caller, format_args!("request {number} came after its client's death"));
        }
    }
}

/// 19: an exchange of a dead broker ends so, and no other does.
fn broker_death(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    let code = caller.error_code();
    let Some(died) = case.broker_died_ns(caller) else {
        let exited = case.history.drains.iter().any(|drain| drain.epoch == caller.epoch);
        if is_broker_loss(code) && !exited {
            found.add(19, caller, "its broker is said to be gone, but it was not");
        }
        return;
    };
    // Frames written before the death may be read after it: only the end of what had none counts.
    let wrote_before = |attempt: &&crate::provider::ProviderRecord| {
        attempt.ended.is_some_and(|ended| ended.at_ns <= died + case.bounds.slack_ns)
    };
    let may_have_ended =
        caller.submitted_ns <= died && case.attempts(caller).iter().any(wrote_before);
    match caller.end {
        Some(End::End { .. }) if caller.submitted_ns > died => {
            found.add(19, caller, "a dead broker answered it");
        }
        Some(End::Error { .. }) if !is_broker_loss(code) && !may_have_ended => {
            let late = caller.ended_ns().is_some_and(|ended| ended > died + case.bounds.slack_ns);
            // Deadlines and cancels are decided on the caller's side as well.
            let own = matches!(code, Some(Code::DeadlineExceeded | Code::Cancelled));
            if late && !own {
                found.add(19, caller, format_args!("its broker died, but it ended in {code:?}"));
            }
        }
        _ => {}
    }
}

/// 18: a draining broker takes nothing new, and lets what runs go on up to its limit.
fn drained(case: &Case<'_>, drain: &Drain, caller: &CallerRecord, found: &mut Findings) {
    let slack = case.bounds.slack_ns;
    let code = caller.error_code();
    let is_new = caller.submitted_ns > drain.at_ns + slack;
    let is_let_in = caller.status.is_some() || !case.attempts(caller).is_empty();
    if is_new && is_let_in {
        found.add(18, caller, "a draining broker took it");
    }
    if code == Some(Code::Drained)
        && caller.ended_ns().is_some_and(|ended| ended + slack < drain.at_ns + drain.limit_ns)
    {
        found.add(18, caller, "it was cut before the drain limit");
    }
    if code == Some(Code::Draining) && caller.submitted_ns + slack < drain.at_ns {
        found.add(18, caller, "it was refused though it came before the drain");
    }
}
