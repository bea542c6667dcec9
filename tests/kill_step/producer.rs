//! Producers: the process that is stepped, and the callers that wait for its answers. Whatever it
//! is killed at, each of them has whole frames in order and then one typed error, or the end.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::unistd::Pid;
use ringmain_client::{
    ChatBody, Code, Config, Exchange, FinishReason, Geometry, Item, Mode, Producer, Request,
    Session,
};

use super::client::{BEGIN, Case, END, mark, stay};
use super::judge::World;
use super::march::{self, Party, Toll};
use super::stepper::{Advance, Stepper, Stray};
use crate::common::wait_until;

/// Names that producers have: more than are marched at a time.
const NAMES: u64 = 8;
/// What may become of an exchange here.
const ENDS: [Code; 4] =
    [Code::Cancelled, Code::ProducerAbsent, Code::ProducerGone, Code::SessionClosed];
/// Frames written before the end, or while the process is marched.
const TOKENS: usize = 3;
/// Time that an exchange of a dead producer may take to end. Its deadline is later.
const PATIENCE: Duration = Duration::from_secs(10);

/// The whole test, with so many kills.
pub fn kill_all(steps: u64) {
    let route =
        |n| format!("[[route]]\nmodel = \"p{n}\"\nendpoints = [{{ producer = \"p{n}\" }}]\n");
    let routes: String = (0..NAMES).map(route).collect();
    let world = World::start(&routes, &ENDS);
    let producers = Producers::new(&world);
    march::run(producers, world, steps);
}

// --- The process -----------------------------------------------------------------------------

/// Does what the case asks for between the marks, and waits for the kill.
pub fn run(case: Case, name: &str) -> ! {
    let mut config = Config::default();
    config.geometry = geometry();
    if case == Case::Register {
        mark(BEGIN);
        let producer = Producer::attach(config, name);
        mark(END);
        let _attached = producer.unwrap();
        stay()
    }
    let mut producer = Producer::attach(config, name).unwrap();
    // Somebody asks for something now, or when this sleeps.
    mark(BEGIN);
    if matches!(case, Case::Take | Case::TakeAsleep) {
        mark(BEGIN);
        let job = producer.take();
        mark(END);
        let _job = job.unwrap();
        stay()
    }
    let mut job = producer.take().unwrap();
    let (_, mut answer) = job.parts().unwrap();
    let mut write = || (0..TOKENS).try_for_each(|number| answer.delta(&token(number)));
    if case == Case::Produce {
        mark(BEGIN);
        let written = write();
        mark(END);
        written.unwrap();
        stay()
    }
    write().unwrap();
    mark(BEGIN);
    let ended = answer.end(FinishReason::Stop);
    drop(job);
    mark(END);
    ended.unwrap();
    stay()
}

/// With many lanes most instructions of some operations would be spent in loops over them.
fn geometry() -> Geometry {
    Geometry::new(2, 4 << 10, 64 << 10).unwrap()
}

/// Long enough to be torn.
fn token(number: usize) -> String {
    format!("{number} ").repeat(40 + number)
}

// --- Those who ask it ------------------------------------------------------------------------

/// Callers, each for the producers of a name of its own.
struct Producers {
    idle: Mutex<Vec<Caller>>,
}

struct Caller {
    name: String,
    session: Session,
}

/// A caller that sees a producer die.
struct Witness {
    case: Case,
    caller: Caller,
    /// What it waits for the answer to.
    exchange: Option<Exchange>,
}

impl Producers {
    fn new(world: &World) -> Producers {
        let caller = |n| {
            let mut config = Config::at(world.socket());
            config.geometry = geometry();
            Caller { name: format!("p{n}"), session: Session::attach(config).unwrap() }
        };
        Producers { idle: Mutex::new((0..NAMES).map(caller).collect()) }
    }
}

impl Party for Producers {
    const OPERATIONS: &'static [(&'static str, u64)] = &[
        ("producer_register", 8),
        ("producer_take", 34),
        ("producer_publish", 34),
        ("producer_end", 24),
    ];
    const CASES: &'static [Case] = &Case::PRODUCERS;
    type Witness = Witness;

    fn invite(&self, case: Case, _: u64) -> (Witness, String) {
        let caller = self.idle.lock().unwrap().pop().expect("more names than marchers");
        let name = caller.name.clone();
        (Witness { case, caller, exchange: None }, name)
    }

    /// The process stands attached, all but the one that is about to.
    fn set(&self, witness: &mut Witness, stepper: &mut Stepper) -> Result<(), Stray> {
        let Witness { case, caller, exchange } = witness;
        if *case == Case::Register {
            return Ok(());
        }
        if *case != Case::TakeAsleep {
            *exchange = Some(caller.ask());
            // It was submitted to the producer when both came back.
            caller.session.ping().unwrap();
            caller.session.ping().unwrap();
        }
        stepper.go_on()
    }

    fn advance(
        &self,
        witness: &mut Witness,
        stepper: &mut Stepper,
        instructions: u64,
    ) -> Result<Advance, Stray> {
        let Witness { case, caller, exchange } = witness;
        if *case != Case::TakeAsleep {
            return stepper.advance(instructions);
        }
        let (thread, is_over) = (stepper.thread(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                // Bound: the march.
                while exchange.is_none() && !is_over.load(Ordering::Relaxed) {
                    match is_asleep(thread) {
                        true => *exchange = Some(caller.ask()),
                        false => thread::sleep(Duration::from_micros(100)),
                    }
                }
            });
            let advance = stepper.advance(instructions);
            is_over.store(true, Ordering::Relaxed);
            advance
        })
    }

    fn see(&self, witness: Witness, at: &str, toll: &mut Toll) {
        let Witness { case, mut caller, exchange } = witness;
        if let Some(exchange) = exchange {
            match caller.listen(exchange) {
                Ok(answer) => {
                    toll.torn.extend(answer.judge(case).map(|what| format!("{at}: {what}")))
                }
                Err(Hangs) => toll.hung.push(format!("{at}: its caller")),
            }
        }
        // Nobody is given to the dead any more: the next one of this name is asked next.
        if !wait_until(PATIENCE, || caller.finds_nobody()) {
            toll.leaked.push(format!("{at}: it is still asked"));
        }
        self.idle.lock().unwrap().push(caller);
    }
}

/// Whether a thread that is not stopped waits for something.
fn is_asleep(thread: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{thread}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// What came of an exchange.
struct Answer {
    /// Pieces of content, as they came.
    pieces: Vec<String>,
    has_head: bool,
    /// The end, or the code of the error.
    end: Result<(), Code>,
}

/// The answer did not end.
struct Hangs;

impl Caller {
    fn ask(&mut self) -> Exchange {
        let request = Request::new(&self.name, "/chat/completions").mode(Mode::Deltas);
        let request = request.deadline(PATIENCE);
        let body = ChatBody::new(&self.name).message("user", "x");
        self.session.submit(&request, &body).unwrap()
    }

    /// Reads the answer to its end.
    fn listen(&mut self, exchange: Exchange) -> Result<Answer, Hangs> {
        let (mut pieces, mut has_head) = (Vec::new(), false);
        loop {
            let end = match self.session.next(exchange) {
                Ok(Some(Item::Head(_))) => {
                    has_head = true;
                    continue;
                }
                Ok(Some(Item::Delta { text, .. })) => {
                    pieces.push(text.to_owned());
                    continue;
                }
                Ok(Some(Item::End(_))) => Ok(()),
                Ok(other) => panic!("no producer here writes {other:?}"),
                Err(error) if error.code() == Code::DeadlineExceeded => return Err(Hangs),
                Err(error) => Err(error.code()),
            };
            return Ok(Answer { pieces, has_head, end });
        }
    }

    /// Whether the broker knows of no producer of this name.
    fn finds_nobody(&mut self) -> bool {
        let exchange = self.ask();
        matches!(self.listen(exchange), Ok(Answer { end: Err(Code::ProducerAbsent), .. }))
    }
}

impl Answer {
    /// What is wrong with it, seen from a producer that died in this case.
    fn judge(&self, case: Case) -> Option<String> {
        let written = match case {
            Case::Produce | Case::ProduceEnd => TOKENS,
            _ => 0,
        };
        let whole = (0..written).map(token);
        let is_prefix = self.pieces.len() <= written
            && self.pieces.iter().zip(whole).all(|(piece, token)| *piece == token);
        if !is_prefix || (!self.pieces.is_empty() && !self.has_head) {
            return Some(format!("torn is {:?} (HEAD: {})", self.pieces, self.has_head));
        }
        match self.end {
            Ok(()) if case == Case::ProduceEnd && self.pieces.len() == TOKENS => None,
            Err(Code::ProducerGone) => None,
            end => Some(format!("its answer ended in {end:?} after {} pieces", self.pieces.len())),
        }
    }
}
