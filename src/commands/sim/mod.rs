//! `ringmain sim`: the simulated provider, for load tests and demonstrations.

mod chaos;

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use ringmain_sim::ProviderConfig;
use ringmain_sim::provider::Server;

use crate::cli::Sim;
use crate::commands::Outcome;
use crate::signals::Stop;

/// Serves until SIGINT or SIGTERM. The first line of output is the base URL.
pub fn run(args: &Sim) -> Outcome {
    if args.list_faults {
        return list_faults();
    }
    if args.chaos {
        return chaos::run(args.seed, args.minutes);
    }
    let config = config(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anybody is told the address: who knows it may already ask for the end.
        let mut stop = Stop::new();
        let server = Server::bind(config)
            .map_err(|error| format!("{} cannot be listened on: {error}", args.listen))?;
        if let (Some(folder), Some(pem)) = (&args.tls, server.ca_pem()) {
            let path = folder.join("ca.pem");
            fs::write(&path, pem)
                .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        }
        announce(&server.base_url());
        server.serve(stop.requested()).await;
        Ok(ExitCode::SUCCESS)
    })
}

fn config(args: &Sim) -> Result<ProviderConfig, Box<dyn std::error::Error>> {
    if let Some(folder) = &args.replay_dir {
        // Now rather than at the first replay, where only its caller would hear of it.
        fs::read_dir(folder).map_err(|error| {
            format!("the recordings in {} cannot be read: {error}", folder.display())
        })?;
    }
    let rules = match &args.faults {
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
            text.parse().map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => ringmain_sim::Rules::default(),
    };
    let usual = ProviderConfig::default();
    Ok(ProviderConfig {
        listen: args.listen,
        h2_streams_max: args.h2_streams.unwrap_or(usual.h2_streams_max),
        replay_dir: args.replay_dir.clone(),
        tls: args.tls.is_some(),
        connections: args.connections,
        rules,
        ..usual
    })
}

fn list_faults() -> Outcome {
    let mut out = io::stdout().lock();
    for line in ringmain_sim::fault::list() {
        // Whoever reads no further has read enough.
        if writeln!(out, "{line}").is_err() {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn announce(base_url: &str) {
    let mut out = io::stdout().lock();
    // Whoever started this without an output does not want the line.
    let _ = writeln!(out, "{base_url}").and_then(|()| out.flush());
}
