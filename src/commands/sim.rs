//! `ringmain sim`: the simulated provider, for load tests and demonstrations.

use std::io::{self, Write};
use std::process::ExitCode;

use ringmain_sim::ProviderConfig;
use ringmain_sim::provider::run_until;

use crate::cli::Sim;
use crate::commands::Outcome;
use crate::signals::stop_requested;

/// Serves until SIGINT or SIGTERM. The first line of output is the base URL.
pub fn run(args: &Sim) -> Outcome {
    let config = ProviderConfig {
        listen: args.listen,
        replay_dir: args.replay_dir.clone(),
        ..ProviderConfig::default()
    };
    let announce = |addr| {
        let mut out = io::stdout().lock();
        // Whoever started this without an output does not want the line.
        let _ = writeln!(out, "http://{addr}/v1").and_then(|()| out.flush());
    };
    run_until(config, announce, stop_requested())?;
    Ok(ExitCode::SUCCESS)
}
