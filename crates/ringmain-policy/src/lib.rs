//! Decisions without I/O or clock: now and randomness are arguments.
//!
//! | module | what it decides |
//! |---|---|
//! | [`backoff`] | how long to wait before trying again |
//! | [`balance`] | which of several endpoints takes the next request |
//! | [`breaker`] | whether an endpoint is asked at all |
//! | [`budget`] | how much of an endpoint's traffic may be retries |
//! | [`deadline`] | when an exchange has to be over |
//! | [`quota`] | whether a uid may hold one more of something |
//! | [`rate`] | whether one more event may happen now |
//! | [`retry`] | whether a request that failed is sent once more |
//! | [`route`] | which route serves a model name |
//! | [`timeouts`] | how long each part of an exchange may take |
#![forbid(unsafe_code)]

pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod budget;
mod clock;
pub mod deadline;
pub mod quota;
pub mod rate;
pub mod retry;
pub mod route;
pub mod timeouts;

pub use backoff::Backoff;
pub use deadline::{Deadline, DeadlineOrigin, ExchangeLimits};
pub use quota::{QuotaExceeded, QuotaLedger, Quotas, Slot};
pub use rate::RateBucket;
pub use route::{PatternError, RouteMatch};
