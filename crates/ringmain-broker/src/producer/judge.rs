//! Whether a frame is one that a producer may write now. Pure: a copy in, a verdict out.
//!
//! The order of an answer: HEAD, then any number of pieces of the kinds of its delivery mode and
//! at most one USAGE, then END; or ERROR at any place. Pieces that go on in the next frame go on
//! with the same kind and choice.

use std::str;

use ringmain_wire::frame::{EndFrame, FrameHeader, MORE, PayloadError, ToolFrame, Usage};
use ringmain_wire::head::HeadError;
use ringmain_wire::{ErrorFrame, ExchangeId, Kind, Mode, ResponseHead};
use thiserror::Error;

/// Most bytes of an event or a tool call that comes in several frames.
const JOINED_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a content type.
const CONTENT_TYPE_BYTES_MAX: usize = 128;

/// The judge of one exchange.
pub(super) struct Judge {
    exchange: ExchangeId,
    mode: Mode,
    has_head: bool,
    has_usage: bool,
    /// Kind and choice of a piece whose rest is due.
    open: Option<(Kind, u16)>,
    /// The pieces of an event or a tool call so far.
    // Bound: JOINED_BYTES_MAX.
    joined: Vec<u8>,
}

/// A frame that was judged.
#[derive(Debug, PartialEq)]
pub(super) enum Part<'a> {
    Head(ResponseHead<'a>),
    /// A whole piece for the caller.
    Piece {
        kind: Kind,
        choice: u16,
        payload: &'a [u8],
    },
    /// A piece whose rest is due before it is worth anything.
    Begun,
    End(EndFrame<'a>),
    Error(ErrorFrame<'a>),
}

/// What is wrong with a frame. None of it repeats what the producer wrote.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum Fault {
    #[error("a frame of exchange {found} on the lane of exchange {due}")]
    Exchange { found: u64, due: u64 },
    #[error("frame kind {0} does not exist")]
    Kind(u8),
    #[error("a {kind:?} frame in an answer of mode {mode:?}")]
    Mode { kind: Kind, mode: Mode },
    #[error("a {0:?} frame before HEAD")]
    NoHead(Kind),
    #[error("a second {0:?} frame")]
    Twice(Kind),
    #[error("a {0:?} frame cannot go on in the next one")]
    More(Kind),
    #[error("a {found:?} frame where the rest of a {due:?} frame is due")]
    Rest { found: Kind, due: Kind },
    #[error("a {kind:?} of more than {JOINED_BYTES_MAX} bytes in pieces")]
    TooLong { kind: Kind },
    #[error("a {0:?} frame that is not UTF-8")]
    Text(Kind),
    #[error("the payload of HEAD is not valid: it {0}")]
    Head(&'static str),
    #[error("the payload of HEAD cannot be read")]
    HeadRecord,
    #[error(transparent)]
    Payload(#[from] PayloadError),
}

impl From<HeadError> for Fault {
    fn from(_: HeadError) -> Fault {
        Fault::HeadRecord
    }
}

impl Judge {
    pub fn new(exchange: ExchangeId, mode: Mode) -> Judge {
        Judge { exchange, mode, has_head: false, has_usage: false, open: None, joined: Vec::new() }
    }

    /// Judges one frame. The ring has judged where it stands and how long it is.
    pub fn take<'a>(
        &'a mut self,
        header: &FrameHeader,
        payload: &'a [u8],
    ) -> Result<Part<'a>, Fault> {
        if header.exchange != self.exchange.0 {
            return Err(Fault::Exchange { found: header.exchange, due: self.exchange.0 });
        }
        let kind = Kind::from_number(header.kind).ok_or(Fault::Kind(header.kind))?;
        let (choice, has_more) = (header.choice, header.flags & MORE != 0);
        // An answer may break off anywhere, within a piece too.
        if kind == Kind::Error && !has_more {
            return Ok(Part::Error(ErrorFrame::parse(payload)?));
        }
        if let Some(due) = self.open
            && due != (kind, choice)
        {
            return Err(Fault::Rest { found: kind, due: due.0 });
        }
        if kind != Kind::Head && !self.has_head {
            return Err(Fault::NoHead(kind));
        }
        self.check_mode(kind)?;
        if has_more && !kind.is_content() {
            return Err(Fault::More(kind));
        }
        match kind {
            Kind::Head => self.take_head(payload),
            Kind::Usage => self.take_usage(payload),
            Kind::End => Ok(Part::End(EndFrame::parse(payload)?)),
            _ => self.take_piece(kind, choice, payload, has_more),
        }
    }

    fn check_mode(&self, kind: Kind) -> Result<(), Fault> {
        let fits = match kind {
            Kind::Delta | Kind::Reasoning | Kind::Tool => self.mode == Mode::Deltas,
            Kind::Event => self.mode == Mode::Events,
            Kind::Body => self.mode == Mode::Body,
            Kind::Head | Kind::Usage | Kind::End => true,
            _ => false,
        };
        if fits { Ok(()) } else { Err(Fault::Mode { kind, mode: self.mode }) }
    }

    fn take_head<'a>(&mut self, payload: &'a [u8]) -> Result<Part<'a>, Fault> {
        if std::mem::replace(&mut self.has_head, true) {
            return Err(Fault::Twice(Kind::Head));
        }
        let head = ResponseHead::parse(payload)?;
        let is_visible = |text: &str| text.bytes().all(|b| (b' '..=b'~').contains(&b));
        let id = head.upstream_request_id.unwrap_or_default();
        match head.status {
            200..=299 => {}
            300..=599 if self.mode != Mode::Deltas => {}
            _ => return Err(Fault::Head("has a status that this mode cannot deliver")),
        }
        if head.content_type.len() > CONTENT_TYPE_BYTES_MAX || !is_visible(head.content_type) {
            return Err(Fault::Head("has a content type that is none"));
        }
        if !is_visible(id) {
            return Err(Fault::Head("has a request id that is none"));
        }
        Ok(Part::Head(head))
    }

    fn take_usage<'a>(&mut self, payload: &'a [u8]) -> Result<Part<'a>, Fault> {
        if payload.len() != size_of::<Usage>() {
            return Err(PayloadError(Kind::Usage).into());
        }
        if std::mem::replace(&mut self.has_usage, true) {
            return Err(Fault::Twice(Kind::Usage));
        }
        Ok(Part::Piece { kind: Kind::Usage, choice: 0, payload })
    }

    fn take_piece<'a>(
        &'a mut self,
        kind: Kind,
        choice: u16,
        payload: &'a [u8],
        has_more: bool,
    ) -> Result<Part<'a>, Fault> {
        let goes_on = self.open.is_some();
        self.open = has_more.then_some((kind, choice));
        if kind.is_text() && str::from_utf8(payload).is_err() {
            return Err(Fault::Text(kind));
        }
        // Text and bytes are delivered as they come; an event or a tool call is whole or nothing.
        let is_joined = matches!(kind, Kind::Event | Kind::Tool) && (goes_on || has_more);
        if !is_joined {
            return self.whole(kind, choice, payload);
        }
        if !goes_on {
            self.joined.clear();
        }
        if self.joined.len() + payload.len() > JOINED_BYTES_MAX {
            return Err(Fault::TooLong { kind });
        }
        self.joined.extend_from_slice(payload);
        match has_more {
            true => Ok(Part::Begun),
            false => self.whole(kind, choice, &self.joined),
        }
    }

    fn whole<'a>(&self, kind: Kind, choice: u16, payload: &'a [u8]) -> Result<Part<'a>, Fault> {
        if kind == Kind::Tool {
            ToolFrame::parse(payload)?;
        }
        Ok(Part::Piece { kind, choice, payload })
    }
}

#[cfg(test)]
mod tests {
    use ringmain_wire::{Code, Stage};

    use super::*;

    fn header(kind: Kind, flags: u8) -> FrameHeader {
        FrameHeader { exchange: 7, kind: kind as u8, flags, ..FrameHeader::default() }
    }

    fn head(status: u16) -> Vec<u8> {
        let mut head = ResponseHead::default();
        (head.status, head.content_type) = (status, "text/plain");
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        bytes
    }

    /// A judge whose answer has begun.
    fn begun(mode: Mode) -> Judge {
        let mut judge = Judge::new(ExchangeId(7), mode);
        judge.take(&header(Kind::Head, 0), &head(200)).unwrap();
        judge
    }

    fn fault(judge: &mut Judge, kind: Kind, flags: u8, payload: &[u8]) -> Fault {
        judge.take(&header(kind, flags), payload).unwrap_err()
    }

    #[test]
    fn an_answer_in_order_is_relayed() {
        let mut judge = begun(Mode::Deltas);
        for kind in [Kind::Delta, Kind::Reasoning, Kind::Delta] {
            let part = judge.take(&header(kind, 0), b"text").unwrap();
            assert_eq!(part, Part::Piece { kind, choice: 0, payload: b"text" });
        }
        judge.take(&header(Kind::Usage, 0), Usage::default().as_bytes()).unwrap();
        let mut end = Vec::new();
        EndFrame::default().encode(&mut end);
        assert!(matches!(judge.take(&header(Kind::End, 0), &end), Ok(Part::End(_))));
    }

    #[test]
    fn each_kind_has_its_place_and_its_mode() {
        let mut fresh = Judge::new(ExchangeId(7), Mode::Deltas);
        assert_eq!(fault(&mut fresh, Kind::Delta, 0, b"x"), Fault::NoHead(Kind::Delta));
        assert_eq!(fault(&mut fresh, Kind::End, 0, b""), Fault::NoHead(Kind::End));
        let mut judge = begun(Mode::Deltas);
        assert_eq!(fault(&mut judge, Kind::Head, 0, &head(200)), Fault::Twice(Kind::Head));
        for (mode, kind) in [
            (Mode::Deltas, Kind::Event),
            (Mode::Deltas, Kind::Body),
            (Mode::Events, Kind::Delta),
            (Mode::Body, Kind::Tool),
            (Mode::Body, Kind::Skip),
        ] {
            assert_eq!(fault(&mut begun(mode), kind, 0, b""), Fault::Mode { kind, mode });
        }
        let foreign = FrameHeader { exchange: 8, ..header(Kind::Delta, 0) };
        let verdict = begun(Mode::Deltas).take(&foreign, b"x").unwrap_err();
        assert_eq!(verdict, Fault::Exchange { found: 8, due: 7 });
    }

    #[test]
    fn payloads_are_read_before_they_are_believed() {
        let mut judge = begun(Mode::Deltas);
        assert_eq!(fault(&mut judge, Kind::Delta, 0, b"\xff"), Fault::Text(Kind::Delta));
        let bad = |kind| Fault::Payload(PayloadError(kind));
        assert_eq!(fault(&mut judge, Kind::Tool, 0, b"\x01"), bad(Kind::Tool));
        assert_eq!(fault(&mut judge, Kind::Usage, 0, &[0; 47]), bad(Kind::Usage));
        assert_eq!(fault(&mut judge, Kind::End, 0, b"\x01"), bad(Kind::End));
        assert_eq!(fault(&mut judge, Kind::Error, 0, b"\x01"), bad(Kind::Error));
        let usage = Usage::default();
        judge.take(&header(Kind::Usage, 0), usage.as_bytes()).unwrap();
        assert_eq!(fault(&mut judge, Kind::Usage, 0, usage.as_bytes()), Fault::Twice(Kind::Usage));
    }

    #[test]
    fn a_head_says_what_the_mode_can_deliver() {
        let judge = |mode| Judge::new(ExchangeId(7), mode);
        for status in [0, 199, 301, 500, 600] {
            let found = fault(&mut judge(Mode::Deltas), Kind::Head, 0, &head(status));
            assert!(matches!(found, Fault::Head(_)), "{status}");
        }
        assert!(judge(Mode::Body).take(&header(Kind::Head, 0), &head(500)).is_ok());
        let found = fault(&mut judge(Mode::Body), Kind::Head, 0, b"\x01\x02\x03");
        assert_eq!(found, Fault::HeadRecord);
        let mut evil = ResponseHead::default();
        (evil.status, evil.content_type) = (200, "a\r\nb: c");
        let mut bytes = Vec::new();
        evil.encode(&mut bytes);
        assert!(matches!(fault(&mut judge(Mode::Body), Kind::Head, 0, &bytes), Fault::Head(_)));
    }

    #[test]
    fn pieces_go_on_as_what_they_are() {
        let mut judge = begun(Mode::Events);
        assert_eq!(judge.take(&header(Kind::Event, MORE), b"data: ").unwrap(), Part::Begun);
        let part = judge.take(&header(Kind::Event, 0), b"x").unwrap();
        assert_eq!(part, Part::Piece { kind: Kind::Event, choice: 0, payload: b"data: x" });
        // Nothing of the first is left in the second.
        judge.take(&header(Kind::Event, MORE), b"1").unwrap();
        let part = judge.take(&header(Kind::Event, 0), b"2").unwrap();
        assert_eq!(part, Part::Piece { kind: Kind::Event, choice: 0, payload: b"12" });
        judge.take(&header(Kind::Event, MORE), b"1").unwrap();
        let found = fault(&mut judge, Kind::End, 0, b"");
        assert_eq!(found, Fault::Rest { found: Kind::End, due: Kind::Event });
        assert_eq!(
            fault(&mut begun(Mode::Events), Kind::Usage, MORE, b""),
            Fault::More(Kind::Usage)
        );
    }

    #[test]
    fn pieces_have_a_bound() {
        let mut judge = begun(Mode::Events);
        let piece = vec![b'x'; JOINED_BYTES_MAX / 4];
        for _ in 0..4 {
            judge.take(&header(Kind::Event, MORE), &piece).unwrap();
        }
        let found = fault(&mut judge, Kind::Event, MORE, b"x");
        assert_eq!(found, Fault::TooLong { kind: Kind::Event });
    }

    #[test]
    fn an_error_may_come_at_any_place() {
        let mut payload = Vec::new();
        ErrorFrame::new(Code::UpstreamError, Stage::Relay, "no").encode(&mut payload);
        let mut fresh = Judge::new(ExchangeId(7), Mode::Deltas);
        assert!(matches!(fresh.take(&header(Kind::Error, 0), &payload), Ok(Part::Error(_))));
        let mut judge = begun(Mode::Events);
        judge.take(&header(Kind::Event, MORE), b"half").unwrap();
        assert!(matches!(judge.take(&header(Kind::Error, 0), &payload), Ok(Part::Error(_))));
    }
}
