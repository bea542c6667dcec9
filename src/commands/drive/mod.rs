//! `ringmain drive`: load on a broker, one record per exchange.

mod exchange;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ringmain_client::{Client, Code, Config, Mode, Wait};
use ringmain_sim::contract::{CallerRecord, End};

use crate::cli::{Delivery, Drive, Waiting};
use crate::commands::Outcome;

/// What every exchange of one drive shares.
struct Load {
    model: String,
    prompt: String,
    mode: Mode,
    cancel_after: Option<u64>,
    deadline: Option<Duration>,
    pause: Duration,
    process: u64,
    uid: u32,
    streams: u64,
    next: AtomicU64,
    log: Log,
}

/// Where records go, and what they come to.
struct Log {
    /// One write per line: a kill tears the last line at most.
    out: Mutex<Box<dyn Write + Send>>,
    /// Whether an exchange is also written when it was only submitted, for histories of processes
    /// that are killed.
    submissions: bool,
    ended: AtomicU64,
    /// Cancelled by this driver.
    cancelled: AtomicU64,
    failures: Mutex<Failures>,
}

/// How many exchanges ended in which errors. Bound: the codes that there are.
#[derive(Default)]
struct Failures(BTreeMap<&'static str, u64>);

/// Runs all exchanges. Errors of exchanges are in their records; the exit status is a failure when
/// the driver itself failed, and when nothing but errors came of all of them.
pub fn run(args: &Drive) -> Outcome {
    let client = client(args)?;
    let load = Arc::new(Load::new(args)?);
    let begun = Instant::now();
    match args.wait {
        Waiting::Async => run_async(args.concurrency, &client, &load)?,
        _ => run_blocking(args.concurrency, &client, &load)?,
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (ended, cancelled) = (count(&load.log.ended), count(&load.log.cancelled));
    let failures = load.log.failures.lock();
    let took = begun.elapsed();
    match cancelled {
        0 => eprintln!("{ended} ended well, {failures}, in {took:.1?}"),
        _ => eprintln!(
            "{ended} ended well, {cancelled} were cancelled as asked, {failures}, in {took:.1?}"
        ),
    }
    let all_failed = failures.total() > 0 && ended + cancelled == 0;
    Ok(if all_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn client(args: &Drive) -> ringmain_client::Result<Client> {
    let mut config = match &args.broker.socket {
        Some(path) => Config::at(path),
        None => Config::default(),
    };
    config.wait = match args.wait {
        Waiting::Block | Waiting::Async => Wait::Block,
        Waiting::Adaptive => Wait::Adaptive,
        Waiting::Spin => Wait::Spin,
    };
    Client::builder().config(config).build()
}

fn run_blocking(concurrency: u32, client: &Client, load: &Arc<Load>) -> io::Result<()> {
    let mut threads = Vec::with_capacity(concurrency as usize);
    for _ in 0..concurrency {
        let (client, load) = (client.clone(), Arc::clone(load));
        threads.push(thread::Builder::new().stack_size(256 << 10).spawn(move || {
            while let Some(number) = load.take() {
                exchange::run(&client, &load, number)?;
            }
            Ok(())
        })?);
    }
    threads.into_iter().try_for_each(|thread| {
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the driver panicked")))
    })
}

fn run_async(concurrency: u32, client: &Client, load: &Arc<Load>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..concurrency {
            let (client, load) = (client.clone(), Arc::clone(load));
            tasks.spawn(async move {
                while let Some(number) = load.take() {
                    exchange::run_async(&client, &load, number).await?;
                }
                io::Result::Ok(())
            });
        }
        while let Some(joined) = tasks.join_next().await {
            joined.map_err(io::Error::other)??;
        }
        Ok(())
    })
}

impl Load {
    fn new(args: &Drive) -> io::Result<Load> {
        let mode = match args.mode {
            Delivery::Deltas => Mode::Deltas,
            Delivery::Events => Mode::Events,
            Delivery::Body => Mode::Body,
        };
        Ok(Load {
            model: args.model.clone(),
            prompt: args.prompt.clone(),
            mode,
            cancel_after: args.cancel_after,
            deadline: args.deadline_ms.map(Duration::from_millis),
            pause: Duration::from_millis(args.pause_ms),
            process: args.process.unwrap_or_else(|| process::id().into()),
            uid: ringmain_shm::own_uid(),
            streams: args.streams,
            next: AtomicU64::new(0),
            log: Log::open(&args.out, args.submissions)?,
        })
    }

    /// The number of the next exchange, while there is one.
    fn take(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (self.streams == 0 || number < self.streams).then_some(number)
    }
}

impl Log {
    fn open(path: &Path, submissions: bool) -> io::Result<Log> {
        let out: Box<dyn Write + Send> = match path.to_str() {
            Some("-") => Box::new(io::stdout()),
            _ => {
                let file = File::options().create(true).append(true).open(path);
                let named = |error| format!("{} cannot be written: {error}", path.display());
                Box::new(file.map_err(|error| io::Error::new(error.kind(), named(error)))?)
            }
        };
        Ok(Log {
            out: Mutex::new(out),
            submissions,
            ended: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            failures: Mutex::default(),
        })
    }

    fn submitted(&self, record: &CallerRecord) -> io::Result<()> {
        match self.submissions {
            true => record.write_line(&mut *self.out.lock()),
            false => Ok(()),
        }
    }

    fn finished(&self, record: &CallerRecord) -> io::Result<()> {
        let code = record.error_code();
        match record.end {
            Some(End::End { .. }) => _ = self.ended.fetch_add(1, Ordering::Relaxed),
            _ if record.cancelled_ns.is_some() && code == Some(Code::Cancelled) => {
                self.cancelled.fetch_add(1, Ordering::Relaxed);
            }
            _ => self.failures.lock().add(code),
        }
        record.write_line(&mut *self.out.lock())
    }
}

impl Failures {
    fn add(&mut self, code: Option<Code>) {
        *self.0.entry(code.map_or("no end", Code::name)).or_default() += 1;
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in errors", self.total())?;
        let mut before = " (";
        for (code, count) in &self.0 {
            write!(f, "{before}{count} {code}")?;
            before = ", ";
        }
        f.write_str(if self.0.is_empty() { "" } else { ")" })
    }
}
