//! One consumer process: the same streams, from the broker or straight from the provider.

mod direct;
mod ring;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tokio::task::LocalSet;

use crate::cli::{DemoConsumer, Style};
use crate::commands::Outcome;

use super::tally::{OwnUsage, StreamWatch, Tally};

/// Streams that each of the parallel ones is followed by, itself included.
pub const ROUNDS: u32 = 2;
/// Tokens between two lines of progress.
const PROGRESS_TOKENS: u64 = 5;
/// What the slow consumer does with a token, longer than a token takes to come.
const SLOW: Duration = Duration::from_millis(25);

/// One stream to be received.
#[derive(Clone)]
pub struct Job {
    prompt: String,
    seed: u64,
    tokens: u32,
    style: Style,
}

/// A stream while it is received, with what the process does about each token.
struct Watch {
    stream: StreamWatch,
    style: Style,
}

/// Runs all streams and prints the tally.
pub fn run(args: &DemoConsumer) -> Outcome {
    let tally = match args.source.strip_prefix("socket:") {
        Some(socket) => consume(args, &ring::Source::new(socket))?,
        None => consume(args, &direct::Source::new(&args.source))?,
    };
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &tally)?;
    writeln!(out)?;
    Ok(ExitCode::SUCCESS)
}

/// Where streams come from.
trait Source: Clone + Send + 'static {
    /// What one thread holds to receive streams, one after the other.
    type Blocking;
    /// What the tasks of one thread share.
    type Shared: Clone + 'static;

    fn blocking(&self) -> Result<Self::Blocking, String>;
    fn shared(&self) -> Result<Self::Shared, String>;
    fn receive(from: &Self::Blocking, job: &Job) -> Tally;
    fn receive_async(from: Self::Shared, job: Job) -> impl Future<Output = Tally>;
}

fn consume<S: Source>(args: &DemoConsumer, source: &S) -> Result<Tally, Box<dyn Error>> {
    match args.style {
        Style::Async => consume_async(args, source),
        Style::Blocking | Style::Slow => consume_blocking(args, source),
    }
}

fn consume_blocking<S: Source>(args: &DemoConsumer, source: &S) -> Result<Tally, Box<dyn Error>> {
    let usage = OwnUsage::begin();
    let mut tally = Tally::default();
    let threads: Vec<_> = (0..args.streams)
        .map(|stream| {
            let (source, jobs) = (source.clone(), jobs(args, stream));
            thread::spawn(move || -> Result<Tally, String> {
                let from = source.blocking()?;
                let mut tally = Tally::default();
                jobs.for_each(|job| tally.add(S::receive(&from, &job)));
                Ok(tally)
            })
        })
        .collect();
    for thread in threads {
        tally.add(thread.join().map_err(|_| "a consumer thread panicked")??);
    }
    usage.finish(&mut tally);
    Ok(tally)
}

fn consume_async<S: Source>(args: &DemoConsumer, source: &S) -> Result<Tally, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = LocalSet::new();
    runtime.block_on(tasks.run_until(async {
        let usage = OwnUsage::begin();
        let shared = source.shared()?;
        let streams: Vec<_> = (0..args.streams)
            .map(|stream| {
                let (shared, jobs) = (shared.clone(), jobs(args, stream));
                tokio::task::spawn_local(async move {
                    let mut tally = Tally::default();
                    for job in jobs {
                        tally.add(S::receive_async(shared.clone(), job).await);
                    }
                    tally
                })
            })
            .collect();
        let mut tally = Tally::default();
        for stream in streams {
            tally.add(stream.await?);
        }
        usage.finish(&mut tally);
        Ok(tally)
    }))
}

fn jobs(args: &DemoConsumer, stream: u32) -> impl Iterator<Item = Job> + use<> {
    let (first, tokens, style) = (args.first_seed, args.tokens, args.style);
    let prompt = args.prompt.clone();
    (0..ROUNDS).map(move |round| {
        let seed = first + u64::from(stream * ROUNDS + round);
        let prompt = prompt.replace("{seed}", &seed.to_string());
        Job { prompt, seed, tokens, style }
    })
}

impl Watch {
    fn begin(job: &Job) -> Watch {
        Watch { stream: StreamWatch::begin(job.seed, job.tokens), style: job.style }
    }

    fn token(&mut self, stamped: &str) {
        self.stream.token(stamped);
        if self.stream.tokens().is_multiple_of(PROGRESS_TOKENS) {
            // Without a reader there is nobody to show the progress to.
            let _ = writeln!(io::stdout().lock(), "+{PROGRESS_TOKENS}");
        }
        if self.style == Style::Slow {
            thread::sleep(SLOW);
        }
    }

    fn finish(self, outcome: Result<(), String>) -> Tally {
        let rest = self.stream.tokens() % PROGRESS_TOKENS;
        if rest > 0 {
            let _ = writeln!(io::stdout().lock(), "+{rest}");
        }
        self.stream.finish(outcome)
    }
}
