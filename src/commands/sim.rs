//! `ringmain sim`: the simulated provider, for load tests and demonstrations.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use ringmain_sim::ProviderConfig;
use ringmain_sim::provider::Server;

use crate::cli::Sim;
use crate::commands::Outcome;
use crate::signals::Stop;

/// Serves until SIGINT or SIGTERM. The first line of output is the base URL.
pub fn run(args: &Sim) -> Outcome {
    if let Some(folder) = &args.replay_dir {
        // Now rather than at the first replay, where only its caller would hear of it.
        fs::read_dir(folder).map_err(|error| {
            format!("the recordings in {} cannot be read: {error}", folder.display())
        })?;
    }
    let config = ProviderConfig {
        listen: args.listen,
        replay_dir: args.replay_dir.clone(),
        ..ProviderConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anybody is told the address: who knows it may already ask for the end.
        let mut stop = Stop::new();
        let server = Server::bind(config)
            .map_err(|error| format!("{} cannot be listened on: {error}", args.listen))?;
        announce(server.addr());
        server.serve(stop.requested()).await;
        Ok(ExitCode::SUCCESS)
    })
}

fn announce(addr: SocketAddr) {
    let mut out = io::stdout().lock();
    // Whoever started this without an output does not want the line.
    let _ = writeln!(out, "http://{addr}/v1").and_then(|()| out.flush());
}
