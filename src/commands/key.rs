//! `ringmain key new`: a key for a client of the HTTP face.

use std::io::{self, Write};
use std::process::ExitCode;

use ringmain_http::ClientKey;

use crate::cli::Key;
use crate::commands::Outcome;

/// Prints a key, and what stands for it in the configuration. Nothing is kept.
pub fn run(args: &Key) -> Outcome {
    let Key::New(new) = args;
    let key = ClientKey::generate()?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", key.text())?;
    writeln!(out)?;
    writeln!(out, "# The line above is for the client alone; this goes into the configuration:")?;
    writeln!(out, "[[client]]\nname = {:?}\nkey = \"{}\"", new.name, key.hash())?;
    Ok(ExitCode::SUCCESS)
}
