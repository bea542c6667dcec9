//! What an operator may set.

use std::time::Duration;

use ringmain_policy::{ExchangeLimits, LimitRule, QueueBounds, Quotas};
use ringmain_shm::Compat;

use crate::allow::Allow;

/// Settings of a [`Broker`](crate::Broker). The default is the documented default of every key.
///
/// ```
/// use ringmain_broker::BrokerConfig;
/// let mut config = BrokerConfig::default();
/// config.drain = std::time::Duration::from_secs(5);
/// assert_eq!(config.quotas.sessions, 1024);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BrokerConfig {
    /// Who may attach.
    pub allow: Allow,
    /// How long in-flight exchanges may go on after the broker was told to end.
    pub drain: Duration,
    /// How much one uid may hold.
    pub quotas: Quotas,
    /// How long each part of an exchange may take.
    pub limits: ExchangeLimits,
    /// The rate limits at the start; [`Broker::swap_limits`](crate::Broker::swap_limits) replaces
    /// them.
    pub rates: Vec<LimitRule>,
    /// How many requests may wait for their limits.
    pub queue: QueueBounds,
    /// How sessions wait for their callers.
    pub wait: Wait,
    /// How long a new connection may take to say Hello.
    pub hello: Duration,
    /// Most bytes of a request body, whatever the arena of a session.
    pub body_bytes_max: u64,
    /// Most bytes of a request body that has to be looked into, and so is copied.
    pub copied_body_bytes_max: u64,
    /// How long a producer may take to let go of an exchange that is over: to end it, and to give
    /// its memory back. A producer that takes longer loses its session.
    pub loan: Duration,
    /// Name of the counters segment, as [`counters::segment_name`](crate::counters::segment_name)
    /// makes it; `None` for none.
    pub counters: Option<String>,
    /// Group that may read the counters besides the broker's uid and root.
    pub counters_gid: Option<u32>,
    /// Parts of the kernel to do without, for tests.
    pub compat: Compat,
}

/// How a session waits for its caller's next entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// It sleeps until it is rung: no CPU while nothing happens.
    #[default]
    Block,
    /// Sessions that sent something within the last second are polled, at most 64 at a time: the
    /// lowest latency, for the price of a CPU while there is such a session.
    Spin,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        BrokerConfig {
            allow: Allow::standard(None),
            drain: Duration::from_secs(120),
            quotas: Quotas::default(),
            limits: ExchangeLimits::default(),
            rates: Vec::new(),
            queue: QueueBounds::default(),
            wait: Wait::default(),
            hello: Duration::from_secs(2),
            body_bytes_max: 256 << 20,
            copied_body_bytes_max: 32 << 20,
            loan: Duration::from_secs(60),
            counters: None,
            counters_gid: None,
            compat: Compat::default(),
        }
    }
}
