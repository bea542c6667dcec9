//! Answers on their way back: from the bytes that the endpoint sent to those of the caller's API.
//!
//! The endpoint's answer is read into the same typed pieces that a session in mode deltas gets,
//! and each piece is written in the words of the caller. So a translated answer does not depend on
//! how its bytes were cut, and says exactly what the frames would say.

use std::{fmt, mem};

use bytes::Bytes;
use ringmain_wire::Kind;
use ringmain_wire::frame::EndFrame;
use ringmain_wire::{Code, Mode};

use crate::config::Dialect;
use crate::decode::{Decoder, DecoderConfig, Origin, Verdict, failure};
use crate::error::UpstreamError;

use super::errors::error_body;
use super::{chat, messages};

/// Most bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Bytes beyond which what is gathered is worth a word to whoever charges for memory.
const GATHERED_BYTES: usize = 64 * 1024;

/// How the caller wants its answer.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// In the words of this dialect.
    pub dialect: Dialect,
    /// As a stream of events, or whole.
    pub stream: bool,
    /// Whether a stream is to tell its usage.
    pub usage: bool,
    /// Seconds since 1970, where the answer tells when it was made.
    pub now_s: u64,
}

/// Writes pieces in the words of one API, as a stream or whole.
pub(super) trait Words: Send {
    /// The answer begins; where it comes from is known as far as it was told.
    fn begin(&mut self, origin: &Origin, out: &mut Vec<u8>);
    /// One piece of it.
    fn piece(&mut self, kind: Kind, payload: &[u8], out: &mut Vec<u8>);
    /// The good end.
    fn end(&mut self, end: &EndFrame<'_>, out: &mut Vec<u8>);
    /// An error inside the answer. A whole answer then does not come at all.
    fn error(&mut self, error: &UpstreamError, words: &str, out: &mut Vec<u8>);
}

/// Turns the body of one answer into another: bytes in, bytes out, cut anywhere.
///
/// Bound: what one chunk of the body becomes; for a whole answer, what a plain answer may have.
pub struct Translator {
    source: Source,
    words: Box<dyn Words>,
    out: Vec<u8>,
    /// Most bytes of a whole answer, and what is left of them.
    bytes_max: usize,
    bytes_left: Option<usize>,
    begun: bool,
    /// How the answer ended, and whether that was told.
    ended: Option<Result<(), UpstreamError>>,
}

enum Source {
    Answer(Box<Decoder>),
    /// The body of an error status.
    Refusal {
        body: Vec<u8>,
        status: u16,
        dialect: Dialect,
    },
}

impl Translator {
    /// For an answer that is to be read as `reading` says, in mode deltas: its path is that of the
    /// endpoint's API.
    pub fn new(reading: DecoderConfig, wish: Wish) -> Translator {
        let reading = DecoderConfig { mode: Mode::Deltas, ..reading };
        let (status, dialect) = (reading.status, wish.dialect);
        let bytes_max = reading.plain_bytes_max;
        let bytes_left = (!wish.stream).then_some(bytes_max);
        let source = match status {
            200..300 => Source::Answer(Box::new(Decoder::with_origin(reading))),
            _ => Source::Refusal { body: Vec::new(), status, dialect },
        };
        let words: Box<dyn Words> = match (dialect, wish.stream) {
            (Dialect::OpenAi, true) => Box::new(chat::events::Events::new(wish.usage, wish.now_s)),
            (Dialect::OpenAi, false) => Box::new(chat::whole::Whole::new(wish.now_s)),
            (Dialect::Anthropic, true) => Box::<messages::events::Events>::default(),
            (Dialect::Anthropic, false) => Box::<messages::whole::Whole>::default(),
        };
        let (out, begun, ended) = (Vec::new(), false, None);
        Translator { source, words, out, bytes_max, bytes_left, begun, ended }
    }

    /// Takes the next bytes of the endpoint.
    pub fn feed(&mut self, chunk: Bytes) {
        match &mut self.source {
            Source::Answer(decoder) => {
                decoder.feed(chunk);
                self.run();
            }
            Source::Refusal { body, .. } => {
                let room = REFUSAL_BYTES_MAX - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
        }
    }

    /// Says that the body ended with correct framing.
    pub fn end_of_body(&mut self) {
        match &mut self.source {
            Source::Answer(decoder) => {
                decoder.end_of_body();
                self.run();
            }
            Source::Refusal { .. } => self.tell_refusal(),
        }
    }

    /// Says that the body broke with `error`.
    pub fn broken(&mut self, error: UpstreamError) {
        match &mut self.source {
            Source::Answer(decoder) => {
                self.ended = Some(decoder.broken(error));
            }
            // The status says more than the loss of its explanation.
            Source::Refusal { .. } => self.tell_refusal(),
        }
    }

    /// What there is to be delivered; empty bytes: nothing yet.
    ///
    /// # Errors
    /// How the answer failed, behind everything that came before.
    pub fn take(&mut self) -> Result<Bytes, UpstreamError> {
        if !self.out.is_empty() {
            return Ok(mem::take(&mut self.out).into());
        }
        match &self.ended {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(Bytes::new()),
        }
    }

    /// Whether the answer has ended, well or not: no more bytes are needed.
    pub fn is_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether it holds much and has nothing to deliver.
    pub fn is_gathering(&self) -> bool {
        self.out.is_empty() && self.ended.is_none() && self.held_bytes() > GATHERED_BYTES
    }

    /// Memory that it holds of what is not whole yet.
    pub fn held_bytes(&self) -> usize {
        let source = match &self.source {
            Source::Answer(decoder) => decoder.held_bytes(),
            Source::Refusal { body, .. } => body.capacity(),
        };
        let gathered = self.bytes_left.map_or(0, |left| self.bytes_max - left);
        source + gathered + self.out.capacity()
    }

    fn run(&mut self) {
        if self.ended.is_none()
            && let Err(error) = self.advance()
        {
            let told = error.message.strip_prefix(failure::INSIDE);
            let words = told.map(|words| words.trim_start_matches(": "));
            if let Some(words) = words {
                self.words.error(&error, words, &mut self.out);
            }
            self.ended = Some(Err(error));
        }
    }

    fn advance(&mut self) -> Result<(), UpstreamError> {
        let Source::Answer(decoder) = &mut self.source else { return Ok(()) };
        while let Some(piece) = decoder.next()? {
            if let Some(left) = &mut self.bytes_left {
                *left = left.checked_sub(piece.payload.len()).ok_or_else(|| {
                    let text = format!("the answer has more than {} bytes", self.bytes_max);
                    UpstreamError::answered(Code::UpstreamTooLarge, text)
                })?;
            }
            if self.begun {
                self.words.piece(piece.kind, piece.payload, &mut self.out);
            } else {
                // Once per answer: the piece borrows the decoder, which is asked for the origin.
                let (kind, payload) = (piece.kind, piece.payload.to_vec());
                self.words.begin(&decoder.origin(), &mut self.out);
                self.words.piece(kind, &payload, &mut self.out);
                self.begun = true;
            }
        }
        if let Verdict::Ended(end) = decoder.verdict() {
            if !self.begun {
                self.words.begin(&decoder.origin(), &mut self.out);
            }
            self.words.end(&end, &mut self.out);
            self.ended = Some(Ok(()));
        }
        Ok(())
    }

    fn tell_refusal(&mut self) {
        let Source::Refusal { body, status, dialect } = &self.source else { return };
        let said = failure::read(body);
        self.out = error_body(*dialect, *status, &said.code, &said.message).into_bytes();
        self.ended = Some(Ok(()));
    }
}

impl fmt::Debug for Translator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Translator").field("ended", &self.ended).finish_non_exhaustive()
    }
}
