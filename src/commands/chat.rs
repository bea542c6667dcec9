//! `ringmain chat`: one question, the answer as it arrives.

use std::error::Error;
use std::io::{self, Read, Write};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use ringmain_client::{AsyncStream, Client, Config, FinishReason, Item};

use crate::cli::Chat;
use crate::commands::Outcome;
use crate::signals::Stop;

/// Bound: a prompt from standard input.
const PROMPT_BYTES_MAX: u64 = 64 << 20;

/// How long a broker may be waited for in silence.
const NOTICE_AFTER: Duration = Duration::from_millis(500);

/// Streams the answer to standard output.
pub fn run(args: &Chat) -> Outcome {
    let prompt = prompt(&args.prompt)?;
    let config = match &args.broker.socket {
        Some(path) => Config::at(path),
        None => Config::default(),
    };
    let client = Client::builder().config(config).build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = Stop::new();
        tokio::select! {
            outcome = answer(args, &client, &prompt) => outcome,
            // Dropping the answer cancels it upstream.
            () = stop.requested() => Ok(ExitCode::from(130)),
        }
    })
}

fn prompt(argument: &str) -> io::Result<String> {
    let prompt = match argument {
        "-" => read_prompt()?,
        text => text.to_owned(),
    };
    if prompt.trim().is_empty() {
        let place = if argument == "-" { "standard input" } else { "the command line" };
        let sentence = format!("the prompt on {place} is empty: there is nothing to ask");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    }
    Ok(prompt)
}

fn read_prompt() -> io::Result<String> {
    let mut text = String::new();
    let read = io::stdin().lock().take(PROMPT_BYTES_MAX + 1).read_to_string(&mut text);
    let read =
        read.map_err(|error| io::Error::new(error.kind(), format!("the prompt: {error}")))?;
    if read as u64 > PROMPT_BYTES_MAX {
        let sentence = format!("the prompt is longer than {PROMPT_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    }
    Ok(text)
}

async fn answer(args: &Chat, client: &Client, prompt: &str) -> Outcome {
    let mut chat = client.chat(&args.model);
    if let Some(system) = &args.system {
        chat = chat.system(system.as_str());
    }
    if let Some(tokens) = args.max_tokens {
        chat = chat.max_tokens(tokens);
    }
    let chat = chat.user(prompt);
    let mut stream = with_notice(chat.stream_async()).await?;
    let mut printer = Printer { ends_line: true };
    let outcome = print_all(&mut stream, &mut printer).await;
    // An error stands on a line of its own.
    printer.end_line()?;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Says why nothing happens while an absent broker is waited for.
async fn with_notice<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = tokio::time::sleep(NOTICE_AFTER) => {}
    }
    eprintln!("ringmain: waiting for a broker that takes requests");
    work.await
}

async fn print_all(stream: &mut AsyncStream, printer: &mut Printer) -> Result<(), Box<dyn Error>> {
    while let Some(item) = stream.next().await? {
        match item {
            Item::Delta { choice: 0, text } => printer.print(text)?,
            Item::End(end) if end.finish.contains(&(0, FinishReason::Length)) => {
                printer.end_line()?;
                eprintln!("ringmain: the answer was cut at its most tokens");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Standard output, piece by piece.
struct Printer {
    ends_line: bool,
}

impl Printer {
    fn print(&mut self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.is_empty() {
            self.ends_line = text.ends_with('\n');
        }
        out.flush()
    }

    fn end_line(&mut self) -> io::Result<()> {
        match self.ends_line {
            true => Ok(()),
            false => self.print("\n"),
        }
    }
}
