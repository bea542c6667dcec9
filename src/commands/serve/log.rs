//! Logs: plain lines on standard error, where a service manager collects them.

mod writer;

use std::env;
use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

pub use writer::Flush;
use writer::Lines;

/// Overrides the configured level; takes filter directives (`info,ringmain_broker=debug`).
const VARIABLE: &str = "RINGMAIN_LOG";

/// Sets up logging for this process. What is given back is kept until its end, for the last lines.
///
/// # Errors
/// There is no thread for the log.
pub fn init(level: LevelFilter) -> io::Result<Flush> {
    let filter = EnvFilter::builder().with_default_directive(level.into());
    let filter = filter.parse_lossy(env::var(VARIABLE).unwrap_or_default());
    let (writer, flush) = Lines::new(io::stderr())?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    // The journal puts its own time in front of each line.
    match env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().init(),
        None => lines.init(),
    }
    Ok(flush)
}
