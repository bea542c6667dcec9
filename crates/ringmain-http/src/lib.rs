//! The HTTP face: unmodified software reaches the broker by a base URL.
//!
//! ```text
//! accept -> connection -> guard, caller -> upload, ask -> broker's pipeline -> answer
//! ```
//! A request runs on the same pipeline as one that came through a session; what differs is the
//! egress. The task of the connection polls the pipeline, and the HTTP server when there is
//! something to write; over HTTP/2 the answer's body polls it. No channel and no second task stand
//! between the two, a reader that is slow holds back its own provider alone, and one that goes away
//! drops the request upstream.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`], [`key`] | what an operator may set; keys of TCP clients |
//! | [`server`], `connection`, `watch` | listen, connections and their bounds, the drain |
//! | `gauge`, `line` | what a connection is doing; its bytes, and that its caller is gone |
//! | `framing` | where its requests end, and that they are requests |
//! | `guard`, `caller` | web pages are refused; who is calling |
//! | `paths` | which path is answered by what |
//! | `upload`, `expand`, `ask` | the request's body within its bounds; its route |
//! | `answer`, `outlet`, `running`, `heartbeat` | from frames to the body of a response |
//! | `gather` | answers that must be whole before they go out |
//! | `stream`, `turns` | that its caller reads it |
//! | `bell` | which part of a task was woken |
//! | `shape`, `refusal` | errors as the callers' libraries expect them |
//! | `models`, `metrics` | what the broker answers itself |
#![forbid(unsafe_code)]

mod answer;
mod ask;
mod bell;
mod caller;
pub mod config;
mod connection;
mod exchange;
mod expand;
mod framing;
mod gather;
mod gauge;
mod guard;
mod heartbeat;
pub mod key;
mod line;
mod metrics;
mod models;
mod names;
mod outlet;
mod paths;
mod pipelines;
mod refusal;
mod running;
pub mod server;
mod shape;
mod stream;
mod turns;
mod upload;
mod watch;

pub use config::{Client, HttpConfig, Listen};
pub use key::{ClientKey, KeyHash};
pub use server::{Handle, HttpError, Server};
