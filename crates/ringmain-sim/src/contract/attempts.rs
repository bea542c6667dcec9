//! Clauses about how often a request goes upstream: 4, 5 and 6.

use ringmain_wire::Sent;

use super::check::{Case, Findings, is_accepted, is_request};
use super::record::{CallerRecord, End};
use crate::fault::Fault;
use crate::provider::ProviderRecord;

pub(super) fn judge(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    if !is_request(caller) || !is_accepted(caller) || !case.has_provider() {
        return;
    }
    unsent(case, caller, found);
    repeated(case, caller, found);
    counted(case, caller, found);
}

/// 4: what is said not to have been sent was not, or was refused unprocessed.
fn unsent(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    let is_unsent = matches!(caller.end, Some(End::Error { sent, .. }) if sent == Sent::No as u8);
    let seen = |attempt: &&ProviderRecord| !is_unprocessed(attempt);
    // Of several attempts, the last one is what the error speaks of.
    if is_unsent && case.attempts(caller).last().is_some_and(seen) {
        found.add(4, caller, "its error says that nothing was sent, but the provider saw it");
    }
}

/// 4: at most once upstream, unless 5: provably unprocessed or an answer that may be retried.
/// 6: never after content.
fn repeated(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    let Some((_, earlier)) = case.attempts(caller).split_last() else { return };
    for attempt in earlier {
        let number = attempt.number;
        if brought_content(attempt) {
            let what = format_args!("sent again although request {number} had brought content");
            found.add(6, caller, what);
        }
        match attempt.status {
            _ if is_unprocessed(attempt) => {}
            _ if is_failed_answer(attempt) && !caller.once => {}
            _ if is_failed_answer(attempt) => {
                found.add(5, caller, "sent again although once was asked for");
            }
            status => {
                let what = format_args!("sent again after request {number} with status {status:?}");
                found.add(4, caller, what);
            }
        }
    }
}

/// 4: the attempts told are those that the provider saw; fewer only where some never reached it.
fn counted(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    let Some(told) = caller.attempts_told() else { return };
    let seen = case.attempts(caller).len();
    if seen > usize::from(told) {
        let what = format_args!("{told} attempts are told, the provider saw {seen}");
        found.add(4, caller, what);
    }
    let is_answered = matches!(caller.end, Some(End::End { .. }));
    if case.history.all_attempts_seen && is_answered && seen < usize::from(told) {
        let what = format_args!("{told} attempts are told, the provider saw only {seen}");
        found.add(4, caller, what);
    }
}

/// Whether the provider said that it did nothing for it.
fn is_unprocessed(attempt: &ProviderRecord) -> bool {
    attempt.fault().is_some_and(|fault| fault.is_unprocessed())
}

/// Whether its client must have got content: a reset takes away what was not read yet.
fn brought_content(attempt: &ProviderRecord) -> bool {
    attempt.tokens_sent > 0 && !attempt.fault().is_some_and(|fault| fault.resets_connection())
}

/// Whether its answer failed in a way that may be tried again before any content.
fn is_failed_answer(attempt: &ProviderRecord) -> bool {
    let fault = attempt.fault();
    match attempt.status {
        Some(408 | 409 | 429 | 500..=599) => true,
        // `x-should-retry: true` stands over the status.
        Some(_) if fault == Some(Fault::DoRetry400) => true,
        // A good status, and an error object in the place of content.
        Some(200..=299) => {
            !brought_content(attempt) && fault.is_some_and(|fault| fault.is_error_object())
        }
        _ => false,
    }
}
