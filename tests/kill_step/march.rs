//! Processes marched to drawn instructions of each operation, and killed there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use ringmain_shm::monotonic_ns;
use ringmain_sim::contract::{CallerRecord, Death, History};

use super::client::Case;
use super::judge::{Dead, World};
use super::random::{Random, seed};
use super::stepper::{Advance, Stepper, Stray};
use crate::common::{child_of, required};

/// Instructions that clients are killed at, unless `RINGMAIN_STEPS` says so.
const STEPS: u64 = 150;
/// Marches to one instruction: an operation may be over before it, for no two runs of it are of
/// the same length.
const TRIES: u64 = 4;
/// Threads per CPU that march a client each: one of the two waits while the other one steps.
const MARCHERS_PER_CPU: usize = 2;

/// A kind of processes that are killed, and what stands around them.
pub trait Party: Sync {
    /// The operations, and how many of a hundred kills fall into each: an attachment is long, so
    /// a march into it takes long.
    const OPERATIONS: &'static [(&'static str, u64)];
    /// The cases of these operations.
    const CASES: &'static [Case];
    /// Those who are going to see the death of one process.
    type Witness;

    /// Finds a witness for a process that is going to be killed, and what the process is told
    /// besides its case.
    fn invite(&self, case: Case, process: u64) -> (Self::Witness, String);
    /// Brings a process from its first mark to where its operation begins.
    fn set(&self, _: &mut Self::Witness, _: &mut Stepper) -> Result<(), Stray> {
        Ok(())
    }
    /// Lets it execute so many instructions of its operation.
    fn advance(
        &self,
        _: &mut Self::Witness,
        stepper: &mut Stepper,
        instructions: u64,
    ) -> Result<Advance, Stray> {
        stepper.advance(instructions)
    }
    /// Notes what the witness saw, when nothing of the process is left.
    fn see(&self, witness: Self::Witness, at: &str, toll: &mut Toll);
}

/// Clients: nobody but the broker has to do with them.
pub struct Clients;

impl Party for Clients {
    const OPERATIONS: &'static [(&'static str, u64)] =
        &[("attach", 6), ("publish", 22), ("consume", 37), ("cancel", 35)];
    const CASES: &'static [Case] = &Case::STEPPED;
    type Witness = ();

    fn invite(&self, _: Case, process: u64) -> ((), String) {
        ((), process.to_string())
    }

    fn see(&self, (): (), _: &str, _: &mut Toll) {}
}

/// What came of the kills in one operation.
#[derive(Debug, Default)]
pub struct Toll {
    /// Instructions that a client was killed at, each once.
    pub points: BTreeSet<(Case, u64)>,
    /// How many there were to be.
    pub wanted: usize,
    /// Processes that were killed.
    pub deaths: usize,
    /// Instructions of each case, as measured.
    pub lengths: Vec<(Case, u64)>,
    /// What arrived in part or wrongly, what was not given back, and who never came to an end.
    pub torn: Vec<String>,
    pub leaked: Vec<String>,
    pub hung: Vec<String>,
}

/// What the marchers share.
struct March<'a, P> {
    world: &'a World,
    party: &'a P,
    report: Sender<Dead>,
    cpus: Vec<usize>,
    bag: Mutex<Bag>,
}

/// A process to be killed after so many instructions.
#[derive(Clone, Copy, Debug)]
struct Order {
    case: Case,
    number: u64,
    instruction: u64,
}

/// What the marchers brought home.
#[derive(Default)]
struct Bag {
    toll: Toll,
    deaths: Vec<Death>,
    records: Vec<CallerRecord>,
}

/// The whole test, with so many kills.
pub fn run<P: Party>(party: P, world: World, steps: u64) {
    let cpus = allowed_cpus();
    let start = Instant::now();
    let mut tolls: BTreeMap<&str, Toll> = BTreeMap::new();
    let mut history = History::default();
    thread::scope(|scope| {
        let (report, dead) = channel();
        let warden = scope.spawn(|| world.see_released(dead));
        let march = March { world: &world, party: &party, report, cpus, bag: Mutex::default() };
        let lengths = march.measure();
        for &(operation, percent) in P::OPERATIONS {
            let of_it = |(case, _): &&(Case, u64)| case.operation() == operation;
            let cases: Vec<(Case, u64)> = lengths.iter().filter(of_it).copied().collect();
            let orders = orders(&cases, steps * percent / 100);
            let wanted = orders.len();
            march.go(orders);
            let mut bag = mem::take(&mut *march.bag.lock().unwrap());
            bag.toll.wanted = wanted;
            bag.toll.lengths = cases;
            bag.toll.leaked.extend(world.leftovers());
            history.deaths.extend(bag.deaths);
            history.callers.extend(bag.records);
            tolls.insert(operation, bag.toll);
        }
        drop(march);
        for (case, leak) in warden.join().unwrap() {
            tolls.get_mut(case.operation()).unwrap().leaked.push(leak);
        }
    });
    println!("{} points in {:.1?} (seed {})", points(&tolls), start.elapsed(), seed());
    // Nobody but the survivor is left: what is held now, nobody holds.
    drop(party);
    world.judge(history, &mut tolls);
}

fn points(tolls: &BTreeMap<&str, Toll>) -> usize {
    tolls.values().map(|toll| toll.points.len()).sum()
}

/// So many instructions of these cases: one in each of as many equal parts of a case's length.
fn orders(cases: &[(Case, u64)], points: u64) -> Vec<Order> {
    let mut orders = Vec::new();
    for &(case, length) in cases {
        let parts = points.div_ceil(cases.len() as u64).min(length);
        for number in 0..parts {
            let (from, to) = (number * length / parts, (number + 1) * length / parts);
            let mut random = Random::new((case as u64) << 48 | number << 8);
            let instruction = from + random.below(to - from);
            orders.push(Order { case, number: number + 1, instruction });
        }
    }
    orders
}

impl<P: Party> March<'_, P> {
    /// Runs each case to its end and counts. The processes are killed behind it.
    fn measure(&self) -> Vec<(Case, u64)> {
        let lengths = Mutex::new(Vec::new());
        let order = |case| Order { case, number: 0, instruction: u64::MAX };
        let orders = P::CASES.iter().copied().map(order).collect();
        self.spread(orders, |order| match self.kill_one(order, 0) {
            Some(Advance::Ended(length)) => lengths.lock().unwrap().push((order.case, length)),
            stray => panic!("{order:?} did not come to its end: {stray:?}"),
        });
        let mut lengths = lengths.into_inner().unwrap();
        lengths.sort_by_key(|(case, _)| *case as u64);
        lengths
    }

    /// Carries the orders out.
    fn go(&self, orders: Vec<Order>) {
        self.spread(orders, |mut order| {
            for attempt in 0..TRIES {
                match self.kill_one(order, attempt) {
                    Some(Advance::Inside(instruction)) => {
                        let point = (order.case, instruction);
                        self.bag.lock().unwrap().toll.points.insert(point);
                        return;
                    }
                    // This run was shorter than the measured one.
                    Some(Advance::Ended(length)) => {
                        order.instruction = order.instruction.wrapping_mul(31) % length.max(1);
                    }
                    None => return,
                }
            }
        });
    }

    /// Carries orders out on several threads: each waits for its own children alone.
    fn spread(&self, mut orders: Vec<Order>, carry_out: impl Fn(Order) + Sync) {
        // The long ones first, so that all end at about the same time.
        orders.sort_by_key(|order| order.instruction);
        let orders = Mutex::new(orders);
        let next = || orders.lock().unwrap().pop();
        thread::scope(|scope| {
            for cpu in self.cpus.iter().cycle().take(self.cpus.len() * MARCHERS_PER_CPU) {
                let (next, carry_out) = (&next, &carry_out);
                scope.spawn(move || {
                    pin(*cpu);
                    while let Some(order) = next() {
                        carry_out(order);
                    }
                });
            }
        });
    }

    /// Marches one process and kills it. `None`: it went astray, which is noted.
    fn kill_one(&self, order: Order, attempt: u64) -> Option<Advance> {
        let Order { case, number, instruction } = order;
        let process = (case as u64 + 1) * 1_000_000 + number * 10 + attempt;
        let (mut witness, argument) = self.party.invite(case, process);
        let script = format!("{} {argument}", case.name());
        let command = child_of("kill_step_child", &script, &self.world.socket());
        let mut stepper = match Stepper::start(command) {
            Ok(stepper) => stepper,
            Err(stray) => return self.note(order, &stray),
        };
        let ready = self.party.set(&mut witness, &mut stepper);
        let advance =
            ready.and_then(|()| self.party.advance(&mut witness, &mut stepper, instruction));
        stepper.kill();
        let died_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let at = format!("{} killed at instruction {instruction}", case.name());
        let mut seen = Toll::default();
        self.party.see(witness, &at, &mut seen);
        self.report.send(Dead { pid: stepper.pid(), case, at, died_ms }).unwrap();
        let mut bag = self.bag.lock().unwrap();
        bag.deaths.push(Death { process, at_ns: monotonic_ns() });
        bag.records.extend(stepper.reel.records(process));
        bag.toll.deaths += 1;
        bag.toll.torn.extend(seen.torn);
        bag.toll.leaked.extend(seen.leaked);
        bag.toll.hung.extend(seen.hung);
        drop(bag);
        advance.map_or_else(|stray| self.note(order, &stray), Some)
    }

    fn note(&self, order: Order, stray: &Stray) -> Option<Advance> {
        let toll = &mut self.bag.lock().unwrap().toll;
        match stray {
            Stray::Unexpected(WaitStatus::Exited(_, 2)) => toll.hung.push(format!("{order:?}")),
            other => toll.torn.push(format!("{order:?}: the process failed: {other:?}")),
        }
        None
    }
}

/// Whether this machine lets a process trace its child; says so if not.
pub fn may_trace() -> bool {
    let command = child_of("kill_step_child", "probe 0", "/nowhere".as_ref());
    let Err(Stray::NotTraced) = Stepper::start(command) else { return true };
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let scope = scope.map_or_else(|_| "not there".into(), |text| text.trim().to_owned());
    let reason = format!("ptrace is refused here (kernel.yama.ptrace_scope is {scope})");
    assert!(!required("ptrace"), "{reason}, and RINGMAIN_REQUIRE asks for it");
    println!("skipped: {reason}");
    false
}

// --- CPUs ------------------------------------------------------------------------------------

fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect()
}

/// Keeps this thread, and the client that it is going to start, on one CPU: only one of the two
/// runs at a time, and a wake-up across CPUs costs several times as much as a step.
fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// How many instructions clients are to be killed at.
pub fn steps() -> u64 {
    let Ok(text) = std::env::var("RINGMAIN_STEPS") else { return STEPS };
    text.parse().unwrap_or_else(|_| panic!("RINGMAIN_STEPS is {text:?}, not a number"))
}
