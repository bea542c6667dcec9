//! What callers and providers recorded, and the checker of the delivery contract.
//!
//! A test lets its caller processes write [`CallerRecord`]s as lines of JSON, takes the provider's
//! log, adds what it did itself (kills, drains, attacks) and asks [`check`] for violations. Judged
//! are the clauses 1 to 15 and 18 to 20; 16 and 17 are about features that a provider does not
//! see. For 14 a test says when uids competed ([`Contention`]).

mod attempts;
mod check;
mod delivery;
mod exchange;
mod fairness;
mod history;
mod life;
mod record;
#[cfg(test)]
mod tests;

pub use check::{Violation, check};
pub use history::{Bounds, BrokerDeath, Contention, Death, Drain, Gauge, History, Hostility};
pub use record::{
    CallerRecord, End, FRAMES_MAX, Frame, FrameKind, Mode, Recorder, Returned, TEXT_BYTES_MAX,
};

pub use crate::plan::Channel;
