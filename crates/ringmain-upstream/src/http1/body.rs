//! Where the body of an answer ends (RFC 9112, 6 and 7), and its bytes without their frames.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};

use super::error::{ChunkFault, Error, HeadFault};

/// Most bytes of the extensions of one chunk.
const LINE_BYTES_MAX: usize = 4096;
/// Most digits of the size of a chunk.
const SIZE_DIGITS: usize = 16;
/// Most bytes of what is of no interest in one body: extensions of chunks, and trailers.
pub(super) const EXTRA_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of several chunks that are given as one piece: some hundred tokens, which a task
/// works off before it gives way.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes.
    Length(u64),
    Chunks(Chunks),
    /// All until the connection ends.
    UntilClose,
}

/// A body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    next: Next,
    /// Bytes of extensions and trailers so far.
    extra: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The line before a chunk.
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The end of its line.
    DataEnd,
    /// Lines behind the last chunk, until an empty one.
    Trailer,
    Nothing,
}

/// What was found in a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Bytes of the body, at least one.
    Piece(Bytes),
    /// Nothing, before more has come.
    Wants,
    /// The end of the body.
    End,
}

impl Body {
    /// As the head of an answer says.
    pub(super) fn of(
        status: StatusCode,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<Body, HeadFault> {
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Body::Length(0));
        }
        // They overrule a length (RFC 9112, 6.3).
        if headers.contains_key(TRANSFER_ENCODING) {
            return Body::of_codings(headers, version);
        }
        let mut length = None;
        for value in headers.get_all(CONTENT_LENGTH) {
            let told = value.to_str().ok().and_then(length_of).ok_or(HeadFault::Length)?;
            if *length.get_or_insert(told) != told {
                return Err(HeadFault::Length);
            }
        }
        Ok(length.map_or(Body::UntilClose, Body::Length))
    }

    fn of_codings(headers: &HeaderMap, version: Version) -> Result<Body, HeadFault> {
        let values = headers.get_all(TRANSFER_ENCODING).iter();
        let members = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
        // Empty members of a list count for nothing (RFC 9110, 5.6.1).
        let mut codings = members.map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty());
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        let (first, last) = (codings.next().unwrap_or_default(), codings.next_back());
        match (is_chunked(first), last) {
            (true, None) if version == Version::HTTP_11 => Ok(Body::chunks()),
            // Below the chunks would lie a coding that was not offered, and version 1.0 has none.
            (true, _) => Err(HeadFault::Coding),
            (false, Some(last)) if is_chunked(last) => Err(HeadFault::Coding),
            (false, _) => Ok(Body::UntilClose),
        }
    }

    /// A body in chunks, before the first.
    pub(super) fn chunks() -> Body {
        Body::Chunks(Chunks { next: Next::Size, extra: 0 })
    }

    /// Takes from the front of `buffer` what belongs to the body and has come.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> Result<Taken, Error> {
        match self {
            Body::Length(0) => Ok(Taken::End),
            _ if buffer.is_empty() && !self.is_over() => Ok(Taken::Wants),
            Body::Length(left) => {
                let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= bytes as u64;
                Ok(Taken::Piece(buffer.split_to(bytes).freeze()))
            }
            Body::UntilClose => Ok(Taken::Piece(buffer.split().freeze())),
            Body::Chunks(chunks) => chunks.take(buffer),
        }
    }

    /// Whether nothing is to come any more.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunks(chunks) => chunks.next == Next::Nothing,
            Body::UntilClose => false,
        }
    }
}

/// Digits alone: the signs and separators that other parsers let pass are no length.
fn length_of(text: &str) -> Option<u64> {
    let digits = text.trim();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

impl Chunks {
    fn take(&mut self, buffer: &mut BytesMut) -> Result<Taken, Error> {
        // What has been read of the buffer, and where in it the piece lies that is put together.
        let (mut read, mut piece) = (0, 0..0);
        // Bound: each round reads bytes, or is the last.
        let fault = loop {
            match self.step(buffer, read, &mut piece) {
                Ok(0) => break None,
                Ok(bytes) => read += bytes,
                Err(fault) => break Some(fault),
            }
        };
        // What was good before a fault is given first; the fault is met again.
        if piece.end > 0 {
            let mut front = buffer.split_to(read);
            front.truncate(piece.end);
            front.advance(piece.start);
            return Ok(Taken::Piece(front.freeze()));
        }
        buffer.advance(read);
        match fault {
            Some(fault) => Err(Error::Chunk(fault)),
            None if self.next == Next::Nothing => Ok(Taken::End),
            None => Ok(Taken::Wants),
        }
    }

    /// Reads on from `at`, and tells how many bytes it took; none before more has come, or when the
    /// piece is long enough. Bytes of the body are put behind those of the piece.
    fn step(
        &mut self,
        buffer: &mut BytesMut,
        at: usize,
        piece: &mut Range<usize>,
    ) -> Result<usize, ChunkFault> {
        let rest = &buffer[at..];
        match self.next {
            Next::Size => {
                let Some((bytes, size)) = self.size_line(rest)? else { return Ok(0) };
                self.next = if size == 0 { Next::Trailer } else { Next::Data(size) };
                Ok(bytes)
            }
            Next::Data(_) if rest.is_empty() => Ok(0),
            Next::Data(left) => {
                let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                if piece.end == 0 {
                    *piece = at..at + bytes;
                } else if piece.len() + bytes > PIECE_BYTES_MAX {
                    return Ok(0);
                } else {
                    buffer.copy_within(at..at + bytes, piece.end);
                    piece.end += bytes;
                }
                let left = left - bytes as u64;
                self.next = if left == 0 { Next::DataEnd } else { Next::Data(left) };
                Ok(bytes)
            }
            Next::DataEnd => match rest {
                [b'\r', b'\n', ..] => {
                    self.next = Next::Size;
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(ChunkFault::End),
            },
            Next::Trailer => {
                let Some(bytes) = self.extra_line(rest, EXTRA_BYTES_MAX)? else { return Ok(0) };
                if bytes == 2 {
                    self.next = Next::Nothing;
                }
                Ok(bytes)
            }
            Next::Nothing => Ok(0),
        }
    }

    /// The length of the line before a chunk, and the size of the chunk; `None` before it is whole.
    fn size_line(&mut self, text: &[u8]) -> Result<Option<(usize, u64)>, ChunkFault> {
        let (mut size, mut digits) = (0_u64, 0);
        // Bound: the digits.
        while let Some(digit) = text.get(digits).and_then(|&byte| char::from(byte).to_digit(16)) {
            if digits == SIZE_DIGITS {
                return Err(ChunkFault::Size);
            }
            (size, digits) = (size << 4 | u64::from(digit), digits + 1);
        }
        match &text[digits..] {
            [] => Ok(None),
            // A line without digits is no size, and above all not that of the last chunk.
            _ if digits == 0 => Err(ChunkFault::Size),
            [b'\r', b'\n', ..] => Ok(Some((digits + 2, size))),
            [b'\r'] => Ok(None),
            extension @ [b';' | b' ' | b'\t', ..] => {
                let bytes = self.extra_line(extension, LINE_BYTES_MAX)?;
                Ok(bytes.map(|bytes| (digits + bytes, size)))
            }
            _ => Err(ChunkFault::Size),
        }
    }

    /// The length of the line at the front of `text`, which is of no interest; `None` before it is
    /// whole. It ends with CR LF and nothing less: two readers that see different ends of a line
    /// see different bodies.
    fn extra_line(&mut self, text: &[u8], bytes_max: usize) -> Result<Option<usize>, ChunkFault> {
        let end = memchr::memchr2(b'\r', b'\n', text);
        let bytes = end.unwrap_or(text.len());
        if bytes > bytes_max || self.extra + bytes > EXTRA_BYTES_MAX {
            return Err(ChunkFault::Extra);
        }
        match &text[bytes..] {
            [b'\r', b'\n', ..] => {
                self.extra += bytes + 2;
                Ok(Some(bytes + 2))
            }
            [] | [b'\r'] => Ok(None),
            _ => Err(ChunkFault::Line),
        }
    }
}
