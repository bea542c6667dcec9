//! Logs: plain lines on standard error, where a service manager collects them.

use std::env;
use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Overrides the configured level; takes filter directives (`info,ringmain_broker=debug`).
const VARIABLE: &str = "RINGMAIN_LOG";

/// Sets up logging for this process.
pub fn init(level: LevelFilter) {
    let filter = EnvFilter::builder().with_default_directive(level.into());
    let filter = filter.parse_lossy(env::var(VARIABLE).unwrap_or_default());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    // The journal puts its own time in front of each line.
    match env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().init(),
        None => lines.init(),
    }
}
