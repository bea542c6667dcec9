//! Rate limits end to end: real processes, a real broker, and the provider's log as the judge. Each
//! test does its own arithmetic over the times at which requests arrived.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ringmain_client::{ChatBody, Client, Code, Mode, Request, Stage};
use ringmain_sim::{Lag, Provider, ProviderConfig, ProviderRecord, Script};

use common::record::{Plan, assert_kept, history};
use common::{Broker, Config as BrokerFile, Crew, child_of, child_script, eventually};

/// Time that a request may be on its way from its permit to the provider's log, and what others on
/// the host take from both comes on top of it. What a limit let through in one window may arrive in
/// one that is shorter by this.
const ON_THE_WAY_NS: u64 = 250_000_000;
const SECOND_NS: u64 = 1_000_000_000;

fn world(limits: &str) -> (Provider, Broker) {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let broker = Broker::start(provider.addr(), file(limits));
    (provider, broker)
}

fn file(limits: &str) -> BrokerFile {
    BrokerFile { tail: limits.to_owned(), ..BrokerFile::default() }
}

/// Not a test by itself: a process whose threads ask without a pause until it is killed.
#[test]
fn hammering_process() {
    let Some(script) = child_script() else { return };
    let threads: usize = script.parse().unwrap();
    let client = Client::new().unwrap();
    let hammer = |thread: usize| {
        let client = client.clone();
        thread::spawn(move || {
            for round in thread.. {
                // 70 tokens and 130 in turn, 4 of them those of the prompt.
                ask_for(&client, [66, 126][round % 2]);
            }
        })
    };
    let threads: Vec<_> = (0..threads).map(hammer).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Asks for so many tokens and reads them; it allows for some more, as callers do.
fn ask_for(client: &Client, tokens: u64) {
    let request = Request::new("tiny", "/chat/completions").mode(Mode::Deltas).usage_requested();
    let body = ChatBody::new("tiny")
        .message("user", format!("[[sim n={tokens} gap_us=1000]]"))
        .param("max_tokens", (tokens + 20).to_string());
    let mut stream = client.submit(&request, &body).unwrap();
    while stream.next().unwrap().is_some() {}
}

/// Tokens in and out that the provider told for a request.
fn tokens_of(record: &ProviderRecord) -> u64 {
    record.plan.as_ref().map_or(0, |plan| plan.prompt_tokens + plan.script.n)
}

/// By how much the fullest window exceeds `burst + per_minute * w`, with its length; and what was
/// used in all.
fn worst_window(
    arrivals: &[(u64, u64)],
    per_minute: u64,
    burst: u64,
    on_the_way_ns: u64,
) -> (f64, f64) {
    let mut worst = (f64::MIN, 0.0);
    for from in 0..arrivals.len() {
        let mut sum = 0;
        for (at_ns, amount) in &arrivals[from..] {
            sum += amount;
            let window_ns = at_ns - arrivals[from].0;
            let allowed = per_minute as f64 * (window_ns + on_the_way_ns) as f64 / 60e9;
            let excess = sum as f64 - burst as f64 - allowed;
            if excess > worst.0 {
                worst = (excess, window_ns as f64 / 1e9);
            }
        }
    }
    worst
}

/// The promise of a limit across all processes of a host: in no window more than burst and rate,
/// and nearly all of it is used. For a minute, because that is what the limit speaks of.
#[test]
fn limits_hold_across_eight_processes_for_a_minute() {
    const REQUESTS: u64 = 600;
    const TOKENS: u64 = 60_000;
    let (provider, broker) = world(
        "[[limit]]\nendpoint = \"local\"\nrequests_per_minute = 600\ntokens_per_minute = 60000",
    );
    let spawn = |_| {
        let mut command = child_of("hammering_process", "6", &broker.socket());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let crew = Crew((0..8).map(spawn).collect());
    eventually("every process hammers", || broker.status()["sessions"].as_u64() >= Some(8));
    let start_ns = ringmain_shm::monotonic_ns();
    let mut lag = Lag::default();
    lag.sleep(Duration::from_secs(60));
    let on_the_way_ns = ON_THE_WAY_NS + lag.slack().as_nanos() as u64;
    let limit = &broker.status()["limits"][0];
    assert!(limit["waiting"].as_u64().unwrap() > 8, "it is hammered to the end: {limit}");
    drop(crew);
    let log = provider.log();
    let arrivals = |amount: fn(&ProviderRecord) -> u64| -> Vec<(u64, u64)> {
        log.iter().map(|record| (record.arrived_ns, amount(record))).collect()
    };
    let judged = [(arrivals(|_| 1), REQUESTS), (arrivals(tokens_of), TOKENS)];
    for (arrivals, per_minute) in judged {
        let (excess, window) = worst_window(&arrivals, per_minute, per_minute / 60, on_the_way_ns);
        let in_minute = |at_ns: u64| (start_ns..start_ns + 60 * SECOND_NS).contains(&at_ns);
        let used: u64 = arrivals.iter().filter(|(at, _)| in_minute(*at)).map(|(_, n)| n).sum();
        let share = used as f64 / per_minute as f64;
        common::report(format_args!(
            "{per_minute}/min: {used} in a minute ({:.1} %), the fullest window of {window:.3} s \
             is {:.1} below its bound",
            share * 100.0,
            -excess
        ));
        assert!(excess <= 0.0, "{excess:.2} too many within {window:.3} s, of {per_minute}/min");
        assert!(share >= 0.95, "only {used} of {per_minute}");
    }
    eventually("nothing of the killed processes is held", || {
        let limit = &broker.status()["limits"][0];
        limit["waiting"] == 0 && limit["in_flight"] == 0
    });
}

/// A request that cannot be let in before its deadline is told so at once, with the time after
/// which it might; it never reaches the provider.
#[test]
fn limits_refuse_at_once_what_cannot_be_in_time() {
    let (provider, broker) = world("[[limit]]\nroute = \"tiny\"\nrequests_per_minute = 6");
    let client = Client::at(broker.socket()).unwrap();
    let plan = Plan::new(Script::tokens(3));
    let first = plan.run(&client);
    assert_eq!(first.error_code(), None, "{:?}", first.end);
    let started = Instant::now();
    let request = Request::new("tiny", "/chat/completions").mode(Mode::Deltas);
    let hasty = request.deadline(started + Duration::from_secs(2));
    let mut stream = client.submit(&hasty, &ChatBody::new("tiny").message("user", "x")).unwrap();
    let error = stream.next().map(|_| ()).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2), "not at its deadline but at once");
    assert_eq!((error.code(), error.stage()), (Code::RateLimited, Stage::Admit), "{error}");
    let retry_after = error.retry_after().unwrap();
    assert!(retry_after > Duration::from_secs(2), "{retry_after:?}");
    assert!(retry_after <= Duration::from_secs(10), "{retry_after:?}");
    eventually("it is counted", || broker.status()["limits"][0]["refused"] == 1);
    assert_eq!(broker.status()["refusals"]["RateLimited"], 1);
    assert_eq!(provider.log().len(), 1);
    assert_kept(history([first]), &provider);
}

/// Places in flight come back from ends, errors, cancels and deaths, and go to whoever waits.
#[test]
fn limits_in_flight_come_back_from_every_end() {
    let (provider, mut broker) = world("[[limit]]\nendpoint = \"local\"\nin_flight = 2");
    let client = Client::at(broker.socket()).unwrap();
    let endless = || Plan::new(Script { gap_us: 1000, ..Script::tokens(1_000_000) });
    let mut holders: Vec<_> = (0..2).map(|_| endless().submit(&client)).collect();
    holders.iter_mut().for_each(|holder| holder.read(1));
    let limit = |broker: &Broker| broker.status()["limits"][0].clone();
    eventually("both places are taken", || limit(&broker)["in_flight"] == 2);
    // One that waits and is cancelled, one whose process dies, and one that is served.
    let mut left = Plan::new(Script::tokens(3)).submit(&client);
    let doomed = child_of("hammering_process", "1", &broker.socket())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let doomed = Crew(vec![doomed]);
    eventually("two wait", || limit(&broker)["waiting"] == 2);
    let served = Plan::new(Script::tokens(3)).submit(&client);
    eventually("three wait", || limit(&broker)["waiting"] == 3);
    assert_eq!(provider.log().len(), 2, "who waits is not sent");
    left.cancel();
    let left = left.run();
    assert_eq!(left.error_code(), Some(Code::Cancelled), "{:?}", left.end);
    drop(doomed);
    eventually("the dead and the cancelled do not wait", || limit(&broker)["waiting"] == 1);
    // A reload that leaves the limit as it is keeps what it counts.
    broker.reconfigure(file(
        "[[limit]]\nendpoint = \"local\"\nin_flight = 2\n[[limit]]\nuid = \"each\"\nin_flight = 9",
    ));
    broker.signal(Signal::SIGHUP);
    eventually("the new limit is there", || broker.status()["limits"][1]["name"] == "each uid");
    assert_eq!((&limit(&broker)["in_flight"], &limit(&broker)["waiting"]), (&2.into(), &1.into()));
    let mut callers = vec![left];
    for mut holder in holders {
        holder.cancel();
        callers.push(holder.run());
    }
    callers.push(served.run());
    assert_eq!(callers[3].error_code(), None, "{:?}", callers[3].end);
    eventually("all places are free", || {
        let limits = broker.status()["limits"].clone();
        limits.as_array().unwrap().iter().all(|l| l["in_flight"] == 0 && l["waiting"] == 0)
    });
    assert_kept(history(callers), &provider);
}

/// An endpoint that answers 429 is spared by everybody for as long as it asks.
#[test]
fn limits_keep_the_retry_after_of_an_endpoint() {
    let (provider, broker) = world("");
    let client = Client::at(broker.socket()).unwrap();
    let refused = Script { status: 429, retry_after: Some("2".into()), ..Script::tokens(1) };
    // The caller does not wait for another attempt itself.
    let hasty = Plan { deadline: Some(Duration::from_secs(1)), ..Plan::new(refused) };
    let first = hasty.run(&client);
    assert!(first.error_code().is_some(), "{:?}", first.end);
    let refused_ns = provider.log()[0].head_ns.unwrap();
    eventually("status tells", || {
        let limits = broker.status()["limits"].clone();
        limits[0]["name"].as_str().is_some_and(|name| name.contains("\"local\" refused"))
    });
    let second = Plan::new(Script::tokens(3)).run(&client);
    assert_eq!(second.error_code(), None, "{:?}", second.end);
    let log = provider.log();
    assert_eq!(log.len(), 2);
    assert!(log[1].arrived_ns >= refused_ns + 2 * SECOND_NS, "not before the endpoint asked");
    assert_kept(history([first, second]), &provider);
}
