//! Many streams at once from one process, each checked token by token.
//!
//! ```text
//! cargo run --release --example many_streams -- --streams 1000
//! ```
//! Without a socket it starts `ringmain sim` and `ringmain serve` for itself. With one, a route of
//! the broker behind it must lead to a simulated provider, for that is what makes the expected text
//! computable.

mod support;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringmain_client::{Client, Item};
use ringmain_sim::Script;
use ringmain_sim::text::token_text;
use support::{Options, Stack};

/// What all streams count together.
#[derive(Default)]
struct Tally {
    running: AtomicU64,
    most_at_once: AtomicU64,
    tokens: AtomicU64,
    intact: AtomicU64,
    failed: AtomicU64,
}

fn main() -> ExitCode {
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    // Declared first: the runtime is gone before the broker is stopped.
    let stack = Stack::for_options(options)?;
    let client = match stack.socket(options) {
        Some(socket) => Client::at(socket)?,
        None => Client::new()?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(stream_all(client, options))
}

async fn stream_all(client: Client, options: &Options) -> Result<bool, Box<dyn Error>> {
    let tally = Arc::new(Tally::default());
    let start = Instant::now();
    let tasks: Vec<_> = (0..options.streams)
        .map(|number| {
            let (client, tally) = (client.clone(), Arc::clone(&tally));
            let (model, tokens) = (options.model.clone(), options.tokens);
            tokio::spawn(async move {
                match stream_one(&client, &model, number, tokens, &tally).await {
                    Ok(()) => tally.intact.fetch_add(1, Ordering::Relaxed),
                    Err(text) => {
                        eprintln!("stream {number}: {text}");
                        tally.failed.fetch_add(1, Ordering::Relaxed)
                    }
                }
            })
        })
        .collect();
    let progress = tokio::spawn(show_progress(Arc::clone(&tally), options.streams));
    for task in tasks {
        task.await?;
    }
    progress.abort();
    Ok(tally.summary(options, start.elapsed()))
}

/// Streams one answer and compares each token with the one that is due.
async fn stream_one(
    client: &Client,
    model: &str,
    number: u64,
    tokens: u64,
    tally: &Tally,
) -> Result<(), String> {
    let script = Script { ttft_us: 500_000, gap_us: 10_000, ..Script::tokens(tokens) };
    let script = script.with_id(format!("many-{number}"));
    let seed = script.text_seed(0);
    let prompt = script.to_string();
    let chat = client.chat(model).user(prompt).deadline(Duration::from_secs(120));
    let mut stream = chat.stream_async().await.map_err(|error| error.to_string())?;

    let running = tally.running.fetch_add(1, Ordering::Relaxed) + 1;
    tally.most_at_once.fetch_max(running, Ordering::Relaxed);
    let (mut due, mut index) = (String::new(), 0);
    let mut ended = false;
    let result = loop {
        match stream.next().await {
            Ok(Some(Item::Delta { text, .. })) => {
                // A piece may be part of a token, or several.
                while due.len() < text.len() && index < tokens as usize {
                    due.push_str(&token_text(seed, index, 0));
                    index += 1;
                    tally.tokens.fetch_add(1, Ordering::Relaxed);
                }
                if !due.starts_with(text) {
                    break Err(format!("before token {index}: {text:?} came, {due:?} was due"));
                }
                due.drain(..text.len());
            }
            Ok(Some(Item::End(_))) => ended = true,
            Ok(Some(_)) => {}
            Ok(None) if ended && due.is_empty() && index == tokens as usize => break Ok(()),
            Ok(None) => break Err(format!("ended after {index} of {tokens} tokens")),
            Err(error) => break Err(error.to_string()),
        }
    };
    tally.running.fetch_sub(1, Ordering::Relaxed);
    result
}

async fn show_progress(tally: Arc<Tally>, streams: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        let [running, tokens] = [&tally.running, &tally.tokens].map(|n| n.load(Ordering::Relaxed));
        println!("{running:>6} of {streams} streams running, {tokens} tokens so far");
    }
}

impl Tally {
    /// Prints the result. True: every stream arrived intact.
    fn summary(&self, options: &Options, took: Duration) -> bool {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (intact, failed, tokens) = (load(&self.intact), load(&self.failed), load(&self.tokens));
        println!(
            "{intact} of {} streams intact, {failed} failed; {tokens} tokens in {:.2} s ({:.0}/s), \
             {} streams at once",
            options.streams,
            took.as_secs_f64(),
            tokens as f64 / took.as_secs_f64(),
            load(&self.most_at_once),
        );
        intact == options.streams
    }
}
