//! A producer that answers with one word, and who asks it.

use std::path::PathBuf;

use ringmain_client::{ChatBody, Config, FinishReason, Mode, Producer, Request, Session};
use serde::{Deserialize, Serialize};

use super::hop::{Pace, measure};
use super::{answer, ready};
use crate::error::{BenchError, Result};
use crate::harness::servers::MODEL;

/// A producer of a broker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echo {
    pub socket: PathBuf,
}

/// Exchanges with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub socket: PathBuf,
    pub pace: Pace,
}

/// Answers each request with one delta and an end.
pub(crate) fn echo(told: &Echo) -> Result<()> {
    let mut producer = Producer::attach(Config::at(&told.socket), MODEL)?;
    ready()?;
    // Bound: the life of the parent, which ends this process when the other one is done.
    loop {
        let mut job = producer.take()?;
        let (_, mut answer) = job.parts()?;
        answer.delta("pong")?;
        answer.end(FinishReason::Stop)?;
    }
}

/// Asks, and reads to the end.
pub(crate) fn ask(told: &Ask) -> Result<()> {
    let mut session = Session::attach(Config::at(&told.socket))?;
    answer(&measure(told.pace, || {
        let request = Request::new(MODEL, "/chat/completions").mode(Mode::Deltas);
        let exchange = session.submit(&request, &ChatBody::new(MODEL).message("user", "ping"))?;
        let mut is_answered = false;
        while let Some(text) = session.next_text(exchange)? {
            is_answered |= text == "pong";
        }
        match is_answered {
            true => Ok(()),
            false => Err(BenchError::NotIntact("the producer did not answer".to_owned())),
        }
    })?)
}
