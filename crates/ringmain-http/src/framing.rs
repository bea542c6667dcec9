//! Where each request of an HTTP/1 connection ends, told from its bytes before the server library
//! reads them. That library settles what two readers could understand in two ways (a body with two
//! framings, lines that end in a lone LF) and hides that it did; here it is refused, so that nobody
//! who stands before or behind this broker sees another request than it does.
//!
//! A head is passed on when it is whole, and each of its bytes is looked at once. Of bodies the
//! framing alone is looked at.

use std::fmt;

use memchr::memchr;

/// Most bytes of a head.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of the extensions of all chunks of a body, and of its trailers. Nobody needs them;
/// the server library has a bound of its own, which is not met then.
const EXTRA_BYTES_MAX: u32 = 8 * 1024;
/// Most digits of the size of a chunk.
const SIZE_DIGITS_MAX: u8 = 16;
/// The first line of HTTP/2, whose streams have frames of their own.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";

/// Why the bytes of a connection are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    BareCr,
    BareLf,
    Chunk,
    ChunkExtra,
    Coding,
    Folded,
    HeadTooLarge,
    Length,
    Name,
    TwoFramings,
    TwoLengths,
}

/// How far a connection has been read.
#[derive(Debug)]
pub(crate) struct Framing {
    phase: Phase,
    /// Nothing of the first request has come, which may be the preface of HTTP/2.
    is_first: bool,
}

#[derive(Debug)]
enum Phase {
    Head(Head),
    /// So many bytes of a body are to come.
    Body(u64),
    Chunks(Chunks),
    Http2,
}

/// What the lines of a head have said so far.
#[derive(Debug, Default)]
struct Head {
    /// Where the present line begins, and how far the search for its end has come.
    line_at: usize,
    seen: usize,
    has_target: bool,
    is_http10: bool,
    is_http2: bool,
    length: Option<u64>,
    is_chunked: bool,
}

/// A body in chunks.
#[derive(Debug, Default)]
struct Chunks {
    at: ChunkAt,
    /// Of the size line that is being read.
    size: u64,
    digits: u8,
    /// Of extensions and trailers.
    extra: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkAt {
    #[default]
    Size,
    /// Blanks behind the size.
    Blank,
    Extension,
    SizeLf,
    Data(u64),
    DataCr,
    DataLf,
    /// The first byte of a line behind the last chunk.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

impl Framing {
    pub fn new() -> Framing {
        Framing { phase: Phase::Head(Head::default()), is_first: true }
    }

    /// How many of the bytes that have not been passed on may be: none of a head that is not
    /// whole, and nothing behind the end of a request together with what is before it.
    ///
    /// # Errors
    /// [`Fault`] when none may and none ever will.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut passed = 0;
        // Bound: each round passes something.
        while passed < bytes.len() {
            match self.step(&bytes[passed..]) {
                Ok(0) => break,
                Ok(step) => passed += step,
                // What stands before a fault is good; it is met again behind it.
                Err(_) if passed > 0 => break,
                Err(fault) => return Err(fault),
            }
            if self.is_at_head() {
                break;
            }
        }
        Ok(passed)
    }

    /// Whether what comes next belongs to another request than what has passed; never so over
    /// HTTP/2.
    pub fn is_at_head(&self) -> bool {
        matches!(self.phase, Phase::Head(_))
    }

    fn step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match &mut self.phase {
            Phase::Http2 => Ok(bytes.len()),
            Phase::Body(left) => {
                let passed = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= passed as u64;
                if *left == 0 {
                    self.phase = Phase::Head(Head::default());
                }
                Ok(passed)
            }
            Phase::Chunks(chunks) => {
                let passed = chunks.step(bytes)?;
                if chunks.at == ChunkAt::End {
                    self.phase = Phase::Head(Head::default());
                }
                Ok(passed)
            }
            Phase::Head(head) => {
                let passed = match head.step(bytes, self.is_first) {
                    Ok(None) => return Ok(0),
                    Ok(Some(passed)) => passed,
                    Err(fault) => {
                        // It is read again from its start, and is no better then.
                        *head = Head::default();
                        return Err(fault);
                    }
                };
                self.phase = head.body(self.is_first);
                self.is_first = false;
                Ok(passed)
            }
        }
    }
}

impl Head {
    /// Reads the lines that have become whole; the length of the head when its last one has.
    /// `bytes` are all of it each time.
    fn step(&mut self, bytes: &[u8], is_first: bool) -> Result<Option<usize>, Fault> {
        while let Some(found) = memchr(b'\n', &bytes[self.seen..]) {
            let end = self.seen + found;
            let line = bytes[self.line_at..end].strip_suffix(b"\r").ok_or(Fault::BareLf)?;
            (self.line_at, self.seen) = (end + 1, end + 1);
            if end >= HEAD_BYTES_MAX {
                return Err(Fault::HeadTooLarge);
            }
            if self.take_line(line)? || is_first && self.is_http2 {
                return Ok(Some(end + 1));
            }
        }
        self.seen = bytes.len();
        match bytes.len() > HEAD_BYTES_MAX {
            true => Err(Fault::HeadTooLarge),
            false => Ok(None),
        }
    }

    /// True: it is the empty one that ends the head.
    fn take_line(&mut self, line: &[u8]) -> Result<bool, Fault> {
        if memchr(b'\r', line).is_some() {
            return Err(Fault::BareCr);
        }
        if !self.has_target {
            // RFC 9112, 2.2: empty lines before a request are passed over.
            self.has_target = !line.is_empty();
            self.is_http10 = line.ends_with(b"HTTP/1.0");
            self.is_http2 = line == HTTP2;
            return Ok(false);
        }
        let Some(first) = line.first() else { return Ok(true) };
        if is_blank(*first) {
            return Err(Fault::Folded);
        }
        let colon = memchr(b':', line).ok_or(Fault::Name)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.last().is_none_or(|last| is_blank(*last)) {
            return Err(Fault::Name);
        }
        self.take_field(name, value)?;
        Ok(false)
    }

    /// Takes what says how long the body is. No other name is as long as these two and alike.
    fn take_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = length(value).ok_or(Fault::Length)?;
            if self.length.replace(length).is_some() {
                return Err(Fault::TwoLengths);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // Said twice it is applied twice; and HTTP/1.0 does not know of it.
            let is_known = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            if !is_known || self.is_chunked || self.is_http10 {
                return Err(Fault::Coding);
            }
            self.is_chunked = true;
        }
        match self.is_chunked && self.length.is_some() {
            true => Err(Fault::TwoFramings),
            false => Ok(()),
        }
    }

    /// What follows it.
    fn body(&self, is_first: bool) -> Phase {
        match self.length {
            _ if is_first && self.is_http2 => Phase::Http2,
            _ if self.is_chunked => Phase::Chunks(Chunks::default()),
            Some(length) if length > 0 => Phase::Body(length),
            _ => Phase::Head(Head::default()),
        }
    }
}

impl Chunks {
    /// How many of these bytes are good, or why the first one is not.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut passed = 0;
        // Bound: each round passes something.
        while passed < bytes.len() && self.at != ChunkAt::End {
            if let ChunkAt::Data(left) = self.at {
                let step = left.min((bytes.len() - passed) as u64);
                passed += step as usize;
                self.at = match left - step {
                    0 => ChunkAt::DataCr,
                    left => ChunkAt::Data(left),
                };
                continue;
            }
            match self.next(bytes[passed]) {
                Ok(next) => self.at = next,
                Err(_) if passed > 0 => break,
                Err(fault) => return Err(fault),
            }
            passed += 1;
        }
        Ok(passed)
    }

    fn next(&mut self, byte: u8) -> Result<ChunkAt, Fault> {
        match (self.at, byte) {
            (ChunkAt::Size, b'\r') if self.digits > 0 => Ok(ChunkAt::SizeLf),
            (ChunkAt::Size, b';') if self.digits > 0 => Ok(ChunkAt::Extension),
            (ChunkAt::Size, b' ' | b'\t') if self.digits > 0 => self.extra(ChunkAt::Blank),
            (ChunkAt::Size, digit) => self.digit(digit),
            (ChunkAt::Blank | ChunkAt::Extension, b'\r') => Ok(ChunkAt::SizeLf),
            (ChunkAt::Blank, b' ' | b'\t') => self.extra(ChunkAt::Blank),
            (ChunkAt::Blank, b';') => Ok(ChunkAt::Extension),
            (ChunkAt::Extension | ChunkAt::Trailer, b'\n') => Err(Fault::BareLf),
            (ChunkAt::Extension, _) => self.extra(ChunkAt::Extension),
            (ChunkAt::SizeLf, b'\n') => Ok(self.data()),
            (ChunkAt::DataCr, b'\r') => Ok(ChunkAt::DataLf),
            (ChunkAt::DataLf, b'\n') => Ok(ChunkAt::Size),
            (ChunkAt::TrailerStart, b'\r') => Ok(ChunkAt::EndLf),
            (ChunkAt::TrailerStart, b'\n') => Err(Fault::BareLf),
            (ChunkAt::TrailerStart, byte) if is_blank(byte) => Err(Fault::Folded),
            (ChunkAt::Trailer, b'\r') => Ok(ChunkAt::TrailerLf),
            (ChunkAt::TrailerStart | ChunkAt::Trailer, _) => self.extra(ChunkAt::Trailer),
            (ChunkAt::TrailerLf, b'\n') => Ok(ChunkAt::TrailerStart),
            (ChunkAt::EndLf, b'\n') => Ok(ChunkAt::End),
            (ChunkAt::SizeLf | ChunkAt::TrailerLf | ChunkAt::EndLf, _) => Err(Fault::BareCr),
            _ => Err(Fault::Chunk),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<ChunkAt, Fault> {
        let digit = char::from(byte).to_digit(16).ok_or(Fault::Chunk)?;
        if self.digits == SIZE_DIGITS_MAX {
            return Err(Fault::Chunk);
        }
        self.digits += 1;
        self.size = self.size << 4 | u64::from(digit);
        Ok(ChunkAt::Size)
    }

    fn data(&mut self) -> ChunkAt {
        self.digits = 0;
        match std::mem::take(&mut self.size) {
            0 => ChunkAt::TrailerStart,
            size => ChunkAt::Data(size),
        }
    }

    fn extra(&mut self, next: ChunkAt) -> Result<ChunkAt, Fault> {
        self.extra += 1;
        match self.extra > EXTRA_BYTES_MAX {
            true => Err(Fault::ChunkExtra),
            false => Ok(next),
        }
    }
}

impl Fault {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Fault::HeadTooLarge => 431,
            _ => 400,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::BareCr => "a CR in the request is followed by no LF",
            Fault::BareLf => "a line of the request ends in LF without CR",
            Fault::Chunk => "a chunk of the body has no size, or not the one that it says",
            Fault::ChunkExtra => {
                "the extensions and trailers of a body in chunks are longer than 8192 bytes"
            }
            Fault::Coding => "the only transfer-encoding taken is chunked, once and in HTTP/1.1",
            Fault::Folded => "a header line of the request begins with a blank",
            Fault::HeadTooLarge => "the head of the request is longer than 65536 bytes",
            Fault::Length => "the content-length of the request is not a number of bytes",
            Fault::Name => "a header line of the request has no name with a colon behind it",
            Fault::TwoFramings => "the request has both a content-length and a transfer-encoding",
            Fault::TwoLengths => "the request has more than one content-length",
        })
    }
}

impl std::error::Error for Fault {}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn length(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    // The standard parser takes a sign.
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests;
