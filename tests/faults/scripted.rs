//! Every fault of the simulated provider's table, over each HTTP version that can show it: the
//! caller is told what the table says, in time, and the broker is fine afterwards.
//!
//! Each fault has an endpoint of its own, so that what is learned of one (a breaker that opens, a
//! connection that is given up) does not show at another.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use ringmain_client::{Client, Code, Mode};
use ringmain_sim::contract::{CallerRecord, End, Gauge, History, check};
use ringmain_sim::fault::Place;
use ringmain_sim::{Fault, Provider, ProviderConfig, Script};

use crate::common::record::Plan;
use crate::common::{Broker, Config as BrokerFile, eventually};

/// Exchanges that run at the same time.
const CALLERS: usize = 24;
/// The limit of each stage, short so that the silent faults end soon, and long enough for what is
/// slow on purpose on a loaded machine.
const LIMIT: Duration = Duration::from_millis(2500);
/// What an exchange may take beyond the limits that it meets, attempts and waits included.
const SLACK: Duration = Duration::from_secs(12);
/// The deadline of every exchange, which none should meet.
const DEADLINE: Duration = Duration::from_secs(20);
/// That of an exchange that only its deadline ends: who asks for one plain body waits for it as
/// long as `total` allows.
const DEADLINE_SHORT: Duration = Duration::from_secs(3);
/// A body that no buffer between here and the provider takes whole.
const UNREAD_BYTES: usize = 14 << 20;

const MODES: [Mode; 3] = [Mode::Deltas, Mode::Events, Mode::Body];

/// A way to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    One,
    Two,
}

impl Way {
    const ALL: [Way; 2] = [Way::One, Way::Two];

    fn shows(self, fault: Fault) -> bool {
        fault.is_of(self == Way::Two)
    }

    fn keys(self) -> &'static str {
        match self {
            Way::One => "http2 = \"off\"",
            Way::Two => "http2 = \"prior-knowledge\"",
        }
    }
}

/// One exchange to be run.
struct Case {
    fault: Fault,
    plan: Plan,
}

/// The providers, and a broker with an endpoint for each fault and way.
struct World {
    main: Provider,
    others: Vec<Provider>,
    broker: Broker,
}

impl World {
    fn start(faults: &[Fault]) -> World {
        let main = Provider::start(ProviderConfig::default()).unwrap();
        let mut others = Vec::new();
        let mut tail = format!(
            "[retry]\nattempts = 2\nwait = \"1500ms\"\n[limits]\nhead = \"{0}ms\"\n\
             first_content = \"{0}ms\"\nidle = \"{0}ms\"\nwrite = \"{0}ms\"\n",
            LIMIT.as_millis()
        );
        for &fault in faults {
            let url = match fault.place() {
                Place::Connection => {
                    let connections = Some(fault);
                    let config = ProviderConfig { connections, ..ProviderConfig::default() };
                    others.push(Provider::start(config).unwrap());
                    others.last().unwrap().base_url()
                }
                _ => main.base_url(),
            };
            for way in Way::ALL.into_iter().filter(|way| way.shows(fault)) {
                let name = route(fault, way);
                write!(
                    tail,
                    "[[endpoint]]\nname = {name:?}\nbase_url = {url:?}\n{}\n[[route]]\n\
                     model = {name:?}\nendpoints = [{{ name = {name:?} }}]\n",
                    way.keys()
                )
                .unwrap();
            }
        }
        let broker = Broker::start(main.addr(), BrokerFile { tail, ..BrokerFile::default() });
        World { main, others, broker }
    }

    /// Runs all cases, many at once, and returns what their callers saw.
    fn run(&self, cases: Vec<Case>) -> Vec<(Fault, CallerRecord)> {
        let client = Client::at(self.broker.socket()).unwrap();
        let cases = Mutex::new(VecDeque::from(cases));
        let seen = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    loop {
                        let next = cases.lock().unwrap().pop_front();
                        let Some(case) = next else { break };
                        let record = case.plan.run(&client);
                        seen.lock().unwrap().push((case.fault, record));
                    }
                });
            }
        });
        seen.into_inner().unwrap()
    }

    /// Judges all that was recorded, and that nothing is left of it.
    fn judge(&self, callers: impl Iterator<Item = CallerRecord>) {
        let providers = || self.others.iter().chain([&self.main]);
        eventually("the providers are at rest", || {
            providers().all(|one| one.log().iter().all(|record| record.ended.is_some()))
        });
        let streams = || self.broker.status()["streams"].as_i64().unwrap();
        eventually("the streams of the broker end", || streams() == 0);
        let gauge = Gauge { name: "streams".into(), rest: 0, value: streams() };
        let mut history = History { gauges: vec![gauge], ..History::default() };
        history.callers.extend(callers);
        history.provider = providers().flat_map(Provider::log).collect();
        let violations = check(&history);
        let few: Vec<String> = violations.iter().take(20).map(ToString::to_string).collect();
        assert!(few.is_empty(), "{} violations:\n{}", violations.len(), few.join("\n"));
        let good = Plan::new(Script::tokens(5));
        let last = good.run(&Client::at(self.broker.socket()).unwrap());
        assert!(matches!(last.end, Some(End::End { .. })), "{:?}", last.end);
    }
}

fn route(fault: Fault, way: Way) -> String {
    format!("{fault}-{way:?}")
}

/// The exchange that shows a fault.
fn case(fault: Fault, way: Way, mode: Mode) -> Case {
    let at = matches!(fault.place(), Place::Ending | Place::Insert).then_some(3);
    let head_us = (fault == Fault::SlowHead).then_some(200_000);
    let is_unread = fault.place() == Place::Intake;
    let asked = Some(fault).filter(|fault| fault.place() != Place::Connection);
    let script = Script { fault: asked, at, head_us, ..Script::tokens(8) };
    let plan = Plan {
        mode,
        route: route(fault, way),
        in_head: is_unread,
        fill: if is_unread { UNREAD_BYTES } else { 0 },
        deadline: Some(if is_endless(fault, mode) { DEADLINE_SHORT } else { DEADLINE }),
        ..Plan::new(script)
    };
    Case { fault, plan }
}

/// Whether nothing but the deadline ends it.
fn is_endless(fault: Fault, mode: Mode) -> bool {
    let first = [Code::HeadTimeout, Code::FirstContentTimeout];
    let is_silent = fault.codes().iter().any(|code| first.contains(code));
    is_silent && mode == Mode::Body
}

/// What is wrong with this outcome, if anything.
fn fault_of(fault: Fault, record: &CallerRecord) -> Option<String> {
    let took = record.ended_ns().unwrap_or(u64::MAX) - record.submitted_ns;
    let took = Duration::from_nanos(took);
    let (name, mode, end) = (fault.name(), record.mode, &record.end);
    if took > LIMIT + SLACK {
        return Some(format!("{name}, {mode:?}: took {took:?}: {end:?}"));
    }
    let is_body = record.mode == ringmain_sim::contract::Mode::Body;
    let is_as_told = match (record.error_code(), fault.codes()) {
        (None, []) if fault.is_transient() => record.attempt == Some(2),
        (None, []) => matches!(end, Some(End::End { .. })),
        // Whether any of the next request was taken cannot be known.
        (Some(Code::UpstreamReset), _) if fault.place() == Place::Between => true,
        (Some(code), _) if is_body && is_endless(fault, Mode::Body) => {
            code == Code::DeadlineExceeded
        }
        (Some(code), codes) => codes.contains(&code),
        (None, _) => false,
    };
    let code = record.error_code().map(Code::name);
    (!is_as_told).then(|| format!("{name}, {mode:?}: {code:?} {:?}", record.status))
}

/// What callers who asked for bytes may be told besides: bytes have no meaning to be wrong about,
/// and an answer with an error status is an answer.
fn is_well_as_bytes(fault: Fault, record: &CallerRecord) -> bool {
    let is_end = matches!(record.end, Some(End::End { .. }));
    use Fault::*;
    let bytes = [
        EarlyRefusal,
        Empty,
        ErrorObject,
        ErrorThenFine,
        InvalidJson,
        InvalidUtf8,
        NotSse,
        Switching,
    ];
    is_end && (fault.place() == Place::Status || bytes.contains(&fault))
}

#[test]
fn scripted_faults_are_told_as_the_table_says() {
    let is_ours = |fault: &Fault| fault.row().versions != ringmain_sim::fault::Versions::Tls;
    let faults: Vec<Fault> = Fault::ALL.iter().copied().filter(is_ours).collect();
    let world = World::start(&faults);
    let mut cases = Vec::new();
    for mode in MODES {
        for way in Way::ALL {
            let shown = faults.iter().filter(|fault| way.shows(**fault));
            cases.extend(shown.map(|&fault| case(fault, way, mode)));
        }
    }
    // Two more on the same connection, where the fault lies between two answers.
    for fault in [Fault::CloseAfter, Fault::MaxStreams, Fault::GoawayAfter] {
        let way = if fault == Fault::CloseAfter { Way::One } else { Way::Two };
        cases.extend((0..8).map(|_| case(fault, way, Mode::Deltas)));
    }
    let count = cases.len();
    let seen = world.run(cases);
    assert_eq!(seen.len(), count);
    let wrong: Vec<String> = seen
        .iter()
        .filter(|(fault, record)| {
            record.mode == ringmain_sim::contract::Mode::Deltas || !is_well_as_bytes(*fault, record)
        })
        .filter_map(|(fault, record)| Some(format!("{} {}", record.id, fault_of(*fault, record)?)))
        .collect();
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    world.judge(seen.into_iter().map(|(_, record)| record));
}
