//! Clauses that one caller's record shows by itself: 1, 2, 3, 9, 12 and 15.

use ringmain_wire::Code;

use super::check::{Case, Findings, is_accepted, ms};
use super::record::{CallerRecord, FrameKind, Returned};

pub(super) fn judge(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    submission(case, caller, found);
    terminal(case, caller, found);
    deadline(case, caller, found);
    order(caller, found);
}

/// 1: Ok means published. 12: WouldBlock means not.
fn submission(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    let clause = match caller.returned {
        Returned::WouldBlock => 12,
        Returned::Refused(_) => 1,
        // Nobody can tell what a call would have returned that was killed inside.
        _ => return,
    };
    if !caller.frames.is_empty() {
        found.add(clause, caller, "frames came for a submission that was not accepted");
    }
    if !case.attempts(caller).is_empty() {
        found.add(clause, caller, "the provider saw a submission that was not accepted");
    }
}

/// 2: exactly one terminal, last.
fn terminal(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    if !is_accepted(caller) {
        return;
    }
    let count = caller.frames.iter().filter(|frame| frame.kind.is_terminal()).count();
    match count {
        0 if caller.dropped || case.died_ns(caller).is_some() => {}
        0 => found.add(2, caller, "no terminal frame came"),
        1 if !caller.frames.last().is_some_and(|frame| frame.kind.is_terminal()) => {
            found.add(2, caller, "frames came after the terminal one");
        }
        1 => {}
        _ => found.add(2, caller, format_args!("{count} terminal frames came")),
    }
    let limit = case.bounds.broker_gone_ns + case.bounds.slack_ns;
    if let (Some(died), Some(ended)) = (case.broker_died_ns(caller), caller.ended_ns())
        && ended > died.max(caller.submitted_ns) + limit
    {
        let late = ms(ended - died);
        found.add(2, caller, format_args!("ended {late} after the death of its broker"));
    }
}

/// 3: no call outlives its deadline. 15: deadlines are absolute, so none fires early either.
fn deadline(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    let Some(deadline) = caller.deadline_ns else { return };
    let patience = case.bounds.deadline_ns + case.bounds.slack_ns;
    // A call whose deadline has passed already is to be told at once.
    let limit = deadline.max(caller.submitted_ns).saturating_add(patience);
    let last = caller.returned_ns.max(caller.ended_ns());
    if let Some(last) = last.filter(|&last| last > limit) {
        found.add(3, caller, format_args!("ended {} after its deadline", ms(last - deadline)));
    }
    let is_deadline = caller.error_code() == Some(Code::DeadlineExceeded);
    if let Some(ended) = caller.ended_ns().filter(|_| is_deadline)
        && ended < deadline
    {
        let early = ms(deadline - ended);
        found.add(15, caller, format_args!("DeadlineExceeded {early} before the deadline"));
    }
    if case.attempts(caller).iter().any(|attempt| attempt.arrived_ns > limit) {
        found.add(15, caller, "the provider was called after the deadline");
    }
}

/// 9: order within an exchange.
fn order(caller: &CallerRecord, found: &mut Findings) {
    let heads = caller.frames.iter().filter(|frame| frame.kind == FrameKind::Head).count();
    let first = caller.frames.first().map(|frame| frame.kind);
    if heads > 1 {
        found.add(9, caller, format_args!("{heads} HEAD frames came"));
    }
    if heads == 1 && first != Some(FrameKind::Head) {
        found.add(9, caller, "HEAD is not the first frame");
    }
    if heads == 0 && caller.frames.iter().any(|frame| frame.kind.is_content()) {
        found.add(9, caller, "content came without HEAD");
    }
    let backwards = |pair: &[super::Frame]| {
        let by_broker = pair[1].broker_ns != 0 && pair[1].broker_ns < pair[0].broker_ns;
        pair[1].t_ns < pair[0].t_ns || by_broker
    };
    if caller.frames.windows(2).any(backwards) {
        found.add(9, caller, "times of frames go backwards");
    }
}
