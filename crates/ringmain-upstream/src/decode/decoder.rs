//! The decoder: chunks of a body in, pieces out, by whichever reading the answer calls for.

use bytes::Bytes;
use ringmain_wire::frame::{EndFrame, Usage};
use ringmain_wire::{Code, Kind, Mode, Stage};

use crate::error::UpstreamError;
use crate::sse::{Event, SseDecoder, TooLong};

use super::failure::{self, Failure, reported, truncated, unreadable};
use super::media::{BLANKS_MAX, Media};
use super::origin::Origin;
use super::protocol::Protocol;
use super::queue::{Place, Queue};
use super::seen::{Seen, Unreadable, Whole};
use super::{DecoderConfig, Piece, Verdict};

/// Most bytes of an error body that are read.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;

/// Reads one answer: bytes in, typed pieces out.
///
/// ```text
/// loop {
///     while let Some(piece) = decoder.next()? { write a frame }
///     if decoder.is_ended() { END; break }
///     match body.chunk().await {
///         Ok(Some(chunk)) => decoder.feed(chunk),
///         Ok(None) => decoder.end_of_body(),
///         Err(error) => decoder.broken(error)?, // unless the marker had come: ERROR
///     }
/// }
/// ```
/// After `end_of_body`, `next` gives the last pieces and then either an error or the verdict
/// `Ended`; it never leaves the answer undecided.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    reading: Reading,
    dialect: Protocol,
    /// Where the answer comes from, for who asks, read until there is content.
    origin: Option<Origin>,
    queue: Queue,
    /// The present chunk, where the reading passes it on or has not begun.
    chunk: Bytes,
    /// Whether it was queued already.
    chunk_queued: bool,
    /// The terminal error, due when the queue is empty.
    failed: Option<UpstreamError>,
    content_seen: bool,
    body_ended: bool,
    /// The terminal marker of a stream was seen, and what follows it is passed on: mode body.
    marked: bool,
    ended: bool,
}

/// How the body is read.
#[derive(Debug)]
enum Reading {
    /// The content type does not tell: the first byte that is not blank will.
    Unknown,
    /// Passed on as it comes.
    Verbatim,
    /// An event stream.
    Events(SseDecoder),
    /// Read as a whole at its end. Bound: `plain_bytes_max`.
    Plain(Vec<u8>),
    /// The body of an error status. Bound: [`ERROR_BODY_BYTES_MAX`].
    Refusal(Vec<u8>),
}

impl Decoder {
    /// A decoder at the beginning of a body.
    pub fn new(config: DecoderConfig) -> Decoder {
        let dialect = Protocol::of(&config.path);
        // The terminal marker of a known stream counts in every mode, so its events are read even
        // where they are passed on as bytes.
        let is_known = dialect.is_known();
        let is_stream = Media::of(&config.content_type) == Media::Events;
        let reading = match config.mode {
            Mode::Body if !(200..300).contains(&config.status) => Reading::Verbatim,
            Mode::Body if is_known && is_stream => Reading::Unknown,
            Mode::Body => Reading::Verbatim,
            Mode::Deltas if !(200..300).contains(&config.status) => Reading::Refusal(Vec::new()),
            Mode::Events if !(200..300).contains(&config.status) => Reading::Verbatim,
            Mode::Deltas | Mode::Events => Reading::Unknown,
        };
        Decoder {
            config,
            reading,
            dialect,
            origin: None,
            queue: Queue::default(),
            chunk: Bytes::new(),
            chunk_queued: false,
            failed: None,
            content_seen: false,
            body_ended: false,
            marked: false,
            ended: false,
        }
    }

    /// The same, and it reads where the answer comes from.
    pub(crate) fn with_origin(config: DecoderConfig) -> Decoder {
        Decoder { origin: Some(Origin::default()), ..Decoder::new(config) }
    }

    /// Where the answer comes from, as far as it was told.
    pub(crate) fn origin(&self) -> Origin {
        self.origin.clone().unwrap_or_default()
    }

    /// Takes the next bytes of the body. Call it when [`next`](Decoder::next) has given `None`.
    pub fn feed(&mut self, chunk: Bytes) {
        match &mut self.reading {
            Reading::Events(sse) => sse.feed(chunk),
            _ if self.chunk.is_empty() || self.chunk_queued => self.chunk = chunk,
            _ => self.chunk = [&self.chunk[..], &chunk[..]].concat().into(),
        }
        self.chunk_queued = false;
    }

    /// Says that the body ended with correct framing.
    pub fn end_of_body(&mut self) {
        self.body_ended = true;
        if let Reading::Events(sse) = &mut self.reading {
            sse.end();
        }
    }

    /// Says that the body broke with `error`. What its terminal marker had closed before is whole
    /// all the same.
    ///
    /// # Errors
    /// The error to report: the status that the provider gave says more than the loss of its
    /// explanation. The stage is set to how far the answer came.
    pub fn broken(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        if self.marked {
            self.end_of_body();
            return Ok(());
        }
        Err(match &self.reading {
            Reading::Refusal(body) => self.refusal(body),
            _ => UpstreamError { stage: self.stage(), ..error },
        })
    }

    /// The next piece; `None` when more bytes are needed or the answer has ended.
    ///
    /// # Errors
    /// [`UpstreamError`], the terminal of the exchange.
    #[expect(clippy::should_implement_trait, reason = "a piece borrows from the decoder")]
    pub fn next(&mut self) -> Result<Option<Piece<'_>>, UpstreamError> {
        let queued = loop {
            if let Some(queued) = self.queue.pop() {
                break queued;
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            if self.ended {
                return Ok(None);
            }
            self.queue.begin();
            match self.step() {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => self.failed = Some(self.with_stage(error)),
            }
        };
        self.content_seen |= queued.content;
        let payload = match queued.place {
            Place::Raw => self.event().map_or(&[][..], |event| event.raw),
            Place::Chunk => &self.chunk,
            Place::Text(range) => &self.source()[range],
            Place::Unescaped(range) => &self.queue.unescaped.as_bytes()[range],
            Place::Encoded(range) => &self.queue.encoded[range],
        };
        let (kind, choice, content) = (queued.kind, queued.choice, queued.content);
        Ok(Some(Piece { kind, choice, payload, content }))
    }

    /// Whether the terminal marker was seen and every piece before it was taken.
    pub fn is_ended(&self) -> bool {
        self.ended && self.failed.is_none() && self.queue.is_empty()
    }

    /// The same with what END carries.
    pub fn verdict(&self) -> Verdict<'_> {
        if !self.is_ended() {
            return Verdict::Running;
        }
        Verdict::Ended(match self.reading {
            Reading::Events(_) | Reading::Plain(_) => self.dialect.end(),
            _ => EndFrame::default(),
        })
    }

    /// Usage as far as the provider has told it, whatever the mode. Mode body reads nothing.
    pub fn usage(&self) -> Option<Usage> {
        self.dialect.usage()
    }

    /// Memory that it holds of what is not whole yet. It may double with a chunk.
    pub fn held_bytes(&self) -> usize {
        match &self.reading {
            Reading::Events(sse) => sse.held_bytes(),
            Reading::Plain(body) | Reading::Refusal(body) => body.capacity(),
            Reading::Unknown | Reading::Verbatim => 0,
        }
    }

    /// Whether a piece of content was given: nothing may be retried any more.
    pub fn has_given_content(&self) -> bool {
        self.content_seen
    }

    /// Reads on until something is queued or the answer has ended. False: more bytes are needed.
    fn step(&mut self) -> Result<bool, UpstreamError> {
        match &mut self.reading {
            Reading::Unknown => self.choose_reading(),
            Reading::Verbatim => self.step_verbatim(),
            Reading::Events(sse) => match sse.advance() {
                Ok(true) => self.read_event().map(|()| true),
                Ok(false) if self.body_ended => self.end_of_events().map(|()| true),
                Ok(false) => Ok(false),
                Err(TooLong(bytes_max)) => Err(UpstreamError::answered(
                    Code::UpstreamTooLarge,
                    format!("the endpoint sent an event of more than {bytes_max} bytes"),
                )),
            },
            Reading::Plain(_) => self.step_plain(),
            Reading::Refusal(_) => self.step_refusal(),
        }
    }

    /// Decides how to read the body by its content type, or else by its first byte.
    fn choose_reading(&mut self) -> Result<bool, UpstreamError> {
        let told = Media::of(&self.config.content_type);
        let blank = |byte: &&u8| !b" \t\r\n\xef\xbb\xbf".contains(byte);
        let media = match (told, self.chunk.iter().find(blank)) {
            (Media::Events, _) if !self.chunk.is_empty() => Media::Events,
            (_, None) if self.body_ended => Media::Nothing,
            (_, None) if self.chunk.len() <= BLANKS_MAX => return Ok(false),
            (Media::Unknown, first) => Media::sniff(first.copied()),
            (told, _) => told,
        };
        let is_typed = self.dialect.is_known() && self.config.mode == Mode::Deltas;
        self.reading = match media {
            Media::Events => Reading::Events(SseDecoder::new(self.config.event_bytes_max)),
            Media::Json if is_typed => Reading::Plain(Vec::new()),
            Media::Json => Reading::Verbatim,
            _ if !self.dialect.is_known() => Reading::Verbatim,
            media => return Err(self.not_asked_for(media)),
        };
        let chunk = std::mem::take(&mut self.chunk);
        self.feed(chunk);
        if self.body_ended {
            self.end_of_body();
        }
        Ok(true)
    }

    fn step_verbatim(&mut self) -> Result<bool, UpstreamError> {
        if !self.chunk.is_empty() && !self.chunk_queued {
            self.queue.push_chunk();
            self.chunk_queued = true;
            return Ok(true);
        }
        if self.body_ended {
            self.finish();
        }
        Ok(self.body_ended)
    }

    fn step_plain(&mut self) -> Result<bool, UpstreamError> {
        let Decoder { reading: Reading::Plain(body), dialect, queue, .. } = self else {
            return Ok(false);
        };
        let chunk = std::mem::take(&mut self.chunk);
        let bytes_max = self.config.plain_bytes_max;
        if body.len() + chunk.len() > bytes_max {
            let message = format!("the endpoint sent an answer of more than {bytes_max} bytes");
            return Err(UpstreamError::answered(Code::UpstreamTooLarge, message));
        }
        body.extend_from_slice(&chunk);
        if !self.body_ended {
            return Ok(false);
        }
        if let Some(origin) = &mut self.origin {
            origin.read(body);
        }
        queue.silent = false;
        match dialect.read_whole(body, queue) {
            Ok(Whole::Answer) => {
                self.finish();
                Ok(true)
            }
            Ok(Whole::Error(failure)) => Err(reported(&failure)),
            Ok(Whole::Nothing) => Err(UpstreamError::answered(
                Code::UpstreamProtocol,
                "the endpoint answered with JSON that has neither an answer nor an error",
            )),
            Err(Unreadable(reason)) => Err(unreadable("answer", &reason)),
        }
    }

    fn step_refusal(&mut self) -> Result<bool, UpstreamError> {
        let Reading::Refusal(body) = &mut self.reading else { return Ok(false) };
        let chunk = std::mem::take(&mut self.chunk);
        let room = ERROR_BODY_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if !self.body_ended && body.len() < ERROR_BODY_BYTES_MAX {
            return Ok(false);
        }
        let body = std::mem::take(body);
        Err(self.refusal(&body))
    }

    /// Reads the present block of the event stream.
    fn read_event(&mut self) -> Result<(), UpstreamError> {
        let Decoder { reading: Reading::Events(sse), dialect, queue, .. } = self else {
            return Ok(());
        };
        let Some(event) = sse.event() else { return Ok(()) };
        let verbatim = self.config.mode != Mode::Deltas || !dialect.is_known();
        let kind = if self.config.mode == Mode::Body { Kind::Body } else { Kind::Event };
        let Some(data) = event.data.filter(|_| !self.marked) else {
            if verbatim {
                queue.push_raw(kind, false);
            }
            return Ok(());
        };
        if let Some(origin) = &mut self.origin
            && !self.content_seen
        {
            origin.read(data);
        }
        queue.silent = verbatim;
        let seen = match dialect.read(event.kind, data, queue) {
            Ok(seen) => seen,
            Err(_) if !event.terminated => Seen::Torn,
            // The consumer of verbatim events judges them itself.
            Err(_) if verbatim => Seen::Part { content: true },
            Err(Unreadable(reason)) => return Err(unreadable("event", &reason)),
        };
        if verbatim && !(self.config.withhold_usage && matches!(seen, Seen::Usage)) {
            queue.push_raw(kind, seen.is_content());
        }
        match seen {
            Seen::Error(failure) => self.failed = Some(self.with_stage(reported(&failure))),
            Seen::Torn => self.failed = Some(self.with_stage(truncated())),
            Seen::Terminal { .. } => self.finish(),
            Seen::Part { .. } | Seen::Usage => {}
        }
        Ok(())
    }

    /// The body of an event stream ended without a terminal event.
    fn end_of_events(&mut self) -> Result<(), UpstreamError> {
        let ended = self.marked || self.dialect.is_finished();
        if !ended {
            return Err(truncated());
        }
        self.finish();
        Ok(())
    }

    fn finish(&mut self) {
        if self.config.mode == Mode::Body && !self.body_ended {
            self.marked = true;
            return;
        }
        if let Some(usage) = self.usage().filter(|_| self.config.mode != Mode::Body) {
            self.queue.push_usage(&usage);
        }
        self.ended = true;
    }

    fn event(&self) -> Option<Event<'_>> {
        match &self.reading {
            Reading::Events(sse) => sse.event(),
            _ => None,
        }
    }

    /// The JSON text that queued places lie in.
    fn source(&self) -> &[u8] {
        match &self.reading {
            Reading::Plain(body) => body,
            _ => self.event().and_then(|event| event.data).unwrap_or_default(),
        }
    }

    fn stage(&self) -> Stage {
        if self.content_seen { Stage::Relay } else { Stage::AwaitContent }
    }

    fn with_stage(&self, error: UpstreamError) -> UpstreamError {
        // What an error event stands for says more than the status that it came under.
        let http_status = error.http_status.or(Some(self.config.status));
        UpstreamError { stage: self.stage(), http_status, ..error }
    }

    fn refusal(&self, body: &[u8]) -> UpstreamError {
        let Failure { code, message } = failure::read(body);
        let status = self.config.status;
        let message = match message.is_empty() {
            true => format!("the endpoint answered {status} without a word"),
            false => format!("the endpoint answered {status}: {message}"),
        };
        UpstreamError {
            retry_after_ms: self.config.retry_after_ms,
            provider_code: code,
            ..self.with_stage(UpstreamError::answered(Code::UpstreamStatus, message))
        }
    }

    fn not_asked_for(&self, media: Media) -> UpstreamError {
        let (status, kind) = (self.config.status, &self.config.content_type);
        let message = match media {
            Media::Nothing => format!("the endpoint answered {status} with an empty body"),
            _ => format!("the endpoint answered {status} with {kind:?}, neither events nor JSON"),
        };
        UpstreamError::answered(Code::UpstreamProtocol, message)
    }
}
