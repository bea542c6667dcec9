//! Every fault of the simulated provider's table, over each HTTP version that can show it: the
//! caller is told what the table says, in time, and the broker is fine afterwards.
//!
//! Each fault has an endpoint of its own, so that what is learned of one (a breaker that opens, a
//! connection that is given up) does not show at another.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use ringmain_client::{Client, Code, Mode};
use ringmain_sim::contract::{self, CallerRecord, End, Gauge, History, check};
use ringmain_sim::fault::{Place, Versions};
use ringmain_sim::{Fault, Provider, ProviderConfig, Script};
use tempfile::TempDir;

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
    /// HTTP/1.1 in clear text.
    One,
    /// HTTP/2 in clear text.
    Two,
    /// HTTP/1.1 over TLS.
    TlsOne,
    /// HTTP/2 over TLS, as the handshake says.
    TlsTwo,
}

impl Way {
    const CLEAR: [Way; 2] = [Way::One, Way::Two];
    const TLS: [Way; 2] = [Way::TlsOne, Way::TlsTwo];

    fn shows(self, fault: Fault) -> bool {
        let is_tls_only = fault.row().versions == Versions::Tls;
        let is_clear = Way::CLEAR.contains(&self);
        // Without a protocol in the handshake there is no HTTP/2.
        let is_settled = fault == Fault::TlsNoAlpn && self == Way::TlsTwo;
        fault.is_of(matches!(self, Way::Two | Way::TlsTwo))
            && !(is_tls_only && is_clear)
            && !is_settled
    }

    fn keys(self) -> &'static str {
        match self {
            Way::One | Way::TlsOne => "http2 = \"off\"",
            Way::TlsTwo => "http2 = \"negotiated\"",
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
    _folder: TempDir,
}

impl World {
    fn start(faults: &[Fault], ways: [Way; 2]) -> World {
        let tls = ways == Way::TLS;
        let folder = tempfile::tempdir().unwrap();
        let provider = |connections| {
            let config = ProviderConfig { connections, tls, ..ProviderConfig::default() };
            Provider::start(config).unwrap()
        };
        // Each provider is an authority of its own.
        let trust = |provider: &Provider| {
            let Some(pem) = provider.ca_pem() else { return String::new() };
            let path = folder.path().join(format!("{}.pem", provider.addr().port()));
            fs::write(&path, pem).unwrap();
            format!("ca_file = {path:?}\n")
        };
        let main = provider(None);
        let mut others = Vec::new();
        let mut tail = format!(
            "[retry]\nattempts = 2\nwait = \"1500ms\"\n[limits]\nhead = \"{0}ms\"\n\
             first_content = \"{0}ms\"\nidle = \"{0}ms\"\nwrite = \"{0}ms\"\n",
            LIMIT.as_millis()
        );
        for &fault in faults {
            if fault.place() == Place::Connection {
                others.push(provider(Some(fault)));
            }
            let own = others.last().filter(|_| fault.place() == Place::Connection);
            let (url, trust) = (own.unwrap_or(&main).base_url(), trust(own.unwrap_or(&main)));
            for way in ways.into_iter().filter(|way| way.shows(fault)) {
                let name = route(fault, way);
                write!(
                    tail,
                    "[[endpoint]]\nname = {name:?}\nbase_url = {url:?}\n{trust}{}\n\
                     connect_timeout = \"3s\"\nevent_max = \"1MiB\"\n[[route]]\n\
                     model = {name:?}\nendpoints = [{{ name = {name:?} }}]\n",
                    way.keys()
                )
                .unwrap();
            }
        }
        let broker = Broker::start(main.addr(), BrokerFile { tail, ..BrokerFile::default() });
        World { main, others, broker, _folder: folder }
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
    fn judge(&self, ways: [Way; 2], callers: impl Iterator<Item = CallerRecord>) {
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
        // An ordinary exchange on each way that the faults went.
        for way in ways {
            let good = Plan { route: route(Fault::SlowHead, way), ..Plan::new(Script::tokens(5)) };
            let last = good.run(&Client::at(self.broker.socket()).unwrap());
            assert!(matches!(last.end, Some(End::End { .. })), "{way:?}: {:?}", last.end);
        }
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
    let is_body = record.mode == contract::Mode::Body;
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
    let bytes = [EarlyRefusal, Empty, ErrorObject, InvalidJson, InvalidUtf8, NotSse];
    is_end && (fault.place() == Place::Status || bytes.contains(&fault))
}

#[test]
fn scripted_faults_are_told_as_the_table_says() {
    let is_ours = |fault: &Fault| fault.row().versions != Versions::Tls;
    let faults: Vec<Fault> = Fault::ALL.iter().copied().filter(is_ours).collect();
    let mut cases = cases(&faults, Way::CLEAR, &MODES);
    // Eight more on the same connections, where others are disturbed most easily.
    for (fault, way) in [(Fault::CloseAfter, Way::One), (Fault::MaxStreams, Way::Two)] {
        cases.extend((0..8).map(|_| case(fault, way, Mode::Deltas)));
    }
    show(&faults, Way::CLEAR, cases);
}

#[test]
fn scripted_faults_over_tls_are_told_as_the_table_says() {
    // What lies below the handshake is shown in clear text, or has a row of its own here.
    let is_below =
        |fault: &Fault| fault.place() == Place::Connection && fault.row().versions != Versions::Tls;
    let faults: Vec<Fault> = Fault::ALL.iter().copied().filter(|fault| !is_below(fault)).collect();
    let cases = cases(&faults, Way::TLS, &[Mode::Deltas]);
    show(&faults, Way::TLS, cases);
}

fn cases(faults: &[Fault], ways: [Way; 2], modes: &[Mode]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &mode in modes {
        for way in ways {
            let shown = faults.iter().filter(|fault| way.shows(**fault));
            cases.extend(shown.map(|&fault| case(fault, way, mode)));
        }
    }
    cases
}

/// Runs the cases and judges all that came of them.
fn show(faults: &[Fault], ways: [Way; 2], cases: Vec<Case>) {
    let world = World::start(faults, ways);
    let count = cases.len();
    let seen = world.run(cases);
    assert_eq!(seen.len(), count);
    let is_judged = |(fault, record): &&(Fault, CallerRecord)| {
        record.mode == contract::Mode::Deltas || !is_well_as_bytes(*fault, record)
    };
    let wrong: Vec<String> = seen
        .iter()
        .filter(is_judged)
        .filter_map(|(fault, record)| Some(format!("{} {}", record.id, fault_of(*fault, record)?)))
        .collect();
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    world.judge(ways, seen.into_iter().map(|(_, record)| record));
}
