//! What costs nothing or next to nothing: being attached, and attaching.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::harness::bench::Stage;
use crate::harness::procfs::{resident_kib, switches};
use crate::harness::servers::{Broker, BrokerSetup};
use crate::harness::{Bench, Child, Goal, Latency, Place, RowSpec, Sample};
use crate::roles::Role;
use crate::roles::attach::{Attached, BareAttach, SessionAttach};
use crate::roles::idle::Idle;
use crate::roles::meet::Meet;

const WAKEUPS: RowSpec = RowSpec {
    name: "idle_wakeups_1000_sessions",
    unit: "1/s",
    baseline: None,
    goal: Some(Goal::AtMost(0.0)),
    how: "switches of all threads of `ringmain serve`, voluntary and not, while 1,000 sessions of \
        two processes are attached and do nothing, from three seconds after the last one came",
};
const RESIDENT: RowSpec = RowSpec {
    name: "resident_kib_per_idle_session",
    unit: "KiB",
    goal: Some(Goal::AtMost(72.0)),
    how: "growth of RssAnon + RssShmem of `ringmain serve` by 1,000 sessions that do nothing, \
        divided by 1,000",
    ..WAKEUPS
};
const ATTACH: RowSpec = RowSpec {
    name: "attach_vs_bare_loop",
    unit: "ns",
    baseline: Some("bare two-process loop"),
    goal: Some(Goal::RatioAtMost(4.0)),
    how: "Session::attach, one after the other on the broker's CPU, against two processes that \
        connect, exchange one message each way and make, seal, map, populate and pass the same \
        segments and bells; medians",
};

/// Sessions of the idle rows, in processes of half as many.
const SESSIONS: u32 = 1000;
/// Attachments in a row, in a quick run and in a full one: below what one uid may do in a second.
const ATTACHMENTS: [u32; 2] = [50, 200];
/// Nobody asks for anything.
const NO_PROVIDER: &str = "http://127.0.0.1:9/v1";

pub(super) fn run(bench: &mut Bench) {
    bench.observe(&[WAKEUPS, RESIDENT], &mut idle);
    attach(bench);
}

fn idle(stage: &Stage) -> Result<Sample> {
    let broker = Broker::start(stage, BrokerSetup::new(NO_PROVIDER, Place::Any))?;
    settle();
    let before_kib = resident_kib(broker.pid())?;
    let told = || Idle { socket: broker.socket().to_owned(), sessions: SESSIONS / 2 };
    let mut first = Child::role(stage, &Role::Idle(told()), Place::Any)?;
    let mut second = Child::role(stage, &Role::Idle(told()), Place::Any)?;
    first.ready()?;
    second.ready()?;
    // Attaching leaves timers and counters behind that are done within the time for a Hello.
    sleep(Duration::from_secs(3));
    let grown_kib = resident_kib(broker.pid())?.saturating_sub(before_kib);
    let (start, before) = (Instant::now(), switches(broker.pid())?);
    sleep(Duration::from_millis(stage.pick(300, 3_000)));
    let switched = switches(broker.pid())? - before;
    let per_s = switched as f64 / start.elapsed().as_secs_f64();
    Ok(Sample::of([per_s, grown_kib as f64 / f64::from(SESSIONS)]))
}

/// Time for what a session leaves behind to be cleared away.
fn settle() {
    sleep(Duration::from_millis(200));
}

fn attach(bench: &mut Bench) {
    let cpu = bench.stage.cpus.measured();
    let start = |stage: &Stage| Broker::start(stage, BrokerSetup::new(NO_PROVIDER, cpu));
    let Some(broker) = bench.prepare(&[ATTACH], start) else { return };
    let count = bench.stage.pick(ATTACHMENTS[0], ATTACHMENTS[1]);
    bench.compare(
        &[ATTACH],
        &mut |stage| {
            // The permits to connect, of which the last pass has used some, grow back.
            sleep(Duration::from_millis(stage.pick(120, 500)));
            let told = SessionAttach { socket: broker.socket().to_owned(), count };
            sample(Child::role(stage, &Role::AttachSession(told), cpu)?)
        },
        &mut |stage| {
            let meet = Meet { path: stage.workdir.fresh(".meet") };
            let mut server = Child::role(stage, &Role::AttachBareServer(meet.clone()), cpu)?;
            server.ready()?;
            let told = BareAttach { meet, count };
            sample(Child::role(stage, &Role::AttachBare(told), cpu)?)
        },
    );
}

fn sample(mut child: Child) -> Result<Sample> {
    let attached: Attached = child.answer()?;
    Ok(Sample::of([attached.median_ns]).with_latency(Latency::from(&attached.buckets)))
}
