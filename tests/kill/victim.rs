//! The client process that is going to be killed: it gets into a phase and stays there.

use std::process;
use std::thread;
use std::time::Duration;

use ringmain_client::{ChatBody, Config, Exchange, Geometry, Mode, Request, Session};
use ringmain_sim::{Script, contract};

use super::random::Random;
use super::tape::{Phase, Tape};

/// A victim, told by its parent what to be caught at.
struct Victim {
    process: u64,
    random: Random,
    tape: Tape,
    session: Session,
    mode: Mode,
    /// Exchanges submitted so far, by their number on the tape; `None` once over.
    exchanges: Vec<Option<Exchange>>,
}

/// What one read brought.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Content,
    Other,
    Over,
}

/// Longest life of a victim, for the case that its parent is gone.
const LIFE: Duration = Duration::from_secs(30);
/// A stream that does not end before the kill.
const ENDLESS: u64 = 1_000_000;

/// Gets into this phase and stays there until it is killed.
pub fn run(phase: Phase, process: u64) -> ! {
    thread::spawn(|| {
        thread::sleep(LIFE);
        eprintln!("a victim outlived its parent");
        process::exit(2);
    });
    let mut random = Random::new(process);
    let tape = Tape::open();
    tape.enter(Phase::Attach);
    let config = config(phase, &mut random);
    if phase == Phase::Attach {
        attach_again_and_again(&tape, &config);
    }
    let session = Session::attach(config).unwrap();
    tape.enter(Phase::Idle);
    let mode = if random.below(3) == 0 { Mode::Events } else { Mode::Deltas };
    let victim = Victim { process, random, tape, session, mode, exchanges: Vec::new() };
    match phase {
        Phase::Submit => victim.submit_again_and_again(),
        Phase::WaitForHead => victim.wait_for_head(),
        Phase::MidStream => victim.stream(),
        Phase::LaneFull => victim.fill_a_lane(),
        Phase::Cancel => victim.cancel_again_and_again(),
        _ => victim.end(),
    }
}

fn config(phase: Phase, random: &mut Random) -> Config {
    let mut config = Config::default();
    let lanes = 1 << random.below(7);
    let arena_bytes = 1 << (16 + random.below(9));
    config.geometry = match phase {
        Phase::Attach => Geometry::new(lanes, 16 << 10, arena_bytes).unwrap(),
        // Three frames fill it.
        Phase::LaneFull => Geometry::new(4, 4 << 10, 64 << 10).unwrap(),
        _ => Geometry::default(),
    };
    config
}

fn attach_again_and_again(tape: &Tape, config: &Config) -> ! {
    loop {
        tape.enter(Phase::Attach);
        let session = Session::attach(config.clone()).unwrap();
        tape.enter(Phase::Idle);
        drop(session);
    }
}

impl Victim {
    /// Large bodies, so that the kill falls while one is being written.
    fn submit_again_and_again(mut self) -> ! {
        loop {
            for _ in 0..8 {
                let filling = self.random.below(48 << 10) as usize;
                self.submit(Script { n: ENDLESS, gap_us: 1000, ..Script::default() }, filling);
            }
            self.tape.enter(Phase::Cancel);
            for number in 0..self.exchanges.len() {
                self.give_up(number);
            }
        }
    }

    fn wait_for_head(mut self) -> ! {
        for _ in 0..=self.random.below(4) {
            let head_us = Some(60_000_000);
            self.submit(Script { head_us, ..Script::tokens(1) }, 0);
        }
        self.read_all()
    }

    fn stream(mut self) -> ! {
        let gap_us = [0, 0, 100, 1000][self.random.below(4) as usize];
        let coalesce = 1 << self.random.below(4);
        for _ in 0..=self.random.below(3) {
            self.submit(Script { n: ENDLESS, gap_us, coalesce, ..Script::default() }, 0);
        }
        self.read_all()
    }

    /// The broker writes HEAD and what came with it in one go. The broker has one thread: when a
    /// ping that was sent after HEAD had been read has come back, twice, its task for this stream
    /// has run into the end of the lane and waits for room.
    fn fill_a_lane(mut self) -> ! {
        let script = Script { n: ENDLESS, size: 900, coalesce: 64, ..Script::default() };
        self.submit(script, 0);
        assert!(self.read(0) == Read::Other, "HEAD comes first");
        self.session.ping().unwrap();
        self.session.ping().unwrap();
        self.tape.enter(Phase::LaneFull);
        if self.random.below(2) == 0 {
            stay()
        }
        // Reads so slowly that the lane stays full nearly all the time.
        let pause = Duration::from_micros(200 + self.random.below(2000));
        loop {
            thread::sleep(pause);
            self.read_in(0, Phase::LaneFull);
        }
    }

    fn cancel_again_and_again(mut self) -> ! {
        for number in 0.. {
            let gap_us = [0, 200][self.random.below(2) as usize];
            self.submit(Script { n: ENDLESS, gap_us, ..Script::default() }, 0);
            for _ in 0..self.random.below(4) {
                self.read(number);
            }
            self.tape.enter(Phase::Cancel);
            if self.random.below(2) == 0 {
                self.give_up(number);
                self.session.ping().unwrap();
                continue;
            }
            self.tape.cancel(number as u16, false);
            self.session.cancel(self.exchanges[number].expect("an endless stream"));
            while self.read_in(number, Phase::Cancel) != Read::Over {}
        }
        stay()
    }

    /// Reads to END. Sometimes the last item is still on loan when the kill comes, sometimes its
    /// lane was given back, sometimes used again.
    fn end(mut self) -> ! {
        let tokens = 1 + self.random.below(8);
        self.submit(Script::tokens(tokens), 0);
        while self.read_in(0, Phase::MidStream) != Read::Over {}
        self.tape.enter(Phase::AfterEnd);
        for _ in 0..self.random.below(3) {
            self.session.ping().unwrap();
        }
        stay()
    }

    fn submit(&mut self, script: Script, filling: usize) {
        let number = self.exchanges.len() as u16;
        let id = format!("v{}-{number}", self.process);
        let prompt = format!("{} {}", "x".repeat(filling), script.with_id(id.as_str()));
        let request = Request::new("tiny", "/chat/completions").mode(self.mode).usage_requested();
        let body = ChatBody::new("tiny").message("user", prompt);
        let mode = match self.mode {
            Mode::Events => contract::Mode::Events,
            _ => contract::Mode::Deltas,
        };
        self.tape.enter(Phase::Submit);
        self.tape.submit(number, mode, &id);
        let exchange = self.session.submit(&request, &body);
        match &exchange {
            Ok(_) => self.tape.accepted(number),
            Err(error) => self.tape.refused(number, error.code()),
        }
        self.tape.enter(Phase::WaitForHead);
        self.exchanges.push(exchange.ok());
    }

    /// Reads everything that comes, in the order in which it comes.
    fn read_all(mut self) -> ! {
        loop {
            let Some((exchange, item)) = self.session.next_any() else { stay() };
            let number = self.exchanges.iter().position(|running| *running == Some(exchange));
            let number = number.expect("an exchange of ours") as u16;
            match item {
                Ok(item) => {
                    self.tape.item(number, &item);
                    self.tape.enter(Phase::MidStream);
                }
                Err(error) => panic!("nothing here ends by itself: {error}"),
            }
        }
    }

    fn read(&mut self, number: usize) -> Read {
        self.read_in(number, Phase::MidStream)
    }

    /// Reads one item; `phase` is what the process is in from the first one on.
    fn read_in(&mut self, number: usize, phase: Phase) -> Read {
        let Some(exchange) = self.exchanges[number] else { return Read::Over };
        let read = match self.session.next(exchange) {
            Ok(Some(item)) => {
                self.tape.item(number as u16, &item);
                match item.text() {
                    Some(_) => Read::Content,
                    None => Read::Other,
                }
            }
            Ok(None) => Read::Over,
            Err(error) => {
                self.tape.error(number as u16, &error);
                Read::Other
            }
        };
        match read {
            Read::Over => self.exchanges[number] = None,
            _ => self.tape.enter(phase),
        }
        read
    }

    fn give_up(&mut self, number: usize) {
        if let Some(exchange) = self.exchanges[number].take() {
            self.tape.cancel(number as u16, true);
            self.session.give_up(exchange);
        }
    }
}

/// Waits for the kill.
fn stay() -> ! {
    loop {
        thread::park();
    }
}
