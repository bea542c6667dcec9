//! The checker: a history in, violations out.
//!
//! Judged offline from what both ends wrote down, so it needs no access to what runs and trusts
//! neither the broker nor the client library. A clause that needs a witness which a history does
//! not have (no provider record, no death ...) is simply not shown by that history.

use std::collections::HashMap;
use std::fmt;

use super::history::{Bounds, History};
use super::record::{CallerRecord, Mode, Returned};
use super::{attempts, delivery, exchange, fairness, life};
use crate::provider::ProviderRecord;

/// A clause broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number.
    pub clause: u8,
    /// What happened, with the ids.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clause {}: {}", self.clause, self.what)
    }
}

/// Judges a history by every clause that it can show.
pub fn check(history: &History) -> Vec<Violation> {
    let case = Case::new(history);
    let mut found = Findings::default();
    for caller in &history.callers {
        exchange::judge(&case, caller, &mut found);
        attempts::judge(&case, caller, &mut found);
        delivery::judge(&case, caller, &mut found);
        life::judge(&case, caller, &mut found);
    }
    delivery::judge_all(&case, &mut found);
    fairness::judge_all(&case, &mut found);
    life::judge_all(&case, &mut found);
    found.0
}

/// A history with the look-ups that the clauses need.
pub(super) struct Case<'a> {
    pub(super) history: &'a History,
    pub(super) bounds: Bounds,
    by_id: HashMap<&'a str, Vec<&'a ProviderRecord>>,
    deaths: HashMap<u64, u64>,
    broker_deaths: HashMap<u64, u64>,
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Findings(Vec<Violation>);

impl Findings {
    pub(super) fn add(&mut self, clause: u8, caller: &CallerRecord, what: impl fmt::Display) {
        let CallerRecord { id, process, session, exchange, .. } = caller;
        let what = format!("{id} (process {process}, {session}/{exchange}): {what}");
        self.0.push(Violation { clause, what });
    }

    pub(super) fn add_general(&mut self, clause: u8, what: String) {
        self.0.push(Violation { clause, what });
    }
}

impl<'a> Case<'a> {
    fn new(history: &'a History) -> Case<'a> {
        let mut by_id: HashMap<&str, Vec<&ProviderRecord>> = HashMap::new();
        for record in history.provider.iter().filter(|record| !record.id().is_empty()) {
            by_id.entry(record.id()).or_default().push(record);
        }
        let deaths = history.deaths.iter().map(|death| (death.process, death.at_ns));
        let brokers = history.broker_deaths.iter().map(|death| (death.epoch, death.at_ns));
        Case {
            history,
            bounds: history.bounds,
            by_id,
            deaths: deaths.collect(),
            broker_deaths: brokers.collect(),
        }
    }

    /// The provider's records of this exchange, in the order of arrival.
    pub(super) fn attempts(&self, caller: &CallerRecord) -> &[&'a ProviderRecord] {
        self.by_id.get(caller.id.as_str()).map_or(&[], Vec::as_slice)
    }

    /// When the caller's process was killed.
    pub(super) fn died_ns(&self, caller: &CallerRecord) -> Option<u64> {
        self.deaths.get(&caller.process).copied()
    }

    /// When the broker of this exchange was killed.
    pub(super) fn broker_died_ns(&self, caller: &CallerRecord) -> Option<u64> {
        self.broker_deaths.get(&caller.epoch).copied()
    }

    /// Whether the provider's side is recorded at all: without it nothing about it is judged.
    pub(super) fn has_provider(&self) -> bool {
        !self.history.provider.is_empty()
    }
}

/// Whether the submission was published.
pub(super) fn is_accepted(caller: &CallerRecord) -> bool {
    caller.returned == Returned::Accepted
}

/// Whether there is an upstream side to it.
pub(super) fn is_request(caller: &CallerRecord) -> bool {
    caller.mode != Mode::Ping
}

/// Milliseconds for people.
pub(super) fn ms(ns: u64) -> String {
    format!("{}.{:03} ms", ns / 1_000_000, ns / 1_000 % 1_000)
}
