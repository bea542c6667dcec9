//! What callers and providers recorded, and the checker of the delivery contract.

mod check;
mod record;

pub use crate::plan::Channel;
pub use check::{Bounds, BrokerDeath, Death, Drain, Gauge, History, Hostility, Violation, check};
pub use record::{CallerRecord, End, Frame, FrameKind, Mode, Recorder, Returned};
