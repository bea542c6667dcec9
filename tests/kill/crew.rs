//! Brokers killed by the hundred, while processes of every kind call.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringmain_broker::counters::{Snapshot, segment_name};
use ringmain_client::{Code, Config, Session, Stage};
use ringmain_shm::monotonic_ns;
use ringmain_sim::contract::{BrokerDeath, CallerRecord, Death, End, History, Returned};
use ringmain_sim::{Provider, ProviderConfig};

use super::random::{Random, kills, seed};
use crate::common::record::assert_kept;
use crate::common::{self, Broker, child_of, eventually, report, ringmain, wait_until};

/// A process that calls all the time.
struct Caller {
    name: &'static str,
    child: Child,
    out: File,
    /// What was read of a line that is not whole yet.
    rest: Vec<u8>,
    lines: Vec<Vec<u8>>,
    /// Exchanges that ended as their caller wished.
    good: u64,
}

/// Kinds of load, all through `ringmain drive`: name, options, prompt. Together their exchanges
/// are in every phase when the broker is killed.
const DRIVEN: [(&str, &[&str], &str); 5] = [
    ("blocking", &["--concurrency", "4"], "n=12 gap_us=1000"),
    ("async", &["--wait", "async", "--concurrency", "8"], "n=12 gap_us=2000"),
    ("waiting for heads", &["--concurrency", "2", "--mode", "events"], "n=4 head_us=20000"),
    ("slow", &["--concurrency", "2", "--pause-ms", "1"], "n=32 size=900 coalesce=32"),
    ("cancelling", &["--concurrency", "2", "--cancel-after", "4"], "n=100000 gap_us=500"),
];

/// Longest time that load runs between two kills, once all are streaming again.
const LOAD_MAX: Duration = Duration::from_millis(20);
/// How long the one who only attaches waits for an absent broker: less than a restart takes.
const KNOCK_WAIT: Duration = Duration::from_millis(20);
/// Time until a broker holds nothing of clients that are gone, and has written so.
const REST: Duration = Duration::from_millis(1250);
/// Bound of its calls: the second that one attempt has with a broker that says nothing, and the
/// second within which its death is told.
const KNOCK_MAX: Duration = Duration::from_secs(2);
/// What the one who only attaches and leaves may be told.
const KNOCK_CODES: [Code; 4] =
    [Code::BrokerAbsent, Code::BrokerGone, Code::BrokerRestarted, Code::QuotaExceeded];

/// The whole test.
pub fn run() {
    let rounds = kills() / 5;
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let mut broker = Broker::start(provider.addr(), common::Config::default());
    let mut callers = start(&broker);
    let mut history = History::default();
    let start = Instant::now();
    for round in 0..rounds {
        all_go_on(&mut callers);
        let mut random = Random::new(round << 8 | 2);
        std::thread::sleep(random.delay(LOAD_MAX));
        let epoch = epoch(&broker);
        broker.kill();
        history.broker_deaths.push(BrokerDeath { epoch, at_ns: monotonic_ns() });
        broker.restart();
    }
    all_go_on(&mut callers);
    let per_round = start.elapsed() / rounds as u32;
    report(format_args!("{rounds} brokers killed (seed {}), {per_round:.1?} each", seed()));
    stop(&broker, callers, &mut history);
    let at_rest = wait_until(REST, || {
        counters(&broker).is_some_and(|counters| counters.sessions + counters.exchanges == 0)
    });
    assert!(at_rest, "the last broker still holds something: {:?}", counters(&broker));
    assert_typed(&history);
    report_ends(&history, rounds);
    // How fast a cancel acts is shown elsewhere, on a machine that is not as full as this one.
    history.bounds.cancel_ns = history.bounds.broker_gone_ns;
    assert_kept(history, &provider);
}

fn epoch(broker: &Broker) -> u64 {
    let mut epoch = 0;
    // A segment of the broker before may still be there.
    eventually("the broker's counters are there", || {
        let counters = counters(broker);
        epoch = counters.as_ref().map_or(0, |counters| counters.epoch);
        counters.is_some()
    });
    epoch
}

/// The counters of the present broker.
fn counters(broker: &Broker) -> Option<Snapshot> {
    let counters = Snapshot::read(&segment_name(&broker.socket())).ok()?;
    (counters.pid == broker.pid()).then_some(counters)
}

fn start(broker: &Broker) -> Vec<Caller> {
    let drive = |(at, (name, options, script)): (usize, (&'static str, &[&str], &str))| {
        let mut command = Command::new(ringmain());
        let prompt = format!("[[sim {script} id={{id}}]]");
        command.args([
            "--with-parent",
            "drive",
            "--model",
            "tiny",
            "--streams",
            "0",
            "--submissions",
        ]);
        command.args(["--process", &at.to_string(), "--prompt", &prompt]).args(options);
        command.arg("--socket").arg(broker.socket());
        Caller::start(name, command, broker, |command, out| command.arg("--out").arg(out))
    };
    let mut callers: Vec<Caller> = DRIVEN.into_iter().enumerate().map(drive).collect();
    let stop = stop_file(broker);
    let script = format!("knocker {} {}", stop.display(), out_file(broker, "knocking").display());
    let command = child_of("kill_child", &script, &broker.socket());
    callers.push(Caller::start("knocking", command, broker, |command, _| command));
    callers
}

/// Nobody hangs: every process gets something done on the present broker.
fn all_go_on(callers: &mut [Caller]) {
    for caller in callers.iter_mut() {
        caller.look();
        caller.good = 0;
    }
    eventually("every process goes on", || {
        callers.iter_mut().all(|caller| {
            caller.look();
            assert!(caller.is_alive(), "{} ended by itself", caller.name);
            caller.good > 0
        })
    });
}

impl Caller {
    fn start(
        name: &'static str,
        mut command: Command,
        broker: &Broker,
        add: impl FnOnce(&mut Command, PathBuf) -> &mut Command,
    ) -> Caller {
        let path = out_file(broker, name);
        let out = File::options().create(true).append(true).read(true).open(&path).unwrap();
        let command = add(&mut command, path).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        Caller { name, child, out, rest: Vec::new(), lines: Vec::new(), good: 0 }
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Reads what the process wrote since the last look.
    fn look(&mut self) {
        self.out.read_to_end(&mut self.rest).unwrap();
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        for line in whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let text = str::from_utf8(line).unwrap();
            let cancelled = format!("\"code\":{},", Code::Cancelled as u16);
            if text.contains(r#""end":{"end":"#) || text.contains(&cancelled) {
                self.good += 1;
            }
            self.lines.push(line.to_vec());
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets the knocking one end and kills the others, in the middle of their calls once more.
fn stop(broker: &Broker, mut callers: Vec<Caller>, history: &mut History) {
    fs::write(stop_file(broker), "").unwrap();
    let mut knocker = callers.pop().unwrap();
    eventually("the knocking process ends", || !knocker.is_alive());
    assert!(knocker.child.wait().unwrap().success(), "an attachment ended as it must not");
    knocker.look();
    let last = knocker.lines.last().map(|line| String::from_utf8_lossy(line).into_owned());
    report(format_args!("knocking: {}", last.unwrap_or_default()));
    for (process, mut caller) in callers.into_iter().enumerate() {
        caller.child.kill().unwrap();
        caller.child.wait().unwrap();
        history.deaths.push(Death { process: process as u64, at_ns: monotonic_ns() });
        caller.look();
        // The last line of an exchange counts.
        let mut records: HashMap<String, CallerRecord> = HashMap::new();
        for line in &caller.lines {
            let record: CallerRecord = serde_json::from_slice(line).unwrap();
            records.insert(record.id.clone(), record);
        }
        history.callers.extend(records.into_values());
    }
}

/// A caller is told in a type that its broker is gone, and nothing else goes wrong at all.
fn assert_typed(history: &History) {
    for record in &history.callers {
        let code = match (record.returned, &record.end) {
            (Returned::Refused(code), _) => Some(code),
            (_, Some(End::Error { code, .. })) => Some(*code),
            _ => continue,
        };
        let code = code.and_then(Code::from_number);
        let is_expected = matches!(
            code,
            Some(Code::BrokerAbsent | Code::BrokerGone | Code::BrokerRestarted | Code::Cancelled)
        );
        assert!(is_expected, "{} ended in {code:?}", record.id);
    }
}

/// Which ends there were, how far the lost ones had come, and how long the slowest took to tell.
fn report_ends(history: &History, rounds: u64) {
    let deaths: HashMap<u64, u64> =
        history.broker_deaths.iter().map(|death| (death.epoch, death.at_ns)).collect();
    let (mut ends, mut stages, mut slowest_ns) = (BTreeMap::new(), BTreeMap::new(), 0);
    let mut count = |end: &str| *ends.entry(end.to_owned()).or_insert(0u64) += 1;
    for record in &history.callers {
        match (&record.end, record.error_code(), record.returned) {
            (Some(End::Error { stage, .. }), Some(code), _) => {
                count(code.name());
                let ends = (deaths.get(&record.epoch), record.ended_ns());
                if let (Some(died_ns), Some(ended_ns)) = ends
                    && code != Code::Cancelled
                {
                    let stage = Stage::from_number(*stage).unwrap();
                    *stages.entry(stage.to_string()).or_insert(0u64) += 1;
                    slowest_ns = slowest_ns.max(ended_ns.saturating_sub(*died_ns));
                }
            }
            (Some(_), ..) => count("END"),
            (None, _, Returned::Accepted) => count("killed at the end"),
            (None, _, returned) => count(&format!("{returned:?}")),
        }
    }
    let slowest = Duration::from_nanos(slowest_ns);
    report(format_args!("{} exchanges: {ends:?}", history.callers.len()));
    report(format_args!("lost ones were {stages:?}, told within {slowest:.1?}"));
    let lost: u64 = stages.values().sum();
    assert!(lost >= rounds && stages.len() >= 2, "the brokers had hardly any load: {stages:?}");
}

fn stop_file(broker: &Broker) -> PathBuf {
    broker.dir().join("stop")
}

fn out_file(broker: &Broker, name: &str) -> PathBuf {
    broker.dir().join(name.replace(' ', "-"))
}

/// The process that attaches, pings and leaves without a pause, so that brokers die in the middle
/// of attachments. It hardly waits for an absent broker.
pub fn knock(stop: &Path, out: &Path) {
    let mut out = File::options().append(true).open(out).unwrap();
    let mut config = Config::default();
    config.attach_wait = KNOCK_WAIT;
    let (mut codes, mut good) = (BTreeMap::<&str, u64>::new(), 0u64);
    let parent = parent_id();
    while !stop.exists() && parent_id() == parent {
        let start = Instant::now();
        let done = Session::attach(config.clone()).and_then(|mut session| session.ping());
        let took = start.elapsed();
        match done {
            Ok(()) => {
                good += 1;
                // One line is what a caller of this kind shows for an exchange that ended well.
                writeln!(out, r#"{{"end":{{"end":{good}}}}}"#).unwrap();
            }
            Err(error) => {
                let code = error.code();
                assert!(KNOCK_CODES.contains(&code), "{error}");
                assert!(took < KNOCK_MAX, "{took:?} until {error}");
                *codes.entry(code.name()).or_default() += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    writeln!(out, "{good} attachments, {codes:?}").unwrap();
}
