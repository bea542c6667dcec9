//! Client processes killed by the hundred, while others stream.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::os::unix::process::{ExitStatusExt as _, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ringmain_client::{Client, Code, Mode};
use ringmain_shm::monotonic_ns;
use ringmain_sim::contract::{CallerRecord, Death, End, History};
use ringmain_sim::{Provider, ProviderConfig, Script};

use super::random::{Random, kills, seed};
use super::tape::{Phase, Reel};
use crate::common::proc::holdings_at_rest;
use crate::common::quota::{COUNTERS, Quota, RELEASE, at_rest, counters};
use crate::common::record::{Plan, assert_kept};
use crate::common::{self, Broker, WATCHDOG, child_of, eventually, report, wait_until};

/// Kills in each phase that a run must have.
const EACH: u64 = 50;
/// Processes that are hunted at the same time.
const HUNTERS: usize = 3;
/// Processes that stream all along.
const SURVIVORS: u64 = 2;
/// Number of the first survivor, beyond those of all victims.
const FIRST_SURVIVOR: u64 = 1_000_000;

/// What one uid may hold here: what the run needs at once, and far less than what all its victims
/// had together. At the end all of it must be there to be had again.
const QUOTA: Quota = Quota { sessions: 64, exchanges: 192 };

/// What the hunters share.
struct Hunt<'a> {
    broker: &'a Broker,
    next: AtomicU64,
    bag: Mutex<Bag>,
}

/// What they brought home.
#[derive(Default)]
struct Bag {
    counts: BTreeMap<u64, u64>,
    records: Vec<CallerRecord>,
    deaths: Vec<Death>,
}

/// What may become of the exchanges of clients that were killed or cancelled.
const ENDS: [Code; 2] = [Code::Cancelled, Code::SessionClosed];

/// A killed client whose session must go.
struct Dead {
    pid: u32,
    phase: Phase,
    /// ms since 1970, as the counters tell their time.
    died_ms: u64,
}

/// The whole test.
pub fn run() {
    // Small buffers: a stream whose lane is full holds the provider back at once. It would fill
    // megabytes otherwise, and be late itself as the witness of how soon others are let go.
    let small = ProviderConfig { send_buffer_bytes: Some(16 << 10), ..ProviderConfig::default() };
    let provider = Provider::start(small).unwrap();
    let mut broker = Broker::start(provider.addr(), config());
    let pid = broker.pid();
    at_rest(&broker, "before the first client");
    let holdings = holdings_at_rest(pid);

    let survivors = Survivors::start(&broker);
    let bag = hunt(&broker);
    let history = survivors.stop();
    let intact = history.callers.len();

    let mut history = History { deaths: bag.deaths, ..history };
    // A cancel here races with the kill and may never have been published: what is let go is let
    // go by the death, in its time. How fast a cancel acts by itself is shown elsewhere.
    history.bounds.cancel_ns = history.bounds.death_ns;
    history.callers.extend(bag.records);
    history.gauges = at_rest(&broker, "after the last client");
    let is_odd = |(code, _): &&(Code, u64)| !ENDS.contains(code);
    let refusals = counters(&broker).refusals;
    assert_eq!(refusals.iter().find(is_odd), None, "nobody did anything wrong");
    let killed = history.deaths.len();
    print_counts(&bag.counts, killed);
    let of_killed = &history.callers[intact..];
    let frames: usize = of_killed.iter().map(|record| record.frames.len()).sum();
    let (exchanges, survivors) = (of_killed.len(), SURVIVORS);
    report(format_args!("they had {exchanges} exchanges, and {frames} frames of them"));
    report(format_args!("{intact} streams of {survivors} other processes at the same time"));
    assert!(broker.is_alive() && broker.pid() == pid, "it is the broker that was started");
    assert!(!broker.log().contains("panicked"), "the broker panicked:\n{}", broker.log());
    assert_kept(history, &provider);
    QUOTA.can_be_had_again(&broker);
    let back = wait_until(RELEASE + COUNTERS, || common::proc::holdings(pid) == holdings);
    let now = common::proc::holdings(pid);
    assert!(back, "descriptors and mappings were {holdings:?}, are {now:?}");
}

fn config() -> common::Config {
    common::Config {
        // A victim knows of a full lane only because a single thread does everything in order.
        broker: "threads = 1".to_owned(),
        tail: QUOTA.table(),
        ..common::Config::default()
    }
}

// --- The hunt --------------------------------------------------------------------------------

fn hunt(broker: &Broker) -> Bag {
    let hunt = Hunt { broker, next: AtomicU64::new(1), bag: Mutex::default() };
    let (report, dead) = channel();
    thread::scope(|scope| {
        for _ in 0..HUNTERS {
            let (hunt, report) = (&hunt, report.clone());
            scope.spawn(move || hunt.hunt(&report));
        }
        drop(report);
        scope.spawn(move || see_released(broker, &dead));
    });
    hunt.bag.into_inner().unwrap()
}

impl Hunt<'_> {
    fn hunt(&self, report: &Sender<Dead>) {
        while let Some((process, target)) = self.draw() {
            let dead = self.kill_one(process, target);
            report.send(dead).unwrap();
        }
    }

    /// The next victim, and what it is to be caught at: any phase, as drawn; beyond the number
    /// asked for only phases that few were caught at, for some slip into the next one.
    fn draw(&self) -> Option<(u64, Phase)> {
        let counts = self.bag.lock().unwrap().counts.clone();
        let count = |phase: &Phase| counts.get(&(*phase as u64)).copied().unwrap_or(0);
        let process = self.next.fetch_add(1, Ordering::Relaxed);
        if process <= kills() {
            let drawn = Random::new(process << 8).below(Phase::DRAWN.len() as u64);
            return Some((process, Phase::DRAWN[drawn as usize]));
        }
        let rarest = Phase::DRAWN.into_iter().min_by_key(count)?;
        let total: u64 = Phase::DRAWN.iter().map(count).sum();
        // Other hunters are about to bring home one each.
        let enough = count(&rarest) >= EACH && total >= kills();
        assert!(enough || process < 4 * kills(), "too few were caught at {}", rarest.name());
        (!enough).then_some((process, rarest))
    }

    fn kill_one(&self, process: u64, target: Phase) -> Dead {
        let mut random = Random::new(process << 8 | 1);
        let (reel, tape) = Reel::blank();
        let script = format!("victim {} {process}", target as u64);
        let mut child = child_of("kill_child", &script, &self.broker.socket())
            .stdin(Stdio::from(tape))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        await_phase(&mut child, &reel, target);
        pause(random.delay(longest_delay(target)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let (died_ns, died_ms) = (monotonic_ns(), realtime_ms());
        assert_eq!(status.signal(), Some(9), "victim {process} ended by itself at {target:?}");
        let phase = reel.phase().expect("a victim that had entered a phase");
        let mut bag = self.bag.lock().unwrap();
        *bag.counts.entry(phase as u64).or_default() += 1;
        bag.deaths.push(Death { process, at_ns: died_ns });
        bag.records.extend(reel.records(process));
        Dead { pid: child.id(), phase, died_ms }
    }
}

/// Waits until the victim has been where it is to be caught: no hang, whatever happens to others.
fn await_phase(child: &mut Child, reel: &Reel, target: Phase) {
    let start = Instant::now();
    while !reel.has_entered(target) {
        let (pid, at) = (child.id(), reel.phase());
        if start.elapsed() > WATCHDOG {
            let _ = child.kill();
            panic!("victim {pid} hangs at {at:?} on its way to {target:?}");
        }
        if let Some(status) = child.try_wait().unwrap() {
            panic!("victim {pid} ended at {at:?} on its way to {target:?}: {status}");
        }
        thread::sleep(Duration::from_micros(50));
    }
}

/// About as long as the phase lasts, or, where the victim waits, as what else may happen then.
fn longest_delay(phase: Phase) -> Duration {
    Duration::from_micros(match phase {
        Phase::Attach | Phase::Cancel => 2_000,
        Phase::Submit => 4_000,
        Phase::MidStream | Phase::LaneFull => 16_000,
        _ => 8_000,
    })
}

/// Exactly so long: short times are spun, for a sleep takes longer than they are.
fn pause(time: Duration) {
    let start = Instant::now();
    if time > Duration::from_micros(200) {
        thread::sleep(time);
    }
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn realtime_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

// --- What must be back -----------------------------------------------------------------------

/// Judges each death by the first counters that were written a second after it: a session of that
/// process must not be among them. Ends when the hunters have and all deaths are judged.
fn see_released(broker: &Broker, dead: &Receiver<Dead>) {
    let mut waiting = Vec::new();
    let mut last = Instant::now();
    let mut is_over = false;
    while !is_over || !waiting.is_empty() {
        loop {
            match dead.try_recv() {
                Ok(one) => waiting.push(one),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    is_over = true;
                    break;
                }
            }
        }
        let counters = counters(broker);
        let due = |dead: &Dead| dead.died_ms + RELEASE.as_millis() as u64 <= counters.updated_ms;
        for Dead { pid, phase, .. } in waiting.extract_if(.., |dead| due(dead)) {
            let kept: Vec<_> = counters.session_rows.iter().filter(|row| row.pid == pid).collect();
            assert!(kept.is_empty(), "killed at {phase:?}, and the broker keeps {kept:?}");
            last = Instant::now();
        }
        assert!(last.elapsed() < WATCHDOG, "the broker does not write its counters any more");
        thread::sleep(Duration::from_millis(20));
    }
}

// --- Those who are not to be disturbed -------------------------------------------------------

/// Processes that stream all along.
struct Survivors {
    children: Vec<(Child, PathBuf)>,
    stop: PathBuf,
}

impl Survivors {
    fn start(broker: &Broker) -> Survivors {
        let stop = broker.dir().join("stop");
        let start = |number: u64| {
            let out = broker.dir().join(format!("survivor-{number}"));
            let process = FIRST_SURVIVOR + number;
            let script = format!("survivor {process} {} {}", stop.display(), out.display());
            let mut command = child_of("kill_child", &script, &broker.socket());
            (command.stdout(Stdio::null()).spawn().unwrap(), out)
        };
        let children: Vec<_> = (0..SURVIVORS).map(start).collect();
        for (_, out) in &children {
            eventually("a survivor streams", || fs::metadata(out).is_ok_and(|meta| meta.len() > 0));
        }
        Survivors { children, stop }
    }

    /// Lets them end, and returns what they saw: nothing but good ends.
    fn stop(self) -> History {
        fs::write(&self.stop, "").unwrap();
        let mut history = History::default();
        for (mut child, out) in self.children {
            let mut status = None;
            eventually("a survivor ends", || {
                status = child.try_wait().unwrap();
                status.is_some()
            });
            assert!(status.unwrap().success(), "a survivor failed: {status:?}");
            history.add_callers(BufReader::new(File::open(out).unwrap())).unwrap();
        }
        for record in &history.callers {
            let is_good = matches!(record.end, Some(End::End { .. }));
            assert!(is_good, "a survivor was disturbed: {:?} {}", record.end, record.id);
        }
        history
    }
}

/// The survivor's process: one stream after the other, in both modes, until told to stop.
pub fn survive(process: u64, stop: &Path, out: &Path) {
    let client = Client::new().unwrap();
    let mut out = File::create(out).unwrap();
    let parent = parent_id();
    for turn in 0u64.. {
        let script = Script { n: 40, gap_us: 1000, ..Script::default() };
        let mode = if turn.is_multiple_of(2) { Mode::Deltas } else { Mode::Events };
        let record = Plan { mode, process, ..Plan::new(script) }.run(&client);
        record.write_line(&mut out).unwrap();
        // Also when the parent is gone and cannot say so.
        if stop.exists() || parent_id() != parent {
            break;
        }
    }
    out.flush().unwrap();
}

fn print_counts(counts: &BTreeMap<u64, u64>, killed: usize) {
    report(format_args!("{killed} clients killed (seed {}), caught at", seed()));
    for phase in Phase::DRAWN.into_iter().chain([Phase::Idle]) {
        let count = counts.get(&(phase as u64)).copied().unwrap_or(0);
        report(format_args!("{count:>6} {}", phase.name()));
        assert!(count >= EACH || phase == Phase::Idle, "too few at {}", phase.name());
    }
}
