//! One round trip: `ping` through a broker against the bare primitive.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ringmain_client::{Config, Session};

use crate::error::{BenchError, Result};
use crate::harness::bench::Stage;
use crate::harness::procfs::cpu_ns;
use crate::harness::servers::{Broker, BrokerSetup};
use crate::harness::{Bench, Child, Goal, Latency, Place, RowSpec, Sample};
use crate::roles::Role;
use crate::roles::hop::{Hops, Pace, Ping, SessionPing};
use crate::roles::meet::Meet;
use crate::roles::relay::{Ask, Listen, Produce, Stamped};

const EVENTFD: Option<&str> = Some("raw eventfd ping-pong");
const PARKED: &str = "ping to END through `ringmain serve`, every hop a sleep and a wake-up, against \
    two processes that read and write two eventfds; medians of all round trips";

const SAME_CORE: RowSpec = RowSpec {
    name: "parked_hop_same_core",
    unit: "ns",
    baseline: EVENTFD,
    goal: Some(Goal::RatioAtMost(1.75)),
    how: PARKED,
};
const CROSS_CORE: RowSpec = RowSpec { name: "parked_hop_cross_core", goal: None, ..SAME_CORE };
const UNPINNED: RowSpec = RowSpec {
    name: "parked_hop_unpinned",
    goal: None,
    how: "the same, each process wherever the kernel likes, which may be one CPU for both of them \
        or one each: medians of several pairs of processes, each with a short run of its own",
    ..SAME_CORE
};
const POLLED: RowSpec = RowSpec {
    name: "polled_hop",
    unit: "ns",
    baseline: Some("two-line cache ping-pong"),
    goal: Some(Goal::RatioAtMost(3.0)),
    how: "ping to END with both sides spinning on CPUs of their own, against two processes that \
        write one line each and spin on the other's; medians of batches of 16",
};

const RELAY: RowSpec = RowSpec {
    name: "producer_relay_hop",
    unit: "ns",
    baseline: EVENTFD,
    goal: Some(Goal::RatioAtMost(4.0)),
    how: "from a producer's writing of a token, through `ringmain serve`, which judges and copies \
        it, to the application that has it: two sleeps and wake-ups on one CPU, as many as a round \
        trip over eventfds has; medians",
};
const PRODUCED: RowSpec = RowSpec {
    name: "producer_exchange",
    goal: None,
    how: "one whole exchange that a producer answers with one delta, four wake-ups on one CPU; \
        medians",
    ..RELAY
};

/// Nobody answers a ping but the broker itself.
const NO_PROVIDER: &str = "http://127.0.0.1:9/v1";

pub(super) fn run(bench: &mut Bench) {
    let cpu = bench.stage.cpus.measured();
    parked(bench, SAME_CORE, 1, |_| Ok((cpu, cpu)));
    parked(bench, CROSS_CORE, 1, |stage| Ok((cpu, stage.cpus.other()?)));
    let pairs = bench.stage.pick(3, 7);
    parked(bench, UNPINNED, pairs, |_| Ok((Place::Any, Place::Any)));
    polled(bench);
    relay(bench);
}

/// Where the pinging process and its peer run.
type Places = (Place, Place);

/// Each run is made by so many pairs of processes in turn.
fn parked(
    bench: &mut Bench,
    spec: RowSpec,
    pairs: u32,
    places: impl FnOnce(&Stage) -> Result<Places>,
) {
    let made = bench.prepare(&[spec], |stage| {
        let (near, far) = places(stage)?;
        let broker = Broker::start(stage, BrokerSetup::new(NO_PROVIDER, far))?;
        Ok((near, far, broker))
    });
    let Some((near, far, broker)) = made else { return };
    bench.compare(
        &[spec],
        &mut |stage| {
            several(pairs, || session(stage, &broker, near, false, pace(stage, 1).over(pairs)))
        },
        &mut |stage| {
            let role = |meet, pace| Role::EventfdPing(Ping { meet, pace });
            let pace = pace(stage, 1).over(pairs);
            several(pairs, || bare(stage, Role::EventfdEcho, role, (near, far), pace))
        },
    );
}

fn several(runs: u32, mut run: impl FnMut() -> Result<Sample>) -> Result<Sample> {
    let samples: Result<Vec<Sample>> = (0..runs).map(|_| run()).collect();
    Ok(Sample::median(&samples?))
}

fn polled(bench: &mut Bench) {
    let near = bench.stage.cpus.measured();
    let made = bench.prepare(&[POLLED], |stage| {
        let far = stage.cpus.other()?;
        let setup = BrokerSetup { spin: true, ..BrokerSetup::new(NO_PROVIDER, far) };
        let broker = Broker::start(stage, setup)?;
        must_spin(&broker)?;
        Ok((far, broker))
    });
    let Some((far, broker)) = made else { return };
    bench.compare(
        &[POLLED],
        &mut |stage| session(stage, &broker, near, true, pace(stage, 16)),
        &mut |stage| {
            let role = |meet, pace| Role::CachePing(Ping { meet, pace });
            bare(stage, Role::CacheEcho, role, (near, far), pace(stage, 16))
        },
    );
}

fn relay(bench: &mut Bench) {
    let stamped = Stamped { tokens: bench.stage.pick(300, 4_000), gap_us: 150 };
    produced(bench, RELAY, Some(stamped), |socket, _| Role::ProducerListen(Listen { socket }));
    produced(bench, PRODUCED, None, |socket, pace| Role::ProducerAsk(Ask { socket, pace }));
}

/// A producer, the broker and an application on one CPU.
fn produced(
    bench: &mut Bench,
    spec: RowSpec,
    stamped: Option<Stamped>,
    role: fn(PathBuf, Pace) -> Role,
) {
    let cpu = bench.stage.cpus.measured();
    let made = bench.prepare(&[spec], |stage| {
        let setup = BrokerSetup { producer: true, ..BrokerSetup::new(NO_PROVIDER, cpu) };
        let broker = Broker::start(stage, setup)?;
        let told = Produce { socket: broker.socket().to_owned(), stamped };
        let mut producer = Child::role(stage, &Role::Produce(told), cpu)?;
        producer.ready()?;
        Ok((broker, producer))
    });
    let Some((broker, _producer)) = made else { return };
    bench.compare(
        &[spec],
        &mut |stage| {
            let role = role(broker.socket().to_owned(), pace(stage, 1));
            let mut child = Child::role(stage, &role, cpu)?;
            Ok(sample(&child.answer()?))
        },
        &mut |stage| {
            let role = |meet, pace| Role::EventfdPing(Ping { meet, pace });
            bare(stage, Role::EventfdEcho, role, (cpu, cpu), pace(stage, 1))
        },
    );
}

/// A broker that spins takes its CPU while a session is in use, even between two entries.
fn must_spin(broker: &Broker) -> Result<()> {
    let mut session = Session::attach(Config::at(broker.socket()))?;
    session.ping()?;
    let (start, before) = (Instant::now(), cpu_ns(broker.pid())?);
    sleep(Duration::from_millis(100));
    let share = (cpu_ns(broker.pid())? - before) as f64 / start.elapsed().as_nanos() as f64;
    match share > 0.1 {
        true => Ok(()),
        false => Err(BenchError::Skip("this broker does not spin with wait = \"spin\"".to_owned())),
    }
}

fn pace(stage: &Stage, batch: u32) -> Pace {
    Pace { warm_up_ms: stage.pick(20, 200), measure_ms: stage.pick(80, 2_000), batch }
}

fn session(stage: &Stage, broker: &Broker, at: Place, spin: bool, pace: Pace) -> Result<Sample> {
    let told = SessionPing { socket: broker.socket().to_owned(), spin, pace };
    let mut child = Child::role(stage, &Role::SessionPing(told), at)?;
    Ok(sample(&child.answer()?))
}

/// Two processes of the harness: one that answers, one that asks and has the clock.
fn bare(
    stage: &Stage,
    echo: fn(Meet) -> Role,
    ping: impl Fn(Meet, Pace) -> Role,
    (near, far): Places,
    pace: Pace,
) -> Result<Sample> {
    let meet = Meet { path: stage.workdir.fresh(".meet") };
    let mut server = Child::role(stage, &echo(meet.clone()), far)?;
    server.ready()?;
    let mut client = Child::role(stage, &ping(meet, pace), near)?;
    Ok(sample(&client.answer()?))
}

fn sample(hops: &Hops) -> Sample {
    Sample::of([hops.median_ns]).with_latency(Latency::from(&hops.buckets))
}
