//! From the bytes of an answer to typed pieces.

use bytes::Bytes;
use ringmain_wire::frame::{EndFrame, Usage};
use ringmain_wire::{Kind, Mode};

use crate::config::Dialect;
use crate::error::UpstreamError;

/// What a [`Decoder`] must know about the answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DecoderConfig {
    /// What the pieces are to be.
    pub mode: Mode,
    /// Language of the endpoint.
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
            event_bytes_max: 1 << 20,
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

/// Reads one answer: bytes in, typed pieces out.
///
/// ```text
/// loop {
///     while let Some(piece) = decoder.next()? { write a frame }
///     if decoder.is_ended() { END; break }
///     match body.chunk().await? {
///         Some(chunk) => decoder.feed(chunk),
///         None => decoder.end_of_body(),
///     }
/// }
/// ```
/// After `end_of_body`, `next` gives the last pieces and then either an error or the verdict
/// `Ended`; it never leaves the answer undecided.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
}

impl Decoder {
    /// A decoder at the beginning of a body.
    pub fn new(config: DecoderConfig) -> Decoder {
        Decoder { config }
    }

    /// Takes the next bytes of the body. Call it when [`next`](Decoder::next) has given `None`.
    pub fn feed(&mut self, _chunk: Bytes) {
        unimplemented!("{:?}", self.config)
    }

    /// Says that the body ended with correct framing.
    pub fn end_of_body(&mut self) {
        unimplemented!()
    }

    /// The next piece; `None` when more bytes are needed or the answer has ended.
    ///
    /// # Errors
    /// [`UpstreamError`], the terminal of the exchange.
    pub fn next(&mut self) -> Result<Option<Piece<'_>>, UpstreamError> {
        unimplemented!()
    }

    /// Whether the terminal marker was seen and every piece before it was taken.
    pub fn is_ended(&self) -> bool {
        unimplemented!()
    }

    /// The same with what END carries.
    pub fn verdict(&self) -> Verdict<'_> {
        unimplemented!()
    }

    /// Usage as far as the provider has told it, whatever the mode.
    pub fn usage(&self) -> Option<Usage> {
        unimplemented!()
    }
}
