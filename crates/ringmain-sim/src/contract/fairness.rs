//! Clause 14: with n active uids each gets at least 1/(2n) of the admissions.

use std::collections::HashMap;

use super::check::{Case, Findings, is_accepted};
use super::history::Contention;

/// Over each time of contention that the history names. An admission is the arrival of a first
/// attempt at the provider.
pub(super) fn judge_all(case: &Case<'_>, found: &mut Findings) {
    for contention in &case.history.contentions {
        let admitted = admissions(case, contention);
        let total: u64 = admitted.values().sum();
        let uids = contention.uids.len() as u64;
        // Whole admissions only: a share of less than one owes nothing yet.
        let share = total / (2 * uids.max(1));
        for uid in &contention.uids {
            let got = admitted.get(uid).copied().unwrap_or(0);
            if got < share {
                let what = format!(
                    "uid {uid} got {got} of {total} admissions among {uids} uids, not {share}"
                );
                found.add_general(14, what);
            }
        }
    }
}

fn admissions(case: &Case<'_>, contention: &Contention) -> HashMap<u32, u64> {
    let during = contention.from_ns..contention.until_ns;
    let mut admitted = HashMap::new();
    for caller in case.history.callers.iter().filter(|caller| is_accepted(caller)) {
        let first = case.attempts(caller).first().map(|attempt| attempt.arrived_ns);
        if contention.uids.contains(&caller.uid) && first.is_some_and(|at| during.contains(&at)) {
            *admitted.entry(caller.uid).or_default() += 1;
        }
    }
    admitted
}
