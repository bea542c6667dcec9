//! HTTP/1.1 as a client speaks it on one connection (RFC 9112): a request out, the head of its
//! answer and the body back.
//!
//! Between the socket and the decoder of an answer stands nothing but this: no task, no channel, and
//! no future for each piece. Whoever waits for something polls the [`Connection`], which reads into
//! one buffer and gives its bytes out in place; the chunks of a burst, of which many come with one
//! read, are freed of their frames in the buffer and leave it as one piece.
//!
//! The lines and fields of heads are read by `httparse`. What is left to decide here is where a body
//! ends, and what a connection is good for after it.

mod body;
mod connection;
mod error;
mod head;
mod upload;

pub(crate) use connection::{Connection, Unanswered};
pub(crate) use error::Error;
pub(crate) use head::is_last;

#[cfg(test)]
mod play;
#[cfg(test)]
mod tests;
