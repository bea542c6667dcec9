//! A producer: answers each request with the words of its prompt, one delta per word.
//!
//! ```text
//! cargo run --example producer -- NAME
//! ```
//! A route of the broker leads to it: `endpoints = [{ producer = "NAME" }]`. Then, elsewhere:
//! `ringmain chat --model MODEL "some words"`.

#[path = "support/help.rs"]
mod help;

use std::process::ExitCode;

use ringmain_client::{Code, Config, FinishReason, Job, Mode, Producer, Result, Usage};
use serde_json::Value;

const USAGE: &str = "\
producer [NAME]: answers each request of a route with the words of its prompt

  NAME  the name in the route: endpoints = [{ producer = \"NAME\" }] [default: words]

The broker is found by $RINGMAIN_SOCKET, else at the usual places; start one with `ringmain serve`.";

fn main() -> ExitCode {
    let name = help::arguments(USAGE).next().unwrap_or_else(|| "words".to_owned());
    match serve(&name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until the broker goes away.
fn serve(name: &str) -> Result<()> {
    let mut producer = Producer::attach(Config::default(), name)?;
    println!("attached as {name}");
    loop {
        let mut job = producer.take()?;
        if let Err(error) = answer(&mut job) {
            // A caller that gave up ends its own job and nothing else.
            eprintln!("a job ended early: {error}");
        }
    }
}

fn answer(job: &mut Job<'_>) -> Result<()> {
    let (asked, mut answer) = job.parts()?;
    if asked.mode != Mode::Deltas {
        return answer.error(Code::InvalidRequest, "this producer answers in deltas only");
    }
    let Some(prompt) = prompt_of(asked.body) else {
        return answer.error(Code::InvalidRequest, "the body is no chat");
    };
    let mut usage = Usage::default();
    for word in prompt.split_inclusive(' ') {
        answer.delta(word)?;
        usage.output += 1;
    }
    answer.usage(&usage)?;
    answer.end(FinishReason::Stop)
}

/// The content of the last message.
fn prompt_of(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body["messages"].as_array()?.last()?["content"].as_str().map(str::to_owned)
}
