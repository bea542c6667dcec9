//! A configured request, sent again and again, that shows whether the endpoint is well.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
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
#[derive(Default)]
pub(super) struct Pulse {
    health: AtomicU8,
    /// Told of each probe; the last one who asked to be.
    listener: Mutex<Option<Listener>>,
}

type Listener = Arc<dyn Fn(bool) + Send + Sync>;

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
        match self.health.load(Relaxed) {
            1 => Health::Up,
            2 => Health::Down,
            _ => Health::Unknown,
        }
    }

    pub fn listen(&self, listener: Listener) {
        *self.listener.lock() = Some(listener);
    }

    /// A probe was answered with this status, or not at all.
    fn took(&self, status: Option<u16>) {
        let is_well = status.is_some_and(|status| (200..300).contains(&status));
        self.health.store(if is_well { 1 } else { 2 }, Relaxed);
        let tells = match status {
            None | Some(408 | 500..) => true,
            // What it objects to is the probe: of other requests that says nothing.
            Some(_) => is_well,
        };
        let listener = self.listener.lock().clone().filter(|_| tells);
        if let Some(tell) = listener {
            tell(is_well);
        }
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
        let status = timeout(limit, endpoint.ask(&probe.path)).await;
        endpoint.pulse.took(status.ok().flatten());
        drop(endpoint);
        sleep(probe.interval).await;
    }
}

impl Endpoint {
    /// The status that a probe is answered with.
    async fn ask(&self, path: &str) -> Option<u16> {
        let mut head = RequestHead::new("", path);
        head.method = Method::Get;
        let call = Call::new(&head, Bytes::new(), Mode::Body, Flags::NONE);
        let attempt = self.attempt(&call, Manner { usage: false, plain: true }).await;
        let (mut answer, _) = attempt.ok()?;
        let status = answer.status;
        answer.body.settle().await;
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_objects_to_the_probe_says_nothing_of_requests() {
        let pulse = Pulse::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tells = told.clone();
        pulse.listen(Arc::new(move |is_well| tells.lock().push(is_well)));
        for (status, health) in [
            (Some(204), Health::Up),
            (Some(404), Health::Down),
            (Some(429), Health::Down),
            (Some(302), Health::Down),
            (Some(408), Health::Down),
            (Some(503), Health::Down),
            (None, Health::Down),
        ] {
            pulse.took(status);
            assert_eq!(pulse.health(), health, "{status:?}");
        }
        assert_eq!(*told.lock(), [true, false, false, false]);
    }
}
