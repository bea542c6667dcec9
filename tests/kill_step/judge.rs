//! The world that clients and producers die in, and what must be true of it afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringmain_broker::counters::Snapshot;
use ringmain_client::{Client, Code, Mode};
use ringmain_sim::contract::{CallerRecord, End, History, check};
use ringmain_sim::{Provider, ProviderConfig, Script};

use super::client::Case;
use super::march::Toll;
use crate::common::proc::holdings_at_rest;
use crate::common::quota::{COUNTERS, Quota, RELEASE, at_rest, counters};
use crate::common::record::Plan;
use crate::common::{self, Broker, WATCHDOG, eventually, wait_until};

/// A provider, a broker, and one client that is not to be disturbed.
pub struct World {
    provider: Provider,
    broker: Broker,
    holdings: BTreeMap<String, usize>,
    survivor: JoinHandle<Vec<CallerRecord>>,
    is_over: Arc<AtomicBool>,
    /// What may become of the exchanges of those that were killed or cancelled.
    ends: &'static [Code],
}

/// A killed process whose session must go.
pub struct Dead {
    pub pid: u32,
    pub case: Case,
    /// Where it was killed, in words.
    pub at: String,
    /// ms since 1970, as the counters tell their time.
    pub died_ms: u64,
}

/// What one uid may hold: what the test needs at once, far less than all victims had together.
const QUOTA: Quota = Quota { sessions: 24, exchanges: 48 };

// --- While they die --------------------------------------------------------------------------

impl World {
    /// A world with further routes, where the exchanges of the dead end so.
    pub fn start(routes: &str, ends: &'static [Code]) -> World {
        let provider = Provider::start(ProviderConfig::default()).unwrap();
        let config = common::Config {
            // A client knows of a full lane only because a single thread does all in order.
            broker: "threads = 1".to_owned(),
            tail: format!("{routes}{}", QUOTA.table()),
            ..common::Config::default()
        };
        let broker = Broker::start(provider.addr(), config);
        let holdings = holdings_at_rest(broker.pid());
        let is_over = Arc::new(AtomicBool::new(false));
        let client = Client::at(broker.socket()).unwrap();
        let told = is_over.clone();
        let survivor = thread::spawn(move || survive(&client, &told));
        World { provider, broker, holdings, survivor, is_over, ends }
    }

    pub fn socket(&self) -> std::path::PathBuf {
        self.broker.socket()
    }

    /// Judges each death by the first counters that were written a second after it: no session of
    /// that process may be among them. Ends when all deaths are judged.
    pub fn see_released(&self, dead: Receiver<Dead>) -> Vec<(Case, String)> {
        let (mut waiting, mut leaks) = (Vec::new(), Vec::new());
        let (mut last, mut is_over) = (Instant::now(), false);
        // Bound: the deaths, and the watchdog between two of them.
        while !is_over || !waiting.is_empty() {
            match dead.try_recv() {
                Ok(one) => {
                    waiting.push(one);
                    last = Instant::now();
                    continue;
                }
                Err(TryRecvError::Disconnected) => is_over = true,
                Err(TryRecvError::Empty) => {}
            }
            let counters = self.counters();
            let due =
                |dead: &mut Dead| dead.died_ms + RELEASE.as_millis() as u64 <= counters.updated_ms;
            for Dead { pid, case, at, .. } in waiting.extract_if(.., due) {
                let rows = &counters.session_rows;
                leaks.extend(
                    rows.iter()
                        .filter(|row| row.pid == pid)
                        .map(|row| (case, format!("{at}: {row:?} is still there"))),
                );
                last = Instant::now();
            }
            let is_stuck = !waiting.is_empty() && last.elapsed() > WATCHDOG;
            assert!(!is_stuck, "the broker does not write its counters any more");
            thread::sleep(Duration::from_millis(20));
        }
        leaks
    }

    /// What the dead of one operation left behind, once they had a second to be cleaned up.
    pub fn leftovers(&self) -> Option<String> {
        let own = u64::from(std::process::id());
        let is_clean = |counters: &Snapshot| {
            let rows = &counters.session_rows;
            rows.iter().all(|row| u64::from(row.pid) == own)
                && counters.exchanges <= rows.iter().map(|row| row.exchanges).sum::<u64>().max(1)
        };
        let is_rid = wait_until(RELEASE + COUNTERS, || is_clean(&self.counters()));
        (!is_rid).then(|| format!("the broker still holds something: {:?}", self.counters()))
    }

    fn counters(&self) -> Snapshot {
        counters(&self.broker)
    }
}

/// One stream after the other, in both modes, until told to stop.
fn survive(client: &Client, is_over: &AtomicBool) -> Vec<CallerRecord> {
    let mut records = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let mode = if records.len() % 2 == 0 { Mode::Deltas } else { Mode::Events };
        let script = Script { gap_us: 1000, ..Script::tokens(40) };
        records.push(Plan { mode, ..Plan::new(script) }.run(client));
    }
    records
}

// --- Afterwards ------------------------------------------------------------------------------

impl World {
    /// Judges all that was seen and counted, and prints what each operation cost.
    pub fn judge(self, mut history: History, tolls: &mut BTreeMap<&str, Toll>) {
        let World { provider, mut broker, holdings, survivor, is_over, ends } = self;
        is_over.store(true, Ordering::Relaxed);
        let intact = survivor.join().unwrap();
        for record in &intact {
            let is_good = matches!(record.end, Some(End::End { .. }));
            assert!(is_good, "the survivor was disturbed: {:?} {}", record.end, record.id);
        }
        let streams = intact.len();
        history.callers.extend(intact);
        history.gauges = at_rest(&broker, "after the last client");
        let pid = broker.pid();

        let mut others = Vec::new();
        let mut blame = |what: String| match tolls.iter_mut().find(|(name, _)| what.contains(*name))
        {
            Some((_, toll)) => toll.torn.push(what),
            None => others.push(what),
        };
        torn_requests(&history, &provider).into_iter().for_each(&mut blame);
        judge_contract(history, &provider).into_iter().for_each(&mut blame);
        print(tolls, streams);

        assert!(broker.is_alive() && broker.pid() == pid, "it is the broker that was started");
        let log = broker.log();
        assert!(!log.contains("panicked"), "the broker panicked:\n{log}");
        assert!(!log.contains("session closed"), "an honest client was accused:\n{log}");
        assert!(others.is_empty(), "{} violations, first: {}", others.len(), others[0]);
        let faults = |toll: &Toll| [&toll.torn, &toll.leaked, &toll.hung].map(Vec::clone).concat();
        let faults: Vec<String> = tolls.values().flat_map(faults).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        for (operation, toll) in tolls.iter() {
            // A few runs may be shorter than the measured one again and again.
            let (points, wanted) = (toll.points.len(), toll.wanted);
            assert!(points * 10 >= wanted * 9, "{operation}: {points} points, not {wanted}");
        }
        let counters = counters(&broker);
        // On a busy machine a march to a Hello may take longer than the broker waits for one.
        let is_odd = |(code, _): &&(Code, u64)| *code != Code::BadHello && !ends.contains(code);
        assert_eq!(counters.refusals.iter().find(is_odd), None, "nobody did anything wrong");
        assert_eq!(counters.failures.iter().find(is_odd), None, "nobody did anything wrong");
        QUOTA.can_be_had_again(&broker);
        let back = wait_until(RELEASE + COUNTERS, || common::proc::holdings(pid) == holdings);
        let now = common::proc::holdings(pid);
        assert!(back, "descriptors and mappings were {holdings:?}, are {now:?}");
    }
}

/// What the required line says of each operation, then how long its cases are.
fn print(tolls: &BTreeMap<&str, Toll>, streams: usize) {
    for (operation, toll) in tolls {
        let Toll { points, lengths, torn, leaked, hung, .. } = toll;
        let points = points.len();
        let (torn, leaked, hung) = (torn.len(), leaked.len(), hung.len());
        println!(
            "kill_step {operation}: {points} points, {torn} torn, {leaked} leaked, {hung} hung"
        );
        for (case, length) in lengths {
            println!("    {} takes {length} instructions", case.name());
        }
    }
    let deaths: usize = tolls.values().map(|toll| toll.deaths).sum();
    println!("{deaths} processes killed, {streams} streams of another one meanwhile, all intact");
}

/// Requests at the provider that no client has written like that. A part of one is no JSON, or
/// has lost its end, where the orders for the provider stand.
fn torn_requests(history: &History, provider: &Provider) -> Vec<String> {
    let known: BTreeSet<&str> = history.callers.iter().map(|caller| &*caller.id).collect();
    let is_whole = |record: &&ringmain_sim::ProviderRecord| match (&record.plan, record.status) {
        (Some(_), status) => known.contains(record.id()) && matches!(status, None | Some(200)),
        // The broker gave up sending it when its client died.
        (None, status) => status.is_none(),
    };
    let log = provider.log();
    log.iter()
        .filter(|record| !is_whole(record))
        .map(|torn| format!("publish: torn is {torn:?}"))
        .collect()
}

fn judge_contract(mut history: History, provider: &Provider) -> Vec<String> {
    eventually("the provider is at rest", || {
        provider.log().iter().all(|record| record.ended.is_some())
    });
    history.provider = provider.log();
    check(&history).iter().map(|violation| violation.to_string()).collect()
}
