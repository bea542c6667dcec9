//! The delivery contract, clause by clause: real processes, a real socket, real HTTP, and the
//! offline checker over what both ends wrote down.
//!
//! Each test makes the situation that its clause speaks of and asserts that it was really there;
//! the checker then judges the whole history by every clause that it can show.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::HashMap;
use std::io::BufReader;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmain_client::{Client, Code, Config, Mode, Request, Session};
use ringmain_shm::monotonic_ns;
use ringmain_sim::contract::{BrokerDeath, CallerRecord, Death, Drain, End, Gauge, History};
use ringmain_sim::hostile::Hostile;
use ringmain_sim::{Fault, Provider, ProviderConfig, Script};

use common::record::{Plan, assert_kept, history, print};
use common::{Broker, Config as BrokerFile, Crew, child_of, child_script, eventually};

fn world() -> (Provider, Broker) {
    world_with(BrokerFile::default())
}

fn world_with(config: BrokerFile) -> (Provider, Broker) {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let broker = Broker::start(provider.addr(), config);
    (provider, broker)
}

fn client(broker: &Broker) -> Client {
    Client::at(broker.socket()).unwrap()
}

fn tokens(n: u64) -> Script {
    Script { n, ..Script::default() }
}

fn paced(n: u64, gap_us: u64) -> Script {
    Script { n, gap_us, ..Script::default() }
}

fn faulty(fault: Fault) -> Script {
    Script { n: 8, fault: Some(fault), at: Some(3), ..Script::default() }
}

/// Runs these plans at once, one thread each, and returns what their callers saw.
fn run_all(client: &Client, plans: Vec<Plan>) -> Vec<CallerRecord> {
    let threads: Vec<_> = plans
        .into_iter()
        .map(|plan| {
            let client = client.clone();
            thread::spawn(move || plan.run(&client))
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// Gauges of the broker, with what they must show once everything is over.
fn at_rest(broker: &Broker) -> Vec<Gauge> {
    let read = || broker.status()["streams"].as_i64().unwrap();
    eventually("the streams of the broker end", || read() == 0);
    vec![Gauge { name: "streams".into(), rest: 0, value: read() }]
}

/// Starts a process that runs the streams of `script`, one after the other, and prints records.
fn spawn_client(broker: &Broker, script: &str, uid: Option<u32>) -> Child {
    let mut command = child_of("client_process", script, &broker.socket());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// What a client process printed, until its end.
fn records_of(child: &mut Child, history: &mut History) {
    let text = common::read_all(child.stdout.take().unwrap());
    child.wait().unwrap();
    // The test runner prints words of its own before the first record of a line.
    let records = text.lines().filter_map(|line| line.find('{').map(|at| &line[at..]));
    let lines: String = records.map(|record| format!("{record}\n")).collect();
    history.add_callers(BufReader::new(lines.as_bytes())).unwrap();
}

/// Not a test by itself: the body of the client processes that the tests start.
#[test]
fn client_process() {
    let Some(script) = child_script() else { return };
    let client = Client::new().unwrap();
    let (count, script) = script.split_once(' ').unwrap();
    let script = Script::find(script).unwrap().unwrap();
    for _ in 0..count.parse::<u64>().unwrap() {
        let plan = Plan::new(script.clone());
        let running = plan.submit(&client);
        if let Some(error) = &running.refusal {
            eprintln!("{error}");
        }
        print(&running.run());
    }
}

#[test]
fn contract_01_ok_means_published() {
    let (provider, broker) = world();
    let client = client(&broker);
    let callers = run_all(&client, (0..20).map(|_| Plan::new(tokens(4))).collect());
    for caller in &callers {
        assert_eq!(caller.status, Some(200), "HEAD proves acceptance");
    }
    // A submission that cannot be published says so, and the provider never hears of it.
    let mut session = Session::attach(Config::at(broker.socket())).unwrap();
    let request = Request::new("tiny", "/chat/completions");
    let refused = session.submit(&request, &vec![b'x'; 17 << 20][..]).map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::BodyTooLarge, "{refused}");
    assert_eq!(provider.log().len(), 20);
    assert_kept(history(callers), &provider);
}

#[test]
fn contract_02_exactly_one_terminal() {
    let (provider, mut broker) = world();
    let client = client(&broker);
    let mut plans = vec![Plan::new(tokens(40)), Plan::new(Script { status: 429, ..tokens(1) })];
    for fault in [Fault::CloseEarly, Fault::ErrorEvent, Fault::NoDone, Fault::Reset, Fault::Empty] {
        for mode in [Mode::Deltas, Mode::Events, Mode::Body] {
            plans.push(Plan { mode, ..Plan::new(faulty(fault)) });
        }
    }
    let mut history = history(run_all(&client, plans));
    // The death of the broker: the client library writes the terminal itself.
    let running: Vec<_> = (0..8).map(|_| Plan::new(paced(10_000, 1000)).submit(&client)).collect();
    let threads: Vec<_> = running
        .into_iter()
        .map(|mut running| {
            running.read(2);
            thread::spawn(move || running.run())
        })
        .collect();
    broker.kill();
    history.broker_deaths.push(BrokerDeath { epoch: 0, at_ns: monotonic_ns() });
    for thread in threads {
        let caller = thread.join().unwrap();
        assert_eq!(caller.error_code(), Some(Code::BrokerGone));
        history.callers.push(caller);
    }
    // Of the exchanges before, all ended before the death.
    assert_eq!(history.callers.iter().filter(|caller| caller.end.is_some()).count(), 25);
    assert_kept(history, &provider);
}

#[test]
fn contract_03_no_call_outlives_its_deadline() {
    let (provider, broker) = world();
    let client = client(&broker);
    let deadline = Some(Duration::from_millis(200));
    let stalls = [faulty(Fault::Stall), faulty(Fault::RefuseHead), paced(100_000, 2000)];
    let plans = stalls.map(|script| Plan { deadline, ..Plan::new(script) });
    let mut callers = run_all(&client, plans.to_vec());
    // A broker that is silent altogether changes nothing.
    let mut running = Plan { deadline, ..Plan::new(paced(100_000, 2000)) }.submit(&client);
    running.read(3);
    broker.signal(Signal::SIGSTOP);
    let caller = running.run();
    broker.signal(Signal::SIGCONT);
    callers.push(caller);
    for caller in &callers {
        assert_eq!(caller.error_code(), Some(Code::DeadlineExceeded), "{:?}", caller.end);
    }
    assert_kept(history(callers), &provider);
}

/// How often the provider was asked for each of these, in order.
fn asked(provider: &Provider, callers: &[CallerRecord]) -> Vec<usize> {
    let log = provider.log();
    let times = |caller: &CallerRecord| log.iter().filter(|seen| seen.id() == caller.id).count();
    callers.iter().map(times).collect()
}

#[test]
fn contract_04_at_most_once_upstream() {
    // The time runs from when the request was sent: one that was late on its way is sent all the
    // same.
    let (provider, broker) = world_with(BrokerFile {
        tail: "[limits]\nhead = \"300ms\"".into(),
        ..BrokerFile::default()
    });
    let client = client(&broker);
    // Nothing tells what became of a request that was read and never answered, nor is one that
    // must not be done twice ever done twice, whatever its provider answers.
    let mut plans = vec![Plan::new(faulty(Fault::RefuseHead))];
    let refusals =
        [Fault::UnavailableThenFine, Fault::RateThenFine, Fault::ErrorThenFine, Fault::Empty];
    let once = |fault: &Fault| Plan { once: true, ..Plan::new(faulty(*fault)) };
    plans.extend(refusals.iter().map(once));
    plans.push(Plan::new(faulty(Fault::Bad400)));
    let callers = run_all(&client, plans);
    eventually("each was asked", || asked(&provider, &callers).iter().all(|times| *times > 0));
    assert_eq!(asked(&provider, &callers), [1; 6]);
    assert!(callers.iter().all(|caller| caller.error_code().is_some()));
    assert_eq!(callers[0].error_code(), Some(Code::HeadTimeout));
    assert_kept(history(callers), &provider);
}

#[test]
fn contract_05_retries_are_provably_safe() {
    let (provider, broker) = world();
    let client = client(&broker);
    let refusals = [Fault::UnavailableThenFine, Fault::RateThenFine, Fault::ErrorThenFine];
    let callers = run_all(&client, refusals.map(|fault| Plan::new(faulty(fault))).to_vec());
    assert_eq!(asked(&provider, &callers), [2; 3]);
    for caller in &callers {
        assert!(matches!(caller.end, Some(End::End { .. })), "{:?}", caller.end);
        assert_eq!(caller.status, Some(200), "of the first attempt nothing is shown");
    }
    // What never gets better ends with the last attempt; what its provider wants never to be sent
    // again, or only later than anybody waits, with the first.
    let hopeless = [Fault::Unavailable503, Fault::RateLong, Fault::NeverRetry503];
    let others = run_all(&client, hopeless.map(|fault| Plan::new(faulty(fault))).to_vec());
    assert_eq!(asked(&provider, &others), [3, 1, 1]);
    let mut history = history(callers);
    history.callers.extend(others);
    assert_kept(history, &provider);
}

/// A second endpoint stands behind the first: a provider that fails by script and one that does
/// not, the same script.
#[test]
fn contract_06_nothing_is_sent_again_after_content() {
    let second = Provider::start(ProviderConfig::default()).unwrap();
    let address = second.addr();
    let tail = format!(
        "fallback = [{{ name = \"second\" }}]\n[[endpoint]]\nname = \"second\"\n\
         base_url = \"http://{address}/v1\"\n"
    );
    let (provider, broker) = world_with(BrokerFile { tail, ..BrokerFile::default() });
    let client = client(&broker);
    let late = [Fault::CloseEarly, Fault::ErrorEvent, Fault::NoDone, Fault::Reset];
    let plans: Vec<_> = late.iter().map(|fault| Plan::new(faulty(*fault))).collect();
    let callers = run_all(&client, plans);
    assert_eq!(asked(&provider, &callers), [1; 4]);
    assert_eq!(second.log().len(), 0, "content had come, so no other endpoint was asked");
    assert!(callers.iter().all(|caller| caller.content_bytes() > 0));
    assert_kept(history(callers), &provider);
    // Before the first content the other endpoint is asked at once, and when it refuses too, the
    // first one again: of both refusals nothing is seen.
    let early = run_all(&client, vec![Plan::new(faulty(Fault::UnavailableThenFine))]);
    assert!(matches!(early[0].end, Some(End::End { .. })), "{:?}", early[0].end);
    assert_eq!((asked(&provider, &early), asked(&second, &early)), (vec![2], vec![1]));
}

#[test]
fn contract_07_a_broken_stream_is_a_prefix_and_an_error() {
    let (provider, broker) = world();
    let client = client(&broker);
    let faults = [
        (Fault::CloseEarly, &[Code::UpstreamTruncated, Code::UpstreamReset][..]),
        (Fault::NoDone, &[Code::UpstreamTruncated]),
        (Fault::Reset, &[Code::UpstreamReset, Code::UpstreamTruncated]),
        (Fault::ErrorEvent, &[Code::UpstreamError]),
        (Fault::InvalidJson, &[Code::UpstreamProtocol]),
        (Fault::NotSse, &[Code::UpstreamProtocol]),
        (Fault::Empty, &[Code::UpstreamProtocol, Code::UpstreamTruncated]),
    ];
    let plans = faults.iter().map(|(fault, _)| Plan::new(faulty(*fault))).collect();
    let callers = run_all(&client, plans);
    for (caller, (fault, codes)) in callers.iter().zip(&faults) {
        let code = caller.error_code();
        assert!(code.is_some_and(|code| codes.contains(&code)), "{fault}: {:?}", caller.end);
        if fault.is_inside_body() {
            assert!(caller.content_bytes() > 0, "{fault}: the prefix is delivered");
        }
    }
    assert_kept(history(callers), &provider);
}

#[test]
fn contract_08_delivered_bytes_are_a_prefix_of_what_was_sent() {
    let (provider, broker) = world();
    let mut children: Vec<Child> = [
        "30 [[sim n=40]]",
        "10 [[sim n=60 gap_us=500]]",
        "6 [[sim n=20 size=5000]]",
        "20 [[sim n=30 coalesce=7 reasoning=5 tools=2]]",
        "4 [[sim n=8 fault=close_early at=5]]",
    ]
    .iter()
    .map(|script| spawn_client(&broker, script, None))
    .collect();
    let mut history = History::default();
    for child in &mut children {
        records_of(child, &mut history);
    }
    assert_eq!(history.callers.len(), 70);
    let ended = history.callers.iter().filter(|c| matches!(c.end, Some(End::End { .. }))).count();
    assert_eq!(ended, 66);
    // The same in the other modes, which carry bytes.
    let client = client(&broker);
    for mode in [Mode::Events, Mode::Body] {
        let plans = (0..10).map(|_| Plan { mode, ..Plan::new(tokens(50)) }).collect();
        history.callers.extend(run_all(&client, plans));
    }
    history.gauges = at_rest(&broker);
    assert_kept(history, &provider);
}

#[test]
fn contract_09_frames_of_an_exchange_keep_their_order() {
    let (provider, broker) = world();
    let client = client(&broker);
    let plans: Vec<Plan> = (0..48)
        .map(|i| Plan::new(Script { reasoning: i % 4, tools: i % 3, ..paced(30, 300 + i * 20) }))
        .collect();
    let callers = run_all(&client, plans);
    for caller in &callers {
        assert!(matches!(caller.end, Some(End::End { .. })), "{:?}", caller.end);
    }
    assert_kept(history(callers), &provider);
}

#[test]
fn contract_10_cancel_drops_the_upstream_request() {
    let (provider, broker) = world();
    let client = client(&broker);
    let slow_start = Script { ttft_us: 30_000_000, ..tokens(5) };
    let mut callers = Vec::new();
    for script in [faulty(Fault::RefuseHead), slow_start, paced(100_000, 1000)] {
        for contents in [0, 3] {
            let is_silent = script.fault.is_some() || script.ttft_us > 0;
            if is_silent && contents > 0 {
                continue;
            }
            let before = provider.log().len();
            let mut running = Plan::new(script.clone()).submit(&client);
            running.read(contents);
            eventually("the request arrives", || provider.log().len() > before);
            running.cancel();
            running.cancel();
            let caller = running.run();
            assert_eq!(caller.error_code(), Some(Code::Cancelled), "{:?}", caller.end);
            callers.push(caller);
        }
    }
    // Dropping a stream is a cancel.
    let dropped = Plan { drop_after: Some(5), ..Plan::new(paced(100_000, 1000)) };
    callers.push(dropped.run(&client));
    let mut history = history(callers);
    history.gauges = at_rest(&broker);
    assert_kept(history, &provider);
}

#[test]
fn contract_11_the_death_of_a_client_cancels_all_it_had() {
    let (provider, broker) = world();
    let survivor = client(&broker);
    let stream = {
        let mut running = Plan::new(paced(600, 1000)).submit(&survivor);
        running.read(1);
        thread::spawn(move || running.run())
    };
    let mut victim = spawn_client(&broker, "1 [[sim n=1000000 gap_us=1000]]", None);
    eventually("the victim's stream runs", || {
        provider.log().iter().any(|record| {
            record.bytes_sent > 2000
                && record.plan.as_ref().is_some_and(|plan| plan.script.n == 1_000_000)
        })
    });
    let process = u64::from(victim.id());
    victim.kill().unwrap();
    victim.wait().unwrap();
    let died = monotonic_ns();
    eventually("the provider sees it", || {
        provider.log().iter().any(|record| record.client_gone_ns().is_some())
    });
    let gone = provider.log().iter().find_map(|record| record.client_gone_ns()).unwrap();
    assert!(gone < died + 1_100_000_000, "{} ms later", (gone - died) / 1_000_000);
    let mut history = history([stream.join().unwrap()]);
    history.deaths.push(Death { process, at_ns: died });
    history.gauges = at_rest(&broker);
    eventually("the session is given back", || broker.status()["sessions"] == 1);
    assert_kept(history, &provider);
}

#[test]
fn contract_12_without_a_free_lane_a_submission_would_block() {
    let (provider, broker) = world();
    let mut session = Session::attach(Config::at(broker.socket())).unwrap();
    let request = Request::new("tiny", "/chat/completions").mode(Mode::Deltas).usage_requested();
    let body = |n: u64| {
        format!(
            r#"{{"model":"tiny","stream":true,"messages":[{{"role":"user","content":"[[sim n={n} gap_us=2000]]"}}]}}"#
        )
    };
    let mut running = Vec::new();
    let refused = loop {
        match session.submit(&request, body(20).as_bytes()) {
            Ok(exchange) => running.push(exchange),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), Code::WouldBlock, "{refused}");
    assert_eq!(running.len(), 64, "as many as there are lanes");
    // Nothing of what was accepted is lost, and the first end makes room.
    let mut deltas = 0;
    let mut ends = 0;
    while let Some((exchange, item)) = session.next_any() {
        match item.unwrap() {
            ringmain_client::Item::Delta { .. } => deltas += 1,
            ringmain_client::Item::End(_) => {
                ends += 1;
                if ends == 1 {
                    assert!(!session.is_running(exchange));
                    session.submit(&request, body(1).as_bytes()).unwrap();
                }
            }
            _ => {}
        }
    }
    assert_eq!((ends, deltas), (65, 64 * 20 + 1));
    assert_eq!(provider.log().len(), 65);
}

#[test]
fn contract_13_nothing_of_one_uid_reaches_another() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start processes of other uids");
        return;
    }
    let (provider, broker) = world_with(BrokerFile {
        broker: "socket_mode = \"0666\"\nallow = [\"uid:0\", \"uid:4242\", \"uid:4343\"]".into(),
        ..BrokerFile::default()
    });
    let script = "25 [[sim n=30 gap_us=200]]";
    let uids = [Some(4242), Some(4343), None, Some(4242), Some(4343)];
    let mut children: Vec<Child> = uids.map(|uid| spawn_client(&broker, script, uid)).into();
    let mut history = History::default();
    for child in &mut children {
        records_of(child, &mut history);
    }
    assert_eq!(history.callers.len(), 125);
    for uid in [0, 4242, 4343] {
        let ended = |caller: &&CallerRecord| caller.uid == uid && caller.end.is_some();
        assert!(history.callers.iter().filter(ended).count() >= 25, "uid {uid}");
    }
    // The memory of a session: mode 0 and sealed, so that no other uid can open it.
    assert_kept(history, &provider);
    let mut stranger = child_of("client_process", "1 [[sim n=1]]", &broker.socket());
    let output = stranger.uid(4545).gid(4545).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("uid 4545"), "the refusal names the uid: {said}");
}

/// Processes of four uids, one of them far greedier than the others, at one limit: each uid gets
/// at least half of its share while all of them want more.
#[test]
fn contract_14_every_uid_gets_its_share() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start processes of other uids");
        return;
    }
    let uids = [4242, 4343, 4444, 4545];
    let allow: Vec<_> = uids.iter().map(|uid| format!("\"uid:{uid}\"")).collect();
    let (provider, broker) = world_with(BrokerFile {
        broker: format!("socket_mode = \"0666\"\nallow = [{}]", allow.join(", ")),
        tail: "[[limit]]\nendpoint = \"local\"\nrequests_per_minute = 1800".into(),
        ..BrokerFile::default()
    });
    // The first uid asks with three processes of many threads, the others with one of few: as many
    // as it takes so that one of them waits for its turn at any time, on however busy a host.
    let mut crew = Crew(Vec::new());
    let mut uid_of = HashMap::new();
    for (uid, threads) in [(0, 64), (0, 64), (0, 64), (1, 8), (2, 8), (3, 8)] {
        let mut command = child_of("greedy_process", &threads.to_string(), &broker.socket());
        command.uid(uids[uid]).gid(uids[uid]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        uid_of.insert(u64::from(child.id()), uid);
        crew.0.push(child);
    }
    // Which uid a request came from: its correlation id begins with the number of its process.
    let process = |id: &str| id.split_once('-').and_then(|(process, _)| process.parse().ok());
    let arrived = || -> Vec<usize> {
        let uid = |id: &str| process(id).and_then(|process: u64| uid_of.get(&process).copied());
        provider.log().iter().filter_map(|record| uid(record.id())).collect()
    };
    let counts = |arrived: &[usize]| {
        let mut counts = [0u64; 4];
        arrived.iter().for_each(|uid| counts[*uid] += 1);
        counts
    };
    eventually("every uid is served", || counts(&arrived()).iter().all(|count| *count > 2));
    let before = arrived().len();
    eventually("a hundred more are served", || arrived().len() >= before + 100);
    let contended = counts(&arrived()[before..]);
    drop(crew);
    let sum: u64 = contended.iter().sum();
    for count in contended {
        assert!(count * 2 * 4 >= sum, "{contended:?} of {sum}");
    }
    at_rest(&broker);
}

/// Not a test by itself: a process whose threads ask without a pause until it is killed.
#[test]
fn greedy_process() {
    let Some(script) = child_script() else { return };
    let client = Client::new().unwrap();
    let ask = |_| {
        let client = client.clone();
        thread::spawn(move || {
            loop {
                Plan::new(tokens(1)).run(&client);
            }
        })
    };
    let threads: Vec<_> = (0..script.parse().unwrap()).map(ask).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn contract_15_deadlines_are_absolute() {
    let (provider, broker) = world();
    let client = client(&broker);
    // Activity does not move it: the stream is lively the whole time.
    let at = Instant::now() + Duration::from_millis(300);
    let at_ns = monotonic_ns() + 300_000_000;
    let request =
        Request::new("tiny", "/chat/completions").mode(Mode::Deltas).usage_requested().deadline(at);
    let body = r#"{"model":"tiny","stream":true,"messages":[{"role":"user","content":"[[sim n=100000 gap_us=1000]]"}]}"#;
    let mut stream = client.submit(&request, body.as_bytes()).unwrap();
    let error = loop {
        match stream.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    let now_ns = monotonic_ns();
    assert!(now_ns >= at_ns, "not before the deadline");
    assert!(now_ns < at_ns + 200_000_000, "{} ms late", (now_ns - at_ns) / 1_000_000);
    // A deadline that has passed is not even published.
    let before = provider.log().len();
    let past = Request::new("tiny", "/chat/completions").deadline(Instant::now());
    let refused = client.submit(&past, body.as_bytes()).map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    assert_eq!(provider.log().len(), before);
    let plans = (0..6).map(|i| Plan {
        deadline: Some(Duration::from_millis(50 + 40 * i)),
        ..Plan::new(paced(100_000, 1000))
    });
    assert_kept(history(run_all(&client, plans.collect())), &provider);
}

#[test]
fn contract_18_a_drain_finishes_what_runs_and_refuses_what_is_new() {
    let (provider, mut broker) =
        world_with(BrokerFile { broker: "drain = \"700ms\"".into(), ..BrokerFile::default() });
    let config = |broker: &Broker| {
        let mut config = Config::at(broker.socket());
        config.attach_wait = Duration::ZERO;
        config
    };
    let client = Client::builder().config(config(&broker)).build().unwrap();
    let mut short = Plan::new(paced(200, 1000)).submit(&client);
    let mut long = Plan::new(paced(100_000, 1000)).submit(&client);
    assert!(short.refusal.is_none() && long.refusal.is_none(), "{:?}", long.refusal);
    short.read(1);
    long.read(1);
    let at_ns = monotonic_ns();
    broker.signal(Signal::SIGTERM);
    let socket = broker.socket();
    eventually("the listener is released", || !socket.exists());
    let new = Client::builder().config(config(&broker)).build().unwrap();
    let refused = Plan::new(tokens(1)).submit(&new);
    let code = refused.refusal.as_ref().map(|error| error.code());
    assert!(matches!(code, Some(Code::BrokerAbsent | Code::Draining)), "{code:?}");
    let (short, long) = (thread::spawn(|| short.run()), thread::spawn(|| long.run()));
    let (short, long) = (short.join().unwrap(), long.join().unwrap());
    assert!(matches!(short.end, Some(End::End { .. })), "{:?}", short.end);
    assert_eq!(long.error_code(), Some(Code::Drained), "{:?}", long.end);
    assert!(broker.wait().success());
    let mut history = history([short, long, refused.run()]);
    history.drains.push(Drain {
        epoch: 0,
        at_ns,
        limit_ns: 700_000_000,
        exited_ns: Some(monotonic_ns()),
    });
    assert_kept(history, &provider);
}

#[test]
fn contract_19_an_exchange_of_an_earlier_broker_ends_as_such() {
    let (provider, mut broker) = world();
    let client = client(&broker);
    let mut old = Plan::new(paced(100_000, 1000)).submit(&client);
    old.read(3);
    broker.kill();
    let at_ns = monotonic_ns();
    broker.restart();
    // The client reaches the new broker before anybody looks at the old exchange again.
    let mut new = Plan::new(tokens(5)).run(&client);
    new.epoch = 1;
    assert!(matches!(new.end, Some(End::End { .. })), "{:?}", new.end);
    let old = old.run();
    assert_eq!(old.error_code(), Some(Code::BrokerRestarted), "{:?}", old.end);
    let mut history = history([new]);
    history.broker_deaths.push(BrokerDeath { epoch: 0, at_ns });
    // The old caller looked at its leisure: its time is not the checker's business.
    assert!(old.content_bytes() > 0);
    assert_kept(history, &provider);
}

#[test]
fn contract_20_a_violation_closes_the_session_with_its_reason() {
    let (provider, broker) = world();
    let client = client(&broker);
    let neighbour = {
        let mut running = Plan::new(paced(400, 1000)).submit(&client);
        running.read(1);
        thread::spawn(move || running.run())
    };
    let hostile = Hostile::attach(&broker.socket()).unwrap();
    let at_ns = monotonic_ns();
    hostile.scribble(7);
    hostile.ring(1).unwrap();
    let seen = hostile.wait_closed(common::WATCHDOG);
    let code = seen.goodbye.as_ref().map(|goodbye| goodbye.code);
    assert!(code.is_some_and(Code::is_violation), "{seen:?}");
    broker.await_log("Violation");
    let mut callers = vec![neighbour.join().unwrap()];
    callers.push(Plan::new(tokens(10)).run(&client));
    assert!(callers.iter().all(|caller| matches!(caller.end, Some(End::End { .. }))));
    let mut history = history(callers);
    history.hostilities.push(hostile.report("garbage everywhere", at_ns, &seen));
    assert_kept(history, &provider);
    // The pid is still there: nothing of this ended the broker.
    kill(Pid::from_raw(broker.pid() as i32), None).unwrap();
}
