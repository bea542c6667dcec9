//! Consumers behind a broker, written as a user of the client library would write them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread;

use ringmain_client::{
    ChatBody, Client, Config, Exchange, Geometry, Item, Mode, Request, Session, Wait,
};
use ringmain_shm::monotonic_ns;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::load::{Load, Tally, run};
use crate::error::{BenchError, Result, Tried};
use crate::harness::servers::MODEL;

/// Which consumer, at which broker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Consume {
    pub socket: PathBuf,
    pub style: Style,
    pub load: Load,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Style {
    /// One thread, one session, as many exchanges as there are streams.
    Blocking,
    /// A thread and a session for each stream.
    Threads,
    /// Tasks of one thread that share a client.
    Tokio,
}

const PATH: &str = "/chat/completions";

/// Consumes a load and tells what it cost.
pub(crate) fn consume(told: &Consume) -> Result<()> {
    match told.style {
        Style::Blocking => blocking(told),
        Style::Threads => threads(told),
        Style::Tokio => on_tokio(told),
    }
}

fn blocking(told: &Consume) -> Result<()> {
    let mut config = Config::at(&told.socket);
    config.wait = Wait::Block;
    if told.load.streams > config.geometry.lanes() {
        let lanes = told.load.streams;
        let (lane, arena) = (config.geometry.lane_bytes(), config.geometry.arena_bytes());
        config.geometry = Geometry::new(lanes, lane, arena)
            .map_err(|error| BenchError::NotIntact(error.to_string()))?;
    }
    let mut session = Session::attach(config)?;
    run(&told.load, |load, tally| match load.streams {
        1 => one_by_one(&mut session, load, tally),
        _ => all_at_once(&mut session, load, tally),
    })
}

/// One stream at a time: waits for the lane of the one exchange.
fn one_by_one(session: &mut Session, load: &Load, tally: &mut Tally) -> Result<()> {
    for _ in 0..load.rounds {
        let start_ns = monotonic_ns();
        let exchange = submit(session, load)?;
        let mut is_first = true;
        if load.plain {
            while let Some(item) = session.next(exchange)? {
                if let Item::Body(bytes) = item {
                    tally.plain(bytes);
                }
            }
        } else {
            while let Some(text) = session.next_text(exchange)? {
                tally.token(text);
                if is_first && !text.is_empty() {
                    tally.first(start_ns);
                    is_first = false;
                }
            }
        }
        tally.end(load.plain);
    }
    Ok(())
}

/// When an exchange began, until its first token, and how many rounds its stream has left.
struct Running {
    start_ns: Option<u64>,
    rounds_left: u32,
}

/// All streams at a time: waits for whichever has something.
fn all_at_once(session: &mut Session, load: &Load, tally: &mut Tally) -> Result<()> {
    let mut running: HashMap<Exchange, Running> = HashMap::new();
    for _ in 0..load.streams {
        start(session, load, load.rounds, &mut running)?;
    }
    // Bound: every exchange ends.
    while let Some((exchange, item)) = session.next_any() {
        let ended = match item? {
            Item::Delta { text, .. } => {
                tally.token(text);
                if let Some(at) = running.get_mut(&exchange)
                    && let Some(start_ns) = at.start_ns.take_if(|_| !text.is_empty())
                {
                    tally.first(start_ns);
                }
                false
            }
            Item::Body(bytes) => {
                tally.plain(bytes);
                false
            }
            Item::End(_) => true,
            _ => false,
        };
        if ended {
            tally.end(load.plain);
            let rounds_left = running.remove(&exchange).map_or(0, |at| at.rounds_left);
            if rounds_left > 0 {
                start(session, load, rounds_left, &mut running)?;
            }
        }
    }
    Ok(())
}

fn start(
    session: &mut Session,
    load: &Load,
    rounds: u32,
    running: &mut HashMap<Exchange, Running>,
) -> Result<()> {
    let start_ns = Some(monotonic_ns());
    let exchange = submit(session, load)?;
    running.insert(exchange, Running { start_ns, rounds_left: rounds - 1 });
    Ok(())
}

fn submit(session: &mut Session, load: &Load) -> Result<Exchange> {
    if load.plain {
        let request = Request::new(MODEL, PATH);
        return Ok(session.submit(&request, plain_body(load).as_slice())?);
    }
    let request = Request::new(MODEL, PATH).mode(Mode::Deltas).usage_requested();
    let body = ChatBody::new(MODEL).message("user", load.prompt.as_str());
    Ok(session.submit(&request, &body)?)
}

/// The body of a chat whose answer is not a stream.
pub(crate) fn plain_body(load: &Load) -> Vec<u8> {
    // Words rather than one letter: an encoding has something to do.
    let words = "the quick brown fox jumps over the lazy dog, and once more; ";
    let mut pad = words.repeat(load.pad_bytes.div_ceil(words.len()));
    pad.truncate(load.pad_bytes);
    let content = format!("{}{pad}", load.prompt);
    let message = serde_json::json!({ "role": "user", "content": content });
    serde_json::json!({ "model": MODEL, "messages": [message] }).to_string().into_bytes()
}

fn threads(told: &Consume) -> Result<()> {
    let attach = |_| Session::attach(Config::at(&told.socket)).map_err(BenchError::from);
    let mut sessions = (0..told.load.streams).map(attach).collect::<Result<Vec<Session>>>()?;
    run(&told.load, |load, tally| {
        let tallies: Vec<Result<Tally>> = thread::scope(|scope| {
            let spawn = |session| scope.spawn(move || own_thread(session, load));
            let threads: Vec<_> = sessions.iter_mut().map(spawn).collect();
            let panicked = |_| Err(BenchError::NotIntact("a thread panicked".to_owned()));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        for counted in tallies {
            tally.add(&counted?);
        }
        Ok(())
    })
}

fn own_thread(session: &mut Session, load: &Load) -> Result<Tally> {
    let mut tally = Tally::new(load);
    one_by_one(session, load, &mut tally)?;
    Ok(tally)
}

fn on_tokio(told: &Consume) -> Result<()> {
    let runtime = runtime()?;
    let client = Client::at(&told.socket)?;
    run(&told.load, |load, tally| {
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..load.streams {
                tasks.spawn(stream_task(client.clone(), load.clone()));
            }
            gather(tasks, tally).await
        })
    })
}

async fn stream_task(client: Client, load: Load) -> Result<Tally> {
    let mut tally = Tally::new(&load);
    for _ in 0..load.rounds {
        let start_ns = monotonic_ns();
        if load.plain {
            let body = plain_body(&load);
            let call = client.request(MODEL, PATH).body(body.as_slice());
            let mut stream = call.stream_async().await?;
            while let Some(item) = stream.next().await? {
                if let Item::Body(bytes) = item {
                    tally.plain(bytes);
                }
            }
        } else {
            let chat = client.chat(MODEL).user(load.prompt.as_str());
            let mut stream = chat.stream_async().await?;
            let mut is_first = true;
            while let Some(text) = stream.next_text().await? {
                tally.token(text);
                if is_first && !text.is_empty() {
                    tally.first(start_ns);
                    is_first = false;
                }
            }
        }
        tally.end(load.plain);
    }
    Ok(tally)
}

/// Adds up what the tasks counted.
pub(crate) async fn gather(mut tasks: JoinSet<Result<Tally>>, tally: &mut Tally) -> Result<()> {
    while let Some(joined) = tasks.join_next().await {
        let counted = joined.map_err(std::io::Error::from).tried("a task")?;
        tally.add(&counted?);
    }
    Ok(())
}

/// One thread: what is measured is the cost of a token, not of its way between threads.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().tried("a runtime")
}
