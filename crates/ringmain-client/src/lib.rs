//! What applications and producers link to reach the broker of their host.
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
mod outbox;
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
pub use reply::{Choice, Reply};
pub use request::{Deadline, Request};
pub use session::{Exchange, Session};
pub use stream::Stream;

pub use ringmain_shm::Compat;
pub use ringmain_wire::frame::{EndFrame, ToolFrame, Usage};
pub use ringmain_wire::{Code, FinishReason, Geometry, Mode, ResponseHead, Sent, Stage};
