//! A configured request, sent again and again, that shows whether the endpoint is well.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use ringmain_wire::head::Method;
use ringmain_wire::{Flags, Mode, RequestHead};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::Endpoint;
use super::attempt::Manner;
use crate::call::Call;
use crate::config::Probe;

/// Longest time for the answer to a probe; a shorter interval shortens it.
const ANSWER: Duration = Duration::from_secs(10);
/// Most bytes of the path.
const PATH_BYTES_MAX: usize = 1024;

/// What the last probe has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Health {
    /// It failed, or was answered with an error status.
    Down,
    /// There was none yet, or none is configured.
    #[default]
    Unknown,
    /// It was answered well.
    Up,
}

/// The health of an endpoint, shared with the task that probes it.
#[derive(Debug, Default)]
pub(super) struct Pulse(AtomicU8);

/// Whether this can be the path of a probe.
///
/// # Errors
/// What is wrong with it.
pub fn check_probe(path: &str) -> Result<(), &'static str> {
    match () {
        () if !path.starts_with('/') => Err("must begin with a slash"),
        () if path.len() > PATH_BYTES_MAX => Err("is longer than 1024 bytes"),
        () if path.contains('#') => Err("holds a fragment"),
        () if Url::parse(&format!("http://host{path}")).is_err() => {
            Err("cannot stand in an address")
        }
        () => Ok(()),
    }
}

impl Pulse {
    pub fn health(&self) -> Health {
        match self.0.load(Relaxed) {
            1 => Health::Up,
            2 => Health::Down,
            _ => Health::Unknown,
        }
    }

    fn set(&self, is_well: bool) {
        self.0.store(if is_well { 1 } else { 2 }, Relaxed);
    }
}

/// Has the endpoint probed from now on, until it is dropped, if a runtime is there.
pub(super) fn start(endpoint: &Arc<Endpoint>, probe: &Probe) {
    let Ok(runtime) = Handle::try_current() else { return };
    runtime.spawn(repeat(Arc::downgrade(endpoint), probe.clone()));
}

async fn repeat(endpoint: Weak<Endpoint>, probe: Probe) {
    // Bound: as long as the endpoint lives, one request per interval.
    loop {
        let Some(endpoint) = endpoint.upgrade() else { return };
        let limit = probe.interval.min(ANSWER);
        let is_well = timeout(limit, endpoint.ask(&probe.path)).await.unwrap_or(false);
        endpoint.pulse.set(is_well);
        drop(endpoint);
        sleep(probe.interval).await;
    }
}

impl Endpoint {
    async fn ask(&self, path: &str) -> bool {
        let mut head = RequestHead::new("", path);
        head.method = Method::Get;
        let call = Call::new(&head, Bytes::new(), Mode::Body, Flags::NONE);
        let Ok((answer, _)) = self.attempt(&call, Manner { usage: false, plain: true }).await
        else {
            return false;
        };
        let is_well = (200..300).contains(&answer.status);
        answer.body.settle().await;
        is_well
    }
}
