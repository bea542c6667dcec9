//! The other side: a broker killed between two instructions while it relays streams.
//!
//! Its only thread is let run to one of its next system calls, which all belong to the relay of
//! frames, and marched on from there.

use std::collections::BTreeSet;
use std::thread;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use ringmain_client::{Client, Code};
use ringmain_shm::monotonic_ns;
use ringmain_sim::contract::{BrokerDeath, History};
use ringmain_sim::{Provider, ProviderConfig, Script};

use super::random::Random;
use crate::common::record::{Plan, Running, assert_kept};
use crate::common::{self, Broker};

/// One kill of a broker for so many kills of clients.
const SHARE: u64 = 15;
/// Streams that run when a broker is killed.
const STREAMS: usize = 3;
/// Stops at system calls before the march: what a few frames make.
const CALLS_MAX: u64 = 48;
/// Instructions from there: about the way of a frame through the broker.
const INSTRUCTIONS_MAX: u64 = 8_000;

/// The whole test, for this many kills of clients.
pub fn run(steps: u64) {
    let provider = Provider::start(ProviderConfig::default()).unwrap();
    let config = common::Config { broker: "threads = 1".to_owned(), ..common::Config::default() };
    let mut broker = Broker::start(provider.addr(), config);
    let mut history = History::default();
    let mut points = BTreeSet::new();
    for round in 0..steps.div_ceil(SHARE) {
        // Read all along: with full lanes there would be nothing to relay.
        let read = |stream: Running| thread::spawn(move || stream.run());
        let readers: Vec<_> = streams(&broker).into_iter().map(read).collect();
        let mut random = Random::new(1 << 32 | round << 8);
        let point = (random.below(CALLS_MAX), random.below(INSTRUCTIONS_MAX));
        march(Pid::from_raw(broker.pid().cast_signed()), point);
        broker.kill();
        history.broker_deaths.push(BrokerDeath { epoch: round, at_ns: monotonic_ns() });
        points.insert(point);
        for reader in readers {
            // The frames that were there before are read, then the death is told.
            let mut record = reader.join().unwrap();
            assert_eq!(record.error_code(), Some(Code::BrokerGone), "{point:?}: {:?}", record.end);
            record.epoch = round;
            history.callers.push(record);
        }
        broker.restart();
    }
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
    assert_kept(history, &provider);
    println!("kill_step responder: {} points, 0 torn, 0 leaked, 0 hung", points.len());
}

/// Streams under way, without a pause between their frames.
fn streams(broker: &Broker) -> Vec<Running> {
    let client = Client::at(broker.socket()).unwrap();
    let script = Script { gap_us: 300, ..Script::tokens(100_000) };
    let mut streams: Vec<Running> =
        (0..STREAMS).map(|_| Plan::new(script.clone()).submit(&client)).collect();
    streams.iter_mut().for_each(|stream| stream.read(3));
    streams
}

/// Lets a broker, whose first thread does all the work, make so many stops at system calls, of
/// which each has two, and execute so many instructions.
fn march(broker: Pid, (calls, instructions): (u64, u64)) {
    let wait = || waitpid(broker, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::seize(broker, Options::PTRACE_O_EXITKILL).unwrap();
    ptrace::interrupt(broker).unwrap();
    wait();
    for _ in 0..calls {
        ptrace::syscall(broker, None).unwrap();
        wait();
    }
    for _ in 0..instructions {
        ptrace::step(broker, None).unwrap();
        let status = wait();
        assert_eq!(status, WaitStatus::Stopped(broker, Signal::SIGTRAP), "the broker failed");
    }
}
