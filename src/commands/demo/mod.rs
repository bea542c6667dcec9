//! `ringmain demo`: separate processes receive token streams, through a broker and without one.

mod cast;
mod consumer;
mod screen;
mod table;
mod tally;
mod usage;

use std::collections::HashSet;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use ringmain_sim::ProviderRecord;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cli::{Demo, Style};
use crate::commands::Outcome;
use crate::signals::{hung_up, stop_requested};

use cast::{Actor, Stage};
use consumer::ROUNDS;
use screen::Screen;
use table::Run;
use tally::Tally;
use usage::Usage;

pub use consumer::run as run_consumer;

/// Bound: the whole demo, so that a fault of any process ends it too.
const TIME_MAX: Duration = Duration::from_secs(60);
/// The consumers by name and style.
const CONSUMERS: [(&str, Style); 3] =
    [("blocking", Style::Blocking), ("async", Style::Async), ("slow", Style::Slow)];
/// Time between two tokens of a stream, microseconds: 50 tokens a second.
const GAP_US: u64 = 20_000;
/// Time to the first token, microseconds.
const FIRST_TOKEN_US: u64 = 30_000;

/// Runs both halves, prints the table; fails unless every token of every stream arrived.
pub fn run(args: &Demo) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = timeout(TIME_MAX, perform(args)) => match outcome {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("the demo did not end within {TIME_MAX:?}").into()),
            },
            // The children are killed as their handles are dropped.
            () = stop_requested() => Ok(ExitCode::from(130)),
            () = hung_up() => Ok(ExitCode::from(129)),
        }
    })
}

async fn perform(args: &Demo) -> Outcome {
    let mut out = io::stdout();
    let stage = Stage::build()?;
    let (provider, base_url) = Actor::provider().await?;
    let streams = u64::from(args.streams * ROUNDS) * CONSUMERS.len() as u64;
    let per_round = args.tokens / ROUNDS;
    writeln!(
        out,
        "{} processes, each {} streams at once, {ROUNDS} rounds of {per_round} tokens, \
         50 tokens/s",
        CONSUMERS.len(),
        args.streams
    )?;

    writeln!(out, "\nthrough ringmain: provider - HTTP - broker - shared memory - consumers")?;
    let broker = stage.start_broker(&base_url).await?;
    let pid = broker.pid().ok_or("the broker ended before the streams began")?;
    let before = Usage::of(pid);
    let socket = broker.socket.display().to_string();
    let mut ours = consume(args, &format!("socket:{socket}")).await?;
    ours.broker = Some(Usage::of(pid).since(before));
    (ours.opened, ours.reused) = connections(&base_url).await?;
    broker.stop().await;

    writeln!(out, "\nwithout: provider - HTTP - consumers")?;
    let mut direct = consume(args, &base_url).await?;
    (direct.opened, direct.reused) = connections(&base_url).await?;
    provider.stop().await;

    writeln!(out)?;
    table::print(&mut out, &ours, &direct)?;
    if cfg!(debug_assertions) {
        writeln!(out, "this is a debug build: only one with --release gives fair figures")?;
    }
    verdict(&stage, streams, &ours, &direct)
}

/// Success only if every token of every stream arrived intact, both times.
fn verdict(stage: &Stage, streams: u64, ours: &Run, direct: &Run) -> Outcome {
    for fault in ours.faults().chain(direct.faults()) {
        eprintln!("ringmain: {fault}");
    }
    if !ours.is_intact(streams) {
        eprint!("{}", stage.broker_log());
        return Err("not every token arrived through the broker".into());
    }
    if !direct.is_intact(streams) {
        return Err("not every token arrived over HTTP".into());
    }
    writeln!(io::stdout(), "\nevery token of every stream arrived intact")?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the three consumer processes, shows their progress and gathers their reports.
async fn consume(args: &Demo, source: &str) -> Result<Run, Box<dyn Error>> {
    let tokens = args.tokens / ROUNDS;
    let script = format!(
        "[[sim n={tokens} ttft_us={FIRST_TOKEN_US} gap_us={GAP_US} stamp=1 seed={{seed}}]]"
    );
    let total = u64::from(tokens * ROUNDS * args.streams);
    let (streams, tokens) = (args.streams.to_string(), tokens.to_string());
    // Bound: progress not yet shown; the readers wait while it is full.
    let (sender, mut events) = mpsc::channel(64);
    let mut readers = JoinSet::new();
    for (index, (name, _)) in CONSUMERS.iter().enumerate() {
        let first_seed = (index * 1_000).to_string();
        let actor = Actor::of_own_binary(&[
            "demo-consumer",
            "--style",
            name,
            "--source",
            source,
            "--streams",
            &streams,
            "--tokens",
            &tokens,
            "--first-seed",
            &first_seed,
            "--prompt",
            &script,
        ])?;
        let sender = sender.clone();
        readers.spawn(async move { (index, read(actor, index, sender).await) });
    }
    drop(sender);
    let mut screen = Screen::new(CONSUMERS.iter().map(|(name, _)| *name).collect(), total);
    while let Some((consumer, tokens)) = events.recv().await {
        screen.advance(consumer, tokens)?;
    }
    let mut run = Run::default();
    while let Some(joined) = readers.join_next().await {
        let (index, tally) = joined?;
        match CONSUMERS[index].1 {
            Style::Slow => run.slow.add(tally?),
            _ => run.prompt.add(tally?),
        }
    }
    Ok(run)
}

/// Reads what a consumer prints: `+N` as it receives tokens, and one JSON line at its end.
async fn read(
    mut actor: Actor,
    index: usize,
    sender: mpsc::Sender<(usize, u64)>,
) -> io::Result<Tally> {
    let mut tally = None;
    while let Some(line) = actor.lines.next_line().await? {
        match line.strip_prefix('+').and_then(|tokens| tokens.parse().ok()) {
            Some(tokens) => {
                // The receiver lives as long as the readers.
                let _ = sender.send((index, tokens)).await;
            }
            None => tally = Some(serde_json::from_str(&line)?),
        }
    }
    let status = actor.wait().await?;
    tally.ok_or_else(|| io::Error::other(format!("a consumer ended with {status}")))
}

/// Connections that the provider saw since it was asked last, and requests that found one open.
async fn connections(base_url: &str) -> Result<(u64, u64), Box<dyn Error>> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let log = http.get(format!("{base_url}/sim/log")).send().await?.text().await?;
    http.post(format!("{base_url}/sim/reset")).send().await?;
    let mut opened = HashSet::new();
    let mut requests = 0;
    for line in log.lines() {
        let record: ProviderRecord = serde_json::from_str(line)?;
        if record.path.contains("/chat/completions") {
            requests += 1;
            opened.insert(record.connection);
        }
    }
    let opened = opened.len() as u64;
    Ok((opened, requests - opened))
}
