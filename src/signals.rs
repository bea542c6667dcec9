//! Requests to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM, each delivery once.
pub struct Stop {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Stop {
    /// From here on the signals no longer end the process by themselves. Must be called inside a
    /// runtime.
    pub fn new() -> Stop {
        Stop {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
        }
    }

    /// Waits for the next one.
    pub async fn requested(&mut self) {
        tokio::select! {
            () = received(&mut self.interrupt) => {}
            () = received(&mut self.terminate) => {}
        }
    }
}

/// Waits for the first SIGINT or SIGTERM from the first poll on.
pub async fn stop_requested() {
    Stop::new().requested().await;
}

/// Waits for the first SIGHUP from the first poll on: the terminal is gone.
pub async fn hung_up() {
    received(&mut signal(SignalKind::hangup()).ok()).await;
}

/// A signal that could not be registered never comes.
pub async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => match signal.recv().await {
            Some(()) => {}
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
