//! The process that is stepped: it gets everything ready, stops, does one thing, and stops again.
//! Here are the clients; producers are in [`producer`](super::producer).

use std::process;
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use ringmain_client::{Config, Exchange, Geometry, Mode, Request, Session};
use ringmain_sim::{Script, contract};

use super::producer;
use super::tape::Tape;

/// What is done between the two marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    /// Nothing: shows whether a client can be traced at all.
    Probe,
    /// Attaching, from the first system call to the session.
    Attach,
    /// A request beside one that runs.
    Publish,
    /// Reading from a full lane to where its writer is told that there is room.
    Consume,
    /// A read that sleeps until the next frame comes.
    ConsumeAsleep,
    /// Reading on to the end, which frees the lane.
    ConsumeEnd,
    /// Telling the broker to end a running stream.
    Cancel,
    /// The same, and throwing away what still comes.
    GiveUp,
    /// Attaching as a producer.
    Register,
    /// Taking a request that is there.
    Take,
    /// Sleeping until a request comes, and taking it.
    TakeAsleep,
    /// Writing HEAD and three frames of an answer.
    Produce,
    /// Writing the end of an answer, and giving the memory of its request back.
    ProduceEnd,
}

/// Raised before the first instruction that counts.
pub const BEGIN: Signal = Signal::SIGUSR1;
/// Raised after the last one.
pub const END: Signal = Signal::SIGUSR2;
/// Exit code of a process that may not be traced.
pub const NOT_TRACED: i32 = 77;

/// Longest life of a client: one that takes longer hangs, and its parent is told so by its end.
const LIFE: Duration = Duration::from_secs(60);
/// A stream that does not end before the kill.
const ENDLESS: u64 = 1_000_000;
/// Bytes of a prompt before the orders for the provider.
const FILLING: usize = 100;
/// HEAD and three frames of these fill a quarter of a lane of 4 KiB: the cursor is published when
/// the third one is released.
const TOKEN_BYTES: u64 = 250;
const TOKENS_BEFORE: u64 = 2;
const TOKENS_READ: u64 = 2;

impl Case {
    /// Those of clients.
    pub const STEPPED: [Case; 7] = [
        Case::Attach,
        Case::Publish,
        Case::Consume,
        Case::ConsumeAsleep,
        Case::ConsumeEnd,
        Case::Cancel,
        Case::GiveUp,
    ];

    /// Those of producers.
    pub const PRODUCERS: [Case; 5] =
        [Case::Register, Case::Take, Case::TakeAsleep, Case::Produce, Case::ProduceEnd];

    pub fn name(self) -> &'static str {
        match self {
            Case::Probe => "probe",
            Case::Attach => "attach",
            Case::Publish => "publish",
            Case::Consume => "consume",
            Case::ConsumeAsleep => "consume-asleep",
            Case::ConsumeEnd => "consume-end",
            Case::Cancel => "cancel",
            Case::GiveUp => "cancel-give-up",
            Case::Register => "producer_register",
            Case::Take => "producer_take",
            Case::TakeAsleep => "producer_take-asleep",
            Case::Produce => "producer_publish",
            Case::ProduceEnd => "producer_end",
        }
    }

    /// The operation that this is a case of.
    pub fn operation(self) -> &'static str {
        self.name().split('-').next().unwrap_or_default()
    }

    pub fn find(name: &str) -> Case {
        let all = Case::STEPPED.into_iter().chain(Case::PRODUCERS).chain([Case::Probe]);
        let found = all.into_iter().find(|case| case.name() == name);
        found.unwrap_or_else(|| panic!("no case is called {name:?}"))
    }
}

/// Does what the case asks for between the marks, and waits for the kill. `argument`: the number
/// of a client, the name of a producer.
pub fn run(case: Case, argument: &str) -> ! {
    if let Err(error) = ptrace::traceme() {
        eprintln!("tracing is refused: {error}");
        process::exit(NOT_TRACED);
    }
    thread::spawn(|| {
        thread::sleep(LIFE);
        eprintln!("a client took longer than {LIFE:?}");
        process::exit(2);
    });
    if Case::PRODUCERS.contains(&case) {
        producer::run(case, argument)
    }
    let process = argument.parse().unwrap();
    let tape = Tape::open();
    let mut config = Config::default();
    // With many lanes most instructions of some operations would be spent in loops over them.
    let lane_bytes = if case == Case::Consume { 4 << 10 } else { 16 << 10 };
    config.geometry = Geometry::new(2, lane_bytes, 64 << 10).unwrap();
    if case == Case::Probe {
        mark(BEGIN);
        stay()
    }
    if case == Case::Attach {
        mark(BEGIN);
        let session = Session::attach(config);
        mark(END);
        drop(session.unwrap());
        stay()
    }
    let session = Session::attach(config).unwrap();
    let client = Client { case, process, tape, session, exchanges: Vec::new() };
    match case {
        Case::Publish => client.publish(),
        Case::Consume => client.consume(),
        Case::ConsumeAsleep => client.consume_asleep(),
        Case::ConsumeEnd => client.consume_end(),
        Case::Cancel | Case::GiveUp => client.cancel(),
        _ => unreachable!("done above"),
    }
}

/// A client with its session.
struct Client {
    case: Case,
    process: u64,
    tape: Tape,
    session: Session,
    /// Exchanges by their number on the tape.
    exchanges: Vec<Exchange>,
}

impl Client {
    fn publish(mut self) -> ! {
        self.submit(Script { head_us: Some(60_000_000), ..Script::tokens(1) });
        let script = Script { n: ENDLESS, gap_us: 1000, ..Script::default() };
        let (request, body) = self.prepare(script, FILLING);
        mark(BEGIN);
        let exchange = self.session.submit(&request, &body[..]);
        mark(END);
        exchange.unwrap();
        stay()
    }

    /// The broker writes HEAD and what came with it in one go, on its only thread: when a ping
    /// that was sent after HEAD had been read has come back, twice, the lane is full.
    fn consume(mut self) -> ! {
        let script = Script { n: ENDLESS, size: TOKEN_BYTES, coalesce: 64, ..Script::default() };
        self.submit(script);
        self.read(1);
        self.session.ping().unwrap();
        self.session.ping().unwrap();
        self.read(TOKENS_BEFORE);
        mark(BEGIN);
        self.read(TOKENS_READ);
        mark(END);
        stay()
    }

    fn consume_asleep(mut self) -> ! {
        // Longer than a march to where it falls asleep.
        self.submit(Script { n: ENDLESS, gap_us: 200_000, ..Script::default() });
        self.read(2);
        mark(BEGIN);
        self.read(1);
        mark(END);
        stay()
    }

    fn consume_end(mut self) -> ! {
        self.submit(Script::tokens(1));
        self.read(1);
        self.session.ping().unwrap();
        self.session.ping().unwrap();
        mark(BEGIN);
        self.read(u64::MAX);
        mark(END);
        stay()
    }

    fn cancel(mut self) -> ! {
        let is_given_up = self.case == Case::GiveUp;
        // Three frames are there to be thrown away, and hardly any more: steps take their time.
        self.submit(Script { n: ENDLESS, gap_us: 100_000, coalesce: 4, ..Script::default() });
        self.read(2);
        let exchange = self.exchanges[0];
        mark(BEGIN);
        match is_given_up {
            true => self.session.give_up(exchange),
            false => self.session.cancel(exchange),
        }
        mark(END);
        stay()
    }

    fn submit(&mut self, script: Script) {
        let (request, body) = self.prepare(script, 0);
        let exchange = self.session.submit(&request, &body[..]).unwrap();
        self.tape.accepted(self.exchanges.len() as u16);
        self.exchanges.push(exchange);
    }

    /// What is submitted; the provider finds its orders at the very end of the prompt.
    fn prepare(&mut self, script: Script, filling: usize) -> (Request<'static>, Vec<u8>) {
        let number = self.exchanges.len() as u16;
        let id = id(self.case, self.process, number);
        let prompt = format!("{} {}", "x".repeat(filling), script.with_id(id.as_str()));
        let body = format!(
            r#"{{"model":"tiny","stream":true,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
        );
        self.tape.submit(number, contract::Mode::Deltas, &id);
        let request =
            Request::new("tiny", "/chat/completions").mode(Mode::Deltas).usage_requested();
        (request, body.into_bytes())
    }

    /// Reads so many items of the first exchange, or all that are left.
    fn read(&mut self, items: u64) {
        for _ in 0..items {
            match self.session.next(self.exchanges[0]).unwrap() {
                Some(item) => self.tape.item(0, &item),
                None => return,
            }
        }
    }
}

/// Correlation id of an exchange.
pub fn id(case: Case, process: u64, number: u16) -> String {
    format!("{}.{process}.{number}", case.name())
}

/// Stops here until the parent goes on.
pub fn mark(signal: Signal) {
    raise(signal).unwrap();
}

/// Waits for the kill.
pub fn stay() -> ! {
    loop {
        thread::park();
    }
}
