//! The broker: listen, session, intake, pipeline, egress, counters.
#![forbid(unsafe_code)]

mod account;
pub mod allow;
pub mod broker;
pub mod config;
pub mod counters;
pub mod routes;

pub use allow::Allow;
pub use broker::{Broker, DrainReport};
pub use config::BrokerConfig;
pub use routes::{Route, RouteError, RouteTable, Target};
