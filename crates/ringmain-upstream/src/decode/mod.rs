//! From the bytes of an answer to typed pieces.
//!
//! What the pieces are depends on the delivery mode and on what the provider sent:
//!
//! | answer | mode deltas | mode events | mode body |
//! |---|---|---|---|
//! | 2xx, a known API, event stream | DELTA, REASONING, TOOL, USAGE | EVENT, USAGE | BODY |
//! | 2xx, a known API, JSON | DELTA, REASONING, TOOL, USAGE | BODY | BODY |
//! | 2xx, a known API, neither | `UpstreamProtocol` | `UpstreamProtocol` | BODY |
//! | 2xx, any other API, event stream | EVENT | EVENT | BODY |
//! | 2xx, any other API, anything else | BODY | BODY | BODY |
//! | not 2xx | `UpstreamStatus` | BODY | BODY |
//!
//! The known APIs are chat completions and completions, responses, and messages.
//!
//! So what has no typed form comes verbatim. The payloads of all EVENT frames of an answer, one
//! after the other, are the provider's bytes up to and including its terminal marker: each holds
//! one block of the stream (see [`crate::sse`]) with its comments, its line ends and the blank
//! line behind it. The one exception is a usage chunk that was provoked by us: it is withheld.
//!
//! The end is good only after the provider's terminal marker: `[DONE]`, or a finish reason of
//! every choice and then a correctly framed end of the body; for the responses API
//! `response.completed`, `.failed` or `.incomplete`; for the messages API `message_stop`; for
//! everything else the framed end alone.
//! Nothing behind the marker is delivered, except in mode body, which passes on all that comes;
//! how the body then ends does not matter any more.

mod arguments;
mod chat;
mod decoder;
pub(crate) mod failure;
mod media;
mod messages;
mod origin;
mod protocol;
mod queue;
mod quick;
mod responses;
mod seen;
mod text;
mod usage;

use ringmain_wire::frame::EndFrame;
use ringmain_wire::{Kind, Mode};

use crate::config::Dialect;

pub use self::decoder::Decoder;
pub(crate) use self::origin::Origin;

/// What a [`Decoder`] must know about the answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DecoderConfig {
    /// What the pieces are to be.
    pub mode: Mode,
    /// Language of who reads the answer: the shape of an error that is put into it. What the
    /// events mean is told by the path.
    pub dialect: Dialect,
    /// API path of the request.
    pub path: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// Content type of the answer.
    pub content_type: String,
    /// When the provider asks to come again.
    pub retry_after_ms: Option<u64>,
    /// Most bytes of one event.
    pub event_bytes_max: usize,
    /// Most bytes of a plain answer that is read as a whole.
    pub plain_bytes_max: usize,
    /// Whether the usage chunk was provoked by us and is to be withheld in mode events.
    pub withhold_usage: bool,
}

impl DecoderConfig {
    /// The defaults for an answer with this status and content type.
    pub fn new(
        mode: Mode,
        path: impl Into<String>,
        status: u16,
        content_type: impl Into<String>,
    ) -> DecoderConfig {
        DecoderConfig {
            mode,
            dialect: Dialect::default(),
            path: path.into(),
            status,
            content_type: content_type.into(),
            retry_after_ms: None,
            event_bytes_max: 16 << 20,
            plain_bytes_max: 32 << 20,
            withhold_usage: false,
        }
    }
}

/// One frame's worth of an answer, borrowed from the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece<'a> {
    /// Kind of the frame: DELTA, REASONING, TOOL, EVENT, BODY or USAGE.
    pub kind: Kind,
    /// Index of the choice.
    pub choice: u16,
    /// Payload of the frame.
    pub payload: &'a [u8],
    /// Whether this is generated content: after the first such piece nothing may be retried. A
    /// comment, a lifecycle event, an error object and USAGE are not.
    pub content: bool,
}

/// Whether the answer has reached its terminal marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Not yet: feed on.
    Running,
    /// Yes, and every piece was taken. `bytes` is left 0 for the caller of the decoder to fill in.
    Ended(EndFrame<'a>),
}
