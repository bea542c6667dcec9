//! What callers and providers recorded, and the checker of the delivery contract.
//!
//! A test lets its caller processes write [`CallerRecord`]s as lines of JSON, takes the provider's
//! log, adds what it did itself (kills, drains, attacks) and asks [`check`] for violations. Judged
//! are the clauses 1 to 13, 15 and 18 to 20; 14 needs shares, 16 and 17 features that a provider
//! does not see.

mod check;
mod delivery;
mod exchange;
mod history;
mod life;
mod record;
#[cfg(test)]
mod tests;

pub use check::{Violation, check};
pub use history::{Bounds, BrokerDeath, Death, Drain, Gauge, History, Hostility};
pub use record::{
    CallerRecord, End, FRAMES_MAX, Frame, FrameKind, Mode, Recorder, Returned, TEXT_BYTES_MAX,
};

pub use crate::plan::Channel;
