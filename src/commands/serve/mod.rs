//! `ringmain serve`: configuration, socket, signals and service manager around a broker.

mod http;
mod listener;
mod log;
mod notify;
mod reload;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use ringmain_broker::counters::segment_name;
use ringmain_broker::{Broker, DrainReport};
use ringmain_shm::raise_nofile;
use ringmain_upstream::KeySource;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::assemble::{Prepared, broker_config};
use crate::cli::ConfigFile;
use crate::commands::Outcome;
use crate::config::Config;
use crate::signals::Stop;

use reload::{Hangup, Reloader};

/// Descriptors that a session with a stream holds: for the session its control socket twice, a
/// pidfd, two bells and two segments, and one upstream connection for the stream.
const SESSION_FDS: u64 = 8;

/// Serves until it is told to stop and what was in flight has ended.
pub fn run(args: &ConfigFile) -> Outcome {
    let config = Config::load(&args.config)?;
    let _flush = log::init(config.broker.log)?;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let threads = config.broker.threads(cpus);
    let runtime = runtime(threads)?;
    let outcome = runtime.block_on(serve(config, threads));
    // A lookup of a name that hangs must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// With one thread, everything that a token needs happens on one core without a hand-over.
fn runtime(threads: usize) -> std::io::Result<Runtime> {
    match threads {
        1 => Builder::new_current_thread().enable_all().build(),
        many => Builder::new_multi_thread().worker_threads(many).enable_all().build(),
    }
}

async fn serve(config: Config, threads: usize) -> Outcome {
    // From here on no signal ends the process by itself.
    let (stop, hangup) = (Stop::new(), Hangup::new());
    let table = Prepared::new(&config, &[])?.commit();
    let (listener, socket) = listener::open(&config.broker)?;
    warn_of_exposed_keys(&config);
    announce_limits();
    let broker = Broker::new(broker_config(&config, segment_name(&socket)), table);
    let (routes, endpoints) = (config.routes.len(), config.endpoints.len());
    info!(socket = %socket.display(), routes, endpoints, threads, "serving");
    let face = http::open(&config.http, &broker)?;
    let begin_drain = watch::Sender::new(false);
    let mut reloader = Reloader::new(config, Arc::clone(&broker), face.handle(), hangup);
    notify::ready();
    let serving = broker.serve(listener, told(begin_drain.subscribe()));
    let http_drain = told(begin_drain.subscribe());
    let http = async {
        face.serve(http_drain).await;
        Ok(())
    };
    // The broker's end is that of both, if it fails.
    let both = async { tokio::try_join!(serving, http) };
    tokio::select! {
        report = both => Ok(ended(&report?.0)),
        () = stop_twice(stop, begin_drain) => {
            warn!("stopped at once: asked a second time");
            Ok(ExitCode::FAILURE)
        }
        never = reloader.run() => match never {},
        never = notify::watchdog() => match never {},
    }
}

/// Waits for the drain.
async fn told(mut drain: watch::Receiver<bool>) {
    // A sender that is gone has asked for the end too.
    let _ = drain.wait_for(|drains| *drains).await;
}

/// The first request to stop begins the drain; the second is the end of this future.
async fn stop_twice(mut stop: Stop, begin_drain: watch::Sender<bool>) {
    stop.requested().await;
    info!("stopping: nothing new is taken, what is in flight goes on");
    notify::stopping();
    begin_drain.send_replace(true);
    stop.requested().await;
}

fn ended(report: &DrainReport) -> ExitCode {
    let (in_flight, cut, sessions) = (report.in_flight, report.cut, report.sessions);
    info!(in_flight, cut, sessions, took = ?report.took, "ended");
    ExitCode::SUCCESS
}

fn warn_of_exposed_keys(config: &Config) {
    for endpoint in &config.endpoints {
        if let KeySource::Env(name) = &endpoint.key {
            warn!(
                endpoint = endpoint.name,
                "the key comes from ${name}, where every process of this user can read it: \
                 use key_file beyond development"
            );
        }
        if endpoint.sends_key_in_clear() {
            warn!(endpoint = endpoint.name, "the key is sent in clear: use https");
        }
    }
}

fn announce_limits() {
    match raise_nofile() {
        Ok((limit, _)) => {
            info!(
                descriptors = limit,
                "room for about {} sessions with a stream each",
                limit / SESSION_FDS
            );
        }
        Err(error) => warn!("the limit of open descriptors stays as it is: {error}"),
    }
}

/// What ends `serve` before it serves.
type Failed = Box<dyn Error>;
