//! What applications link to reach the Ringmain broker of their host, and through it every
//! inference endpoint that the host's operator set up. No HTTP, no keys, no connection pool here:
//! requests are written into shared memory, and answers are read from it.
//!
//! - [`Client`] is for most programs: clone it anywhere, call it from threads or, with the feature
//!   `tokio`, from async code.
//! - [`Producer`] is for the other side: a process that answers the requests of a route itself.
//! - [`Session`] is for one thread that wants the bare ring: many exchanges at once, polled or
//!   blocking, without a lock.
//!
//! ```no_run
//! use ringmain_client::Client;
//!
//! let client = Client::new()?;
//! let mut stream = client.chat("tiny").user("hello").stream()?;
//! while let Some(text) = stream.next_text()? {
//!     print!("{text}");
//! }
//! # Ok::<(), ringmain_client::Error>(())
//! ```
//!
//! An answer comes as typed pieces ([`Mode::Deltas`]), as the provider's own events byte for byte
//! ([`Mode::Events`]) or as plain bytes ([`Mode::Body`]). Whatever goes wrong is an [`Error`] that
//! says how far the exchange had come. Dropping a stream cancels it; a restarted broker is found
//! again by the next call.
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
mod async_stream;
mod attach;
mod body;
mod call;
mod chat;
mod client;
mod config;
mod discover;
mod error;
#[cfg(feature = "tokio")]
mod hub;
mod item;
mod json;
mod link;
mod news;
mod outbox;
mod producer;
mod reader;
mod reply;
mod request;
mod session;
mod stream;
#[cfg(test)]
mod tests;

#[cfg(feature = "tokio")]
pub use async_stream::AsyncStream;
pub use body::{Body, BodyWriter, Fill};
pub use call::{Call, Chat};
pub use chat::ChatBody;
pub use client::{Client, ClientBuilder};
pub use config::{Config, Wait};
pub use discover::SOCKET_VARIABLE;
pub use error::{Error, Result};
pub use item::{Head, Item, OwnedItem, ToolCall};
pub use json::write_json_string;
pub use producer::{Answer, Asked, Job, Producer, Ticket};
pub use reply::{Choice, Reply};
pub use request::{Deadline, Request};
pub use session::{Exchange, Session};
pub use stream::Stream;

pub use ringmain_shm::Compat;
pub use ringmain_wire::frame::{EndFrame, ToolFrame, Usage};
pub use ringmain_wire::{Code, FinishReason, Geometry, Mode, ResponseHead, Sent, Stage};

/// The example on the front page of the project compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct FrontPage;
