//! Decisions without I/O or clock: now and randomness are arguments.
//!
//! | module | what it decides |
//! |---|---|
//! | [`deadline`] | when an exchange has to be over |
//! | [`quota`] | whether a uid may hold one more of something |
//! | [`rate`] | whether one more event may happen now |
//! | [`route`] | which route serves a model name |
#![forbid(unsafe_code)]

mod clock;
pub mod deadline;
pub mod quota;
pub mod rate;
pub mod route;

pub use deadline::{Deadline, DeadlineOrigin, ExchangeLimits};
pub use quota::{QuotaExceeded, QuotaLedger, Quotas, Slot};
pub use rate::RateBucket;
pub use route::{PatternError, RouteMatch};
