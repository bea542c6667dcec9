//! `--help`, the same for every example.

use std::env;
use std::process;

/// The arguments after the program's name. Prints the usage and ends when they ask for it.
pub fn arguments(usage: &str) -> impl Iterator<Item = String> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{usage}");
        process::exit(0);
    }
    arguments.into_iter()
}
