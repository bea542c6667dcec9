//! The broker: listen, session, intake, pipeline, egress, counters.
//!
//! ```text
//! listen -> attach -> session task -> exchange task -> pipeline -> egress -> lane
//! ```
//! Each room takes one type and gives the next; nothing is asked back. Whatever a peer writes is
//! copied once, judged, and then used; what cannot be judged well ends that peer's session and
//! nobody else's.
//!
//! | module | what it holds |
//! |---|---|
//! | [`broker`] | what all sessions share: routes, ledger, counters, phase |
//! | `listen`, `attach` | who may come in; the handshake |
//! | `session` | one attached process: its task, its lanes, its bell |
//! | `exchange` | one request's task: stop, deadline, exactly one terminal, one log line |
//! | `alarm` | the one timer of an exchange: its deadline and every limit inside of it |
//! | `intake`, `pipeline`, `relay` | a request's way to an endpoint and back |
//! | `attempt` | the attempt loop: which endpoint, how often, until the first content |
//! | `admit` | rate limits: who may be sent upstream now, and who waits for it |
//! | `producer` | local processes that answer requests: the same rings, the roles swapped |
//! | [`face`] | how another face of the broker runs requests on the same pipeline |
//! | `egress`, `loan` | the way to the caller; the chunk that its request lies in |
//! | [`routes`], [`rules`], [`allow`] | which endpoint serves a model, how, for whom |
//! | [`counters`] | what `ringmain status` reads |
#![forbid(unsafe_code)]

mod account;
mod admit;
mod alarm;
pub mod allow;
mod attach;
mod attempt;
pub mod broker;
pub mod config;
pub mod counters;
pub mod drain;
mod egress;
mod exchange;
pub mod face;
mod failure;
mod gather;
mod holding;
mod intake;
mod lines;
mod listen;
mod loan;
mod log_id;
mod pipeline;
mod producer;
mod record;
mod relay;
pub mod routes;
pub mod rules;
mod session;
mod stop;

pub use allow::{Allow, Identity};
pub use broker::Broker;
pub use config::{BrokerConfig, Wait};
pub use drain::DrainReport;
pub use routes::{ProducerRule, Route, RouteError, RouteTable, Server, Target};
