//! One chat, printed as it arrives.
//!
//! ```text
//! cargo run --example blocking_stream -- MODEL PROMPT
//! ```
//! The broker is found as every client finds it: `$RINGMAIN_SOCKET`, else the user's broker, else
//! the system's.

#[path = "support/help.rs"]
mod help;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use ringmain_client::{Client, Item, Result};

const USAGE: &str = "\
blocking_stream [MODEL] [PROMPT]: asks a broker and prints the answer as it arrives

  MODEL   the name that a route of the broker has [default: tiny]
  PROMPT  what to ask [default: something]

The broker is found by $RINGMAIN_SOCKET, else at the usual places; start one with `ringmain serve`.";

fn main() -> ExitCode {
    let mut args = help::arguments(USAGE);
    let model = args.next().unwrap_or_else(|| "tiny".to_owned());
    let prompt = args.next().unwrap_or_else(|| "Say something short.".to_owned());
    match print_answer(&model, &prompt) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print_answer(model: &str, prompt: &str) -> Result<()> {
    let client = Client::new()?;
    let mut stream = client
        .chat(model)
        .system("Answer in one sentence.")
        .user(prompt)
        .max_tokens(200)
        .deadline(Duration::from_secs(60))
        .stream()?;
    let mut out = io::stdout().lock();
    // Each item is borrowed from shared memory for one turn of the loop. Leaving the loop early
    // drops the stream, which cancels the exchange upstream.
    while let Some(item) = stream.next()? {
        match item {
            Item::Head(head) => eprintln!("{} answers ({})", head.endpoint, head.log_id),
            Item::Delta { text, .. } => {
                let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                if written.is_err() {
                    break;
                }
            }
            Item::Usage(usage) => {
                eprintln!("\n{} tokens in, {} out", usage.input, usage.output);
            }
            _ => {}
        }
    }
    Ok(())
}
