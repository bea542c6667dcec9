//! Clauses about what was delivered against what the provider sent: 7, 8 and 13.

use std::collections::HashMap;

use ringmain_wire::Code;

use super::check::{Case, Findings, is_accepted, is_request};
use super::record::{CallerRecord, End, Mode};
use crate::plan::{Channel, Plan};
use crate::provider::{How, ProviderRecord};

pub(super) fn judge(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    if !is_request(caller) || !is_accepted(caller) || !case.has_provider() {
        return;
    }
    ending(case, caller, found);
    prefix(case, caller, found);
}

/// 13, over all exchanges: what belongs to one uid alone.
pub(super) fn judge_all(case: &Case<'_>, found: &mut Findings) {
    let mut owners: HashMap<(u64, u64), &CallerRecord> = HashMap::new();
    for caller in case.history.callers.iter().filter(|caller| is_accepted(caller)) {
        let owner = owners.entry((caller.epoch, caller.session)).or_insert(caller);
        if owner.uid != caller.uid {
            let (a, b) = (owner.uid, caller.uid);
            found.add(13, caller, format_args!("uids {a} and {b} share a session"));
        }
    }
}

/// 7: END only when the provider completed; ERROR after the exact prefix that it names.
fn ending(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    let delivered = caller.content_bytes();
    let (claimed, is_end) = match caller.end {
        Some(End::End { bytes }) => (bytes, true),
        Some(End::Error { bytes, .. }) => (bytes, false),
        None => return,
    };
    // An unfinished event is not shown to a caller, though its bytes were delivered.
    let is_exact = is_end || caller.mode != Mode::Events;
    let differs = |claimed: u64| claimed < delivered || (is_exact && claimed != delivered);
    if let Some(claimed) = claimed.filter(|&claimed| differs(claimed)) {
        let what = format_args!("its end names {claimed} bytes, {delivered} were delivered");
        found.add(7, caller, what);
    }
    if !is_end {
        return;
    }
    let Some(last) = case.attempts(caller).last() else {
        found.add(7, caller, "END, but the provider never saw it");
        return;
    };
    if !is_complete(last) && !is_other_body(caller, last) {
        found.add(7, caller, format_args!("END, but the provider {}", fate(last)));
    }
    let is_error_status = last.status.is_some_and(|status| !(200..300).contains(&status));
    if is_error_status && caller.mode == Mode::Deltas {
        found.add(7, caller, "END after an error status in mode deltas");
    }
}

/// 8: a prefix of what the provider sent; whole when the end was good. 13: if not its own, then
/// perhaps another uid's.
fn prefix(case: &Case<'_>, caller: &CallerRecord, found: &mut Findings) {
    let Some(last) = case.attempts(caller).last() else {
        if caller.content_bytes() > 0 {
            found.add(8, caller, "content came, but the provider never saw it");
        }
        return;
    };
    let Some(plan) = &last.plan else { return };
    for (channel, total, hash) in caller.channels() {
        // The words of a refused credential are withheld, and others stand in their place.
        if matches!(last.status, Some(401 | 403)) && channel == Channel::Body {
            continue;
        }
        if let Some(is_whole) = is_prefix(case, caller, last, plan, channel, total, hash) {
            let is_good = matches!(caller.end, Some(End::End { .. })) && is_complete(last);
            if is_good && !is_whole {
                found.add(
                    8,
                    caller,
                    format_args!("END after {total} bytes of {channel:?}, not all"),
                );
            }
            continue;
        }
        let what = format_args!("{total} bytes of {channel:?} are no prefix of what was sent");
        found.add(8, caller, what);
        if let Some(owner) = foreign_owner(case, caller, channel, total, hash) {
            let what = format_args!("uid {} got content of uid {}", caller.uid, owner.uid);
            found.add(13, caller, what);
        }
    }
    let is_good = matches!(caller.end, Some(End::End { .. })) && is_complete(last);
    if is_good && caller.content_bytes() == 0 && last.tokens_sent > 0 {
        found.add(8, caller, "END without any content, though the provider sent some");
    }
}

/// `Some(whether it is all)` when the bytes are a prefix of the channel, or cannot be judged.
fn is_prefix(
    case: &Case<'_>,
    caller: &CallerRecord,
    last: &ProviderRecord,
    plan: &Plan,
    channel: Channel,
    total: u64,
    hash: u64,
) -> Option<bool> {
    // The provider hashed a whole answer itself: nothing need be computed again.
    if channel == Channel::Body && (last.answer_hash, last.bytes_sent) == (Some(hash), total) {
        return Some(true);
    }
    let folder = case.history.replay_dir.as_deref();
    let fits = |plan: &Plan| {
        let prefix = plan.prefix_with(folder, channel, total)?;
        Some((prefix.bytes == total && prefix.hash == hash).then_some(prefix.is_whole))
    };
    let Some(verdict) = fits(plan) else {
        return opaque(last, channel, total, hash);
    };
    // The usage chunk that the broker provoked may be withheld.
    let withheld = || {
        let withholds = plan.usage && !caller.usage_requested && channel == Channel::Events;
        withholds.then(|| fits(&Plan { usage: false, ..plan.clone() })).flatten().flatten()
    };
    verdict.or_else(withheld)
}

/// What can be said about bytes that cannot be computed again.
fn opaque(last: &ProviderRecord, channel: Channel, total: u64, hash: u64) -> Option<bool> {
    let is_body = channel == Channel::Body && last.fault().is_none_or(|fault| fault.is_harmless());
    match last.answer_hash {
        Some(sent) if is_body && total == last.bytes_sent => (sent == hash).then_some(true),
        _ if is_body && total > last.bytes_sent => None,
        _ => Some(true),
    }
}

/// Another uid's exchange whose content this is.
fn foreign_owner<'a>(
    case: &Case<'a>,
    caller: &CallerRecord,
    channel: Channel,
    total: u64,
    hash: u64,
) -> Option<&'a CallerRecord> {
    case.history.callers.iter().filter(|other| other.uid != caller.uid).find(|other| {
        let plans = case.attempts(other).iter().filter_map(|attempt| attempt.plan.as_ref());
        let prefixes = plans.filter_map(|plan| plan.prefix(channel, total));
        prefixes.into_iter().any(|prefix| prefix.bytes == total && prefix.hash == hash)
    })
}

/// Whether the provider gave a whole body that is no stream, to a caller who asked for bytes.
fn is_other_body(caller: &CallerRecord, record: &ProviderRecord) -> bool {
    let is_fault = record.fault().is_some_and(|fault| fault.is_other_body());
    is_fault && caller.mode != Mode::Deltas && record.ended.is_some()
}

/// Whether the provider gave a whole answer, with its marker if it was a stream.
fn is_complete(record: &ProviderRecord) -> bool {
    let is_stream = record.plan.as_ref().is_some_and(|plan| plan.stream);
    let needs_marker = is_stream && record.status == Some(200);
    // A client that saw the marker may hang up before the last bytes of the framing are written.
    let ended = record.how() == Some(How::Completed);
    if needs_marker { record.marker_sent } else { ended }
}

fn fate(record: &ProviderRecord) -> String {
    match (record.ended, record.marker_sent) {
        (None, _) => "has not ended it".to_owned(),
        (Some(ended), false) => format!("ended it by {:?} without its marker", ended.how),
        (Some(ended), true) => format!("ended it by {:?}", ended.how),
    }
}

/// Codes that a caller may see when its broker went away.
pub(super) fn is_broker_loss(code: Option<Code>) -> bool {
    matches!(code, Some(Code::BrokerGone | Code::BrokerRestarted))
}
