//! SIGHUP: routes, endpoints and keys are read again; no stream notices.

use std::convert::Infallible;
use std::sync::Arc;

use ringmain_broker::Broker;
use ringmain_http::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::assemble::Prepared;
use crate::config::Config;
use crate::signals::received;

use super::{Failed, notify};

/// Reads the configuration again when asked to.
pub struct Reloader {
    config: Config,
    broker: Arc<Broker>,
    http: Handle,
    hangup: Hangup,
}

/// SIGHUP, which no longer ends the process by itself.
pub struct Hangup(Option<Signal>);

impl Hangup {
    /// Must be called inside a runtime.
    pub fn new() -> Hangup {
        Hangup(signal(SignalKind::hangup()).ok())
    }
}

impl Reloader {
    /// For a broker that runs with this configuration.
    pub fn new(config: Config, broker: Arc<Broker>, http: Handle, hangup: Hangup) -> Reloader {
        Reloader { config, broker, http, hangup }
    }

    /// Reloads at each SIGHUP.
    pub async fn run(&mut self) -> Infallible {
        loop {
            received(&mut self.hangup.0).await;
            notify::reloading();
            match self.reload() {
                Ok(()) => info!(
                    routes = self.config.routes.len(),
                    endpoints = self.config.endpoints.len(),
                    "configuration read again"
                ),
                Err(refused) => {
                    for line in refused.to_string().lines() {
                        error!("{line}");
                    }
                    error!("the new configuration is refused; the old one stays in use");
                }
            }
            notify::ready();
        }
    }

    /// All or nothing: first everything is read and judged, then it is brought into use.
    fn reload(&mut self) -> Result<(), Failed> {
        let config = Config::load(&self.config.path)?;
        let running = self.broker.endpoints();
        let kept: Vec<_> = self.config.endpoints.iter().zip(running).collect();
        let prepared = Prepared::new(&config, &kept)?;
        // Judged by the addresses that are bound, and the last thing that can be refused.
        self.http.reconfigure(config.http.clone())?;
        if !config.has_same_start(&self.config) {
            warn!(
                "[broker], [limits], [quota] or [queue] changed; that takes effect at the next start"
            );
        }
        self.broker.swap_routes(prepared.commit());
        // Limits that stay the same keep what was taken from them.
        self.broker.swap_limits(config.rates.clone());
        if config.http.listen != self.config.http.listen {
            warn!("[http] listen changed; that takes effect at the next start");
        }
        // What only takes effect at a start is compared with what was in effect at the start.
        let Config { endpoints, producers, rates, routes, .. } = config;
        (self.config.endpoints, self.config.routes) = (endpoints, routes);
        (self.config.producers, self.config.rates) = (producers, rates);
        Ok(())
    }
}
