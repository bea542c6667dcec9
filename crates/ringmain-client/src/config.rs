//! What a caller may choose about its sessions.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ringmain_shm::Compat;
use ringmain_wire::Geometry;

/// How a blocking call waits for the next frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// Sleep at once. Costs one wake-up per idle gap and no CPU meanwhile.
    #[default]
    Block,
    /// Spin a little before sleeping, but only while frames have lately come faster than a sleep
    /// and its wake-up take, and only with three or more CPUs: a spin that just misses costs its
    /// CPU on top of the full wake-up.
    Adaptive,
    /// Never sleep: lowest latency, one CPU.
    Spin,
}

/// Settings of a [`Session`](crate::Session).
///
/// ```
/// let config = ringmain_client::Config::at("/run/ringmain/broker.sock");
/// assert_eq!(config.attach_wait.as_secs(), 5);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Path of the broker's socket. `None`: `$RINGMAIN_SOCKET` if set, else the first of
    /// `$XDG_RUNTIME_DIR/ringmain/broker.sock` and `/run/ringmain/broker.sock` that answers.
    pub socket: Option<PathBuf>,
    /// Number and size of the lanes, size of the arena.
    pub geometry: Geometry,
    /// How long an absent, draining or busy broker is asked again, with jitter.
    pub attach_wait: Duration,
    /// How blocking calls wait.
    pub wait: Wait,
    /// A credential beyond that of the kernel (a JWT); empty for none.
    pub credential: String,
    /// Parts of the kernel to do without, for tests.
    pub compat: Compat,
    /// A quota that is used up is no outage that passes: this session asks for more than usual.
    pub(crate) quota_is_final: bool,
    /// Attach as a producer of this name.
    pub(crate) producer: Option<String>,
}

impl Config {
    /// The defaults, with the broker at `socket`.
    pub fn at(socket: impl AsRef<Path>) -> Config {
        Config { socket: Some(socket.as_ref().to_owned()), ..Config::default() }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            socket: None,
            geometry: Geometry::default(),
            attach_wait: Duration::from_secs(5),
            wait: Wait::default(),
            credential: String::new(),
            compat: Compat::default(),
            quota_is_final: false,
            producer: None,
        }
    }
}

/// Whether this machine has a CPU to spare for a spin: ours, the broker's and one more.
pub(crate) fn may_spin() -> bool {
    thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 3)
}
