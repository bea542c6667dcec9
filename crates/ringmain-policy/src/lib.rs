//! Decisions without I/O or clock: now and randomness are arguments.
//!
//! | module | what it decides |
//! |---|---|
//! | [`admission`] | who may send now, who waits, who comes again later |
//! | [`backoff`] | how long to wait before trying again |
//! | [`balance`] | which of several endpoints takes the next request |
//! | [`breaker`] | whether an endpoint is asked at all |
//! | [`bucket`] | how much of something may be used now |
//! | [`budget`] | how much of an endpoint's traffic may be retries |
//! | [`deadline`] | when an exchange has to be over |
//! | [`fair`] | who of those that wait is next |
//! | [`limit`] | what one limit counts |
//! | [`quota`] | whether a uid may hold one more of something |
//! | [`rate`] | whether one more event may happen now |
//! | [`retry`] | whether a request that failed is sent once more |
//! | [`route`] | which route serves a model name |
//! | [`silence`] | what an endpoint is charged with that says nothing |
//! | [`throttle`] | how an endpoint that refuses is spared |
//! | [`timeouts`] | how long each part of an exchange may take |
#![forbid(unsafe_code)]

pub mod admission;
pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod bucket;
pub mod budget;
mod clock;
pub mod deadline;
pub mod fair;
pub mod limit;
pub mod quota;
pub mod rate;
pub mod retry;
pub mod route;
mod rulebook;
pub mod silence;
pub mod throttle;
pub mod timeouts;

pub use admission::{Admission, Ask, Entry, Refusal, RefusalCause};
pub use backoff::Backoff;
pub use bucket::{Bucket, Rate, Taken};
pub use deadline::{Deadline, DeadlineOrigin, ExchangeLimits};
pub use fair::{FairQueue, Place, QueueBounds, QueueFull, Ticket};
pub use limit::{LimitRule, LimitUid, Outcome};
pub use quota::{QuotaExceeded, QuotaLedger, Quotas, Slot};
pub use rate::RateBucket;
pub use route::{PatternError, RouteMatch};
pub use rulebook::{Hold, LimitGauge};
pub use throttle::Throttle;
