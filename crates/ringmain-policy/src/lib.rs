//! Decisions without I/O or clock: now and randomness are arguments.
//!
//! | module | what it decides |
//! |---|---|
//! | [`backoff`] | how long to wait before trying again |
//! | [`deadline`] | when an exchange has to be over |
//! | [`quota`] | whether a uid may hold one more of something |
//! | [`rate`] | whether one more event may happen now |
//! | [`route`] | which route serves a model name |
#![forbid(unsafe_code)]

pub mod backoff;
mod clock;
pub mod deadline;
pub mod quota;
pub mod rate;
pub mod route;

pub use backoff::Backoff;
pub use deadline::{Deadline, DeadlineOrigin, ExchangeLimits};
pub use quota::{QuotaExceeded, QuotaLedger, Quotas, Slot};
pub use rate::RateBucket;
pub use route::{PatternError, RouteMatch};
