//! A producer, and applications behind the broker that relays its frames.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use ringmain_client::{ChatBody, Config, FinishReason, Job, Mode, Producer, Request, Session};
use ringmain_shm::monotonic_ns;
use serde::{Deserialize, Serialize};

use super::hop::{Hops, Pace, measure};
use super::{answer, ready};
use crate::error::{BenchError, Result};
use crate::harness::Latency;
use crate::harness::servers::MODEL;

/// A producer of a broker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Produce {
    pub socket: PathBuf,
    pub stamped: Option<Stamped>,
}

/// Tokens that carry their time of writing, so far apart that everybody sleeps in between.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stamped {
    pub tokens: u32,
    pub gap_us: u64,
}

/// Exchanges with a producer that answers each with one word.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub socket: PathBuf,
    pub pace: Pace,
}

/// One exchange with a producer whose tokens are stamped.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listen {
    pub socket: PathBuf,
}

/// Answers each request with one delta and an end, or with stamped tokens.
pub(crate) fn produce(told: &Produce) -> Result<()> {
    let mut producer = Producer::attach(Config::at(&told.socket), MODEL)?;
    ready()?;
    // Bound: the life of the parent, which ends this process when the other one is done.
    loop {
        let mut job = producer.take()?;
        // A caller that is gone ends its own job and nothing else.
        let _ = reply(&mut job, told.stamped);
    }
}

fn reply(job: &mut Job<'_>, stamped: Option<Stamped>) -> Result<()> {
    let (_, mut answer) = job.parts()?;
    match stamped {
        None => answer.delta("pong")?,
        Some(Stamped { tokens, gap_us }) => {
            for _ in 0..tokens {
                sleep(Duration::from_micros(gap_us));
                answer.delta(&format!("{:016x}", monotonic_ns()))?;
            }
        }
    }
    Ok(answer.end(FinishReason::Stop)?)
}

/// Asks, and reads to the end.
pub(crate) fn ask(told: &Ask) -> Result<()> {
    let mut session = Session::attach(Config::at(&told.socket))?;
    answer(&measure(told.pace, || {
        let mut is_answered = false;
        read(&mut session, |text| is_answered |= text == "pong")?;
        match is_answered {
            true => Ok(()),
            false => Err(BenchError::NotIntact("the producer did not answer".to_owned())),
        }
    })?)
}

/// Tells how old each token was when it came.
pub(crate) fn listen(told: &Listen) -> Result<()> {
    let mut session = Session::attach(Config::at(&told.socket))?;
    let mut ages = Latency::new();
    read(&mut session, |text| {
        let now_ns = monotonic_ns();
        if let Ok(sent_ns) = u64::from_str_radix(text, 16) {
            ages.record(now_ns.saturating_sub(sent_ns));
        }
    })?;
    answer(&Hops { median_ns: ages.quantile(0.5) as f64, buckets: ages.buckets() })
}

fn read(session: &mut Session, mut each: impl FnMut(&str)) -> Result<()> {
    let request = Request::new(MODEL, "/chat/completions").mode(Mode::Deltas);
    let exchange = session.submit(&request, &ChatBody::new(MODEL).message("user", "ping"))?;
    while let Some(text) = session.next_text(exchange)? {
        each(text);
    }
    Ok(())
}
