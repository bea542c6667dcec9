//! A raw request, written straight into the memory that the broker sends from, and its answer as
//! the provider's own events, read where the broker put them.
//!
//! ```text
//! cargo run --example raw_zero_copy -- MODEL PROMPT
//! ```

#[path = "support/help.rs"]
mod help;

use std::io::{self, Write};
use std::process::ExitCode;

use ringmain_client::{Config, Fill, Item, Mode, Request, Result, Session, write_json_string};

const USAGE: &str = "\
raw_zero_copy [MODEL] [PROMPT]: sends a body written in place, prints the provider's own events

  MODEL   the name that a route of the broker has [default: tiny]
  PROMPT  what to ask [default: something]

The broker is found by $RINGMAIN_SOCKET, else at the usual places; start one with `ringmain serve`.";

fn main() -> ExitCode {
    let mut args = help::arguments(USAGE);
    let model = args.next().unwrap_or_else(|| "tiny".to_owned());
    let prompt = args.next().unwrap_or_else(|| "Say something short.".to_owned());
    match print_events(&model, &prompt) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print_events(model: &str, prompt: &str) -> Result<()> {
    // A session belongs to one thread and takes no lock; a client would manage several.
    let mut session = Session::attach(Config::default())?;
    let request = Request::new(model, "/chat/completions").mode(Mode::Events);

    // At most 64 KiB are loaned from the arena. What the closure does not use goes back before
    // the request is published; nothing is buffered or copied on the way.
    let body = Fill::new(64 * 1024, |out| {
        out.write_all(b"{\"model\":")?;
        write_json_string(out, model)?;
        out.write_all(b",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":")?;
        write_json_string(out, prompt)?;
        out.write_all(b"}]}")
    });
    let exchange = session.submit(&request, body)?;

    let mut out = io::stdout().lock();
    let (mut events, mut bytes) = (0u64, 0u64);
    while let Some(item) = session.next(exchange)? {
        // The slice lies in the mapped lane. It is valid until the next call on the session.
        if let Item::Event(event) = item {
            events += 1;
            bytes += event.len() as u64;
            if out.write_all(event).is_err() {
                session.give_up(exchange);
                break;
            }
        }
    }
    eprintln!("{events} events, {bytes} bytes, byte for byte as the provider sent them");
    Ok(())
}
