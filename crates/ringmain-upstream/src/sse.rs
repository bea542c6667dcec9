//! Server-sent events: bytes in, borrowed events out.
//!
//! The body is cut into *blocks*. A block is everything from the end of the block before it up to
//! and including the blank line that ends it: comments, unknown fields, a byte order mark and the
//! line ends all belong to it. So the raw bytes of all blocks, one after the other, are the body
//! again, byte for byte. Most blocks dispatch an event; a block without a `data` field (a lone
//! comment, a spare blank line) dispatches none and still has its raw bytes.
//!
//! Where a chunk ends between the CR and the LF of a blank line, the block is given at once and
//! the LF begins the next one: waiting for it could cost the time until the next token.
//!
//! Each byte is looked at once when line ends are searched, and copied at most once, and only if
//! its block does not lie in one chunk.

use std::ops::Range;

use bytes::Bytes;
use memchr::{memchr, memchr2};
use thiserror::Error;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// A block is longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an event of more than {0} bytes")]
pub struct TooLong(pub usize);

/// One block of an event stream, borrowed from its decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// All bytes of the block, as they came.
    pub raw: &'a [u8],
    /// The data lines, joined by LF; `None` when the block dispatches no event.
    pub data: Option<&'a [u8]>,
    /// The event's type; empty stands for `message`.
    pub kind: &'a [u8],
    /// The last event id of the stream so far.
    pub last_id: &'a [u8],
    /// False for what is left when the body ends without a blank line.
    pub terminated: bool,
}

/// Decodes one event stream.
#[derive(Debug)]
pub struct SseDecoder {
    event_bytes_max: usize,
    /// The present chunk; `at` is how far it was consumed.
    chunk: Bytes,
    at: usize,
    /// Bytes of the present block from earlier chunks. Bound: `event_bytes_max`.
    carry: Vec<u8>,
    /// Where the present line begins in its block.
    line_at: usize,
    block: Block,
    last_id: Vec<u8>,
    /// A CR was the last byte: an LF that follows belongs to the same line end.
    after_cr: bool,
    first_line: bool,
    current: Option<Current>,
    ended: bool,
}

/// What the lines of the present block have said. Ranges count from the start of the block.
#[derive(Debug, Default)]
struct Block {
    data: Data,
    kind: Range<usize>,
    /// Two or more data lines, joined. Bound: `event_bytes_max`.
    joined: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
enum Data {
    #[default]
    None,
    One(Range<usize>),
    Joined,
}

/// The block that was given last: where it lies.
#[derive(Clone, Debug)]
struct Current {
    in_carry: bool,
    raw: Range<usize>,
    terminated: bool,
}

impl SseDecoder {
    /// A decoder at the beginning of a body.
    pub fn new(event_bytes_max: usize) -> SseDecoder {
        SseDecoder {
            event_bytes_max,
            chunk: Bytes::new(),
            at: 0,
            carry: Vec::new(),
            line_at: 0,
            block: Block::default(),
            last_id: Vec::new(),
            after_cr: false,
            first_line: true,
            current: None,
            ended: false,
        }
    }

    /// Takes the next chunk. Call it when [`advance`](SseDecoder::advance) has given false;
    /// earlier, what is left of the chunk before is copied together with this one.
    pub fn feed(&mut self, chunk: Bytes) {
        self.leave_current();
        if self.at < self.chunk.len() {
            let joined = [&self.chunk[self.at..], &chunk[..]].concat();
            self.chunk = Bytes::from(joined);
        } else {
            self.chunk = chunk;
        }
        self.at = 0;
    }

    /// Memory that it holds of blocks that are not whole, or were not when they began.
    pub fn held_bytes(&self) -> usize {
        self.carry.capacity() + self.block.joined.capacity()
    }

    /// Says that the body has ended.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Goes on to the next block; false when more bytes are needed or nothing is left.
    ///
    /// # Errors
    /// [`TooLong`] when the block passes the limit; the decoder is of no use then.
    pub fn advance(&mut self) -> Result<bool, TooLong> {
        self.leave_current();
        // The block so far is `carry`, or, while that is empty, the chunk from `start` on.
        let mut start = self.at;
        self.skip_lf();
        while let Some(found) = line_end(&self.chunk[self.at..]) {
            let line_end = self.carry.len() + self.at + found - start;
            self.check(line_end)?;
            self.at += found;
            self.take_line_end();
            if !self.carry.is_empty() {
                self.carry.extend_from_slice(&self.chunk[start..self.at]);
                start = self.at;
            }
            let in_carry = !self.carry.is_empty();
            let raw = if in_carry { 0..self.carry.len() } else { start..self.at };
            if self.take_line(in_carry, raw.clone(), line_end) {
                self.current = Some(Current { in_carry, raw, terminated: true });
                return Ok(true);
            }
        }
        self.check(self.carry.len() + self.chunk.len() - start)?;
        self.carry.extend_from_slice(&self.chunk[start..]);
        // Let go before the next one is waited for: the connection reads into the same memory then.
        (self.chunk, self.at) = (Bytes::new(), 0);
        Ok(self.ended && self.take_rest())
    }

    /// The block that [`advance`](SseDecoder::advance) went to.
    pub fn event(&self) -> Option<Event<'_>> {
        let current = self.current.as_ref()?;
        let source = if current.in_carry { &self.carry[..] } else { &self.chunk[..] };
        let raw = &source[current.raw.clone()];
        let data = match &self.block.data {
            Data::None => None,
            Data::One(range) => Some(&raw[range.clone()]),
            Data::Joined => Some(&self.block.joined[..]),
        };
        let kind = &raw[self.block.kind.clone()];
        let terminated = current.terminated;
        Some(Event { raw, data, kind, last_id: &self.last_id, terminated })
    }

    /// Forgets the block that was given last.
    fn leave_current(&mut self) {
        if let Some(current) = self.current.take() {
            if current.in_carry {
                self.carry.clear();
            }
            self.line_at = 0;
            self.block.data = Data::None;
            self.block.kind = 0..0;
            self.block.joined.clear();
        }
    }

    fn check(&self, bytes: usize) -> Result<(), TooLong> {
        if bytes > self.event_bytes_max { Err(TooLong(self.event_bytes_max)) } else { Ok(()) }
    }

    /// Passes the LF of a CRLF whose CR ended the chunk before.
    fn skip_lf(&mut self) {
        if self.after_cr && self.at < self.chunk.len() {
            self.after_cr = false;
            if self.chunk[self.at] == b'\n' {
                self.at += 1;
                self.line_at += 1;
            }
        }
    }

    /// Passes the line end that the position stands on.
    fn take_line_end(&mut self) {
        let cr = self.chunk[self.at] == b'\r';
        self.at += 1;
        if cr {
            match self.chunk.get(self.at) {
                Some(b'\n') => self.at += 1,
                Some(_) => {}
                None => self.after_cr = true,
            }
        }
    }

    /// Reads the line that ends at `end` of the block `raw`. True for the blank line that ends it.
    fn take_line(&mut self, in_carry: bool, raw: Range<usize>, end: usize) -> bool {
        let source = if in_carry { &self.carry[..] } else { &self.chunk[..] };
        let bytes = &source[raw];
        let mut from = std::mem::replace(&mut self.line_at, bytes.len());
        if std::mem::take(&mut self.first_line) && bytes[from..end].starts_with(BOM) {
            from += BOM.len();
        }
        self.block.take_field(bytes, from..end, &mut self.last_id);
        from == end
    }

    /// Gives what is left when the body has ended without a blank line.
    fn take_rest(&mut self) -> bool {
        let end = self.carry.len();
        if end == 0 {
            return false;
        }
        if self.line_at < end {
            self.take_line(true, 0..end, end);
        }
        self.current = Some(Current { in_carry: true, raw: 0..end, terminated: false });
        true
    }
}

/// Where the first line ends. Every other line is blank: that one is found without a search.
#[inline]
fn line_end(bytes: &[u8]) -> Option<usize> {
    match bytes.first()? {
        b'\n' | b'\r' => Some(0),
        _ => memchr2(b'\n', b'\r', bytes),
    }
}

impl Block {
    /// Reads the field on a line of the block `bytes`.
    fn take_field(&mut self, bytes: &[u8], at: Range<usize>, last_id: &mut Vec<u8>) {
        let line = &bytes[at.clone()];
        // Nearly every line is a data line: spare it the search for the colon.
        let colon = match line.starts_with(b"data:") {
            true => 4,
            false => memchr(b':', line).unwrap_or(line.len()),
        };
        let space = usize::from(line.get(colon + 1) == Some(&b' '));
        let value = (at.start + colon + 1 + space).min(at.end)..at.end;
        match &line[..colon] {
            b"data" => self.take_data(bytes, value),
            b"event" => self.kind = value,
            b"id" if memchr(0, &bytes[value.clone()]).is_none() => {
                last_id.clear();
                last_id.extend_from_slice(&bytes[value]);
            }
            // A comment has no name; `retry` speaks of reconnecting, which a POST never does.
            _ => {}
        }
    }

    fn take_data(&mut self, bytes: &[u8], value: Range<usize>) {
        match std::mem::replace(&mut self.data, Data::Joined) {
            Data::None => {
                self.data = Data::One(value);
                return;
            }
            Data::One(first) => self.joined.extend_from_slice(&bytes[first]),
            Data::Joined => {}
        }
        self.joined.push(b'\n');
        self.joined.extend_from_slice(&bytes[value]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Raw bytes, data, type, last id, terminated.
    type Seen = (Vec<u8>, Option<Vec<u8>>, Vec<u8>, Vec<u8>, bool);

    fn read(chunks: &[&[u8]], cap: usize) -> Result<Vec<Seen>, TooLong> {
        let mut sse = SseDecoder::new(cap);
        let mut seen = Vec::new();
        let mut drain = |sse: &mut SseDecoder| {
            while sse.advance()? {
                let e = sse.event().unwrap();
                seen.push((
                    e.raw.to_vec(),
                    e.data.map(<[u8]>::to_vec),
                    e.kind.to_vec(),
                    e.last_id.to_vec(),
                    e.terminated,
                ));
            }
            Ok(())
        };
        for chunk in chunks {
            sse.feed(Bytes::copy_from_slice(chunk));
            drain(&mut sse)?;
        }
        sse.end();
        drain(&mut sse)?;
        Ok(seen)
    }

    fn data(chunks: &[&[u8]]) -> Vec<(String, bool)> {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let seen = read(chunks, 1 << 20).unwrap();
        seen.into_iter().filter_map(|s| Some((text(s.1?), s.4))).collect()
    }

    #[test]
    fn every_line_end_is_one() {
        for body in
            ["data: a\n\ndata:b\n\n", "data: a\r\n\r\ndata:b\r\n\r\n", "data: a\r\rdata:b\r\r"]
        {
            let expected = [("a".into(), true), ("b".into(), true)];
            assert_eq!(data(&[body.as_bytes()]), expected, "{body:?}");
            let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
            assert_eq!(data(&bytes), expected, "{body:?} byte by byte");
        }
    }

    #[test]
    fn data_lines_are_joined_and_an_unfinished_event_is_flagged() {
        assert_eq!(data(&[b"data: a\ndata\nda", b"ta: b\n\n"]), [("a\n\nb".into(), true)]);
        assert_eq!(data(&[b"data: a\n\ndata: b"])[1], ("b".into(), false));
        assert_eq!(data(&[b"data: a\n\ndata: b\n"])[1], ("b".into(), false));
        assert_eq!(data(&[b": only a comment\n\n"]), []);
    }

    #[test]
    fn a_block_at_the_limit_passes_and_one_byte_more_does_not() {
        assert_eq!(read(&[b"data: abcd\n\n"], 11).unwrap().len(), 1);
        assert_eq!(read(&[b"data: abcde\n\n"], 10), Err(TooLong(10)));
        let endless = vec![b'x'; 64];
        assert_eq!(read(&[&endless[..40], &endless], 100), Err(TooLong(100)));
    }

    #[test]
    fn an_event_in_one_chunk_is_borrowed_from_it() {
        let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
        let range = chunk.as_ptr_range();
        let mut sse = SseDecoder::new(100);
        sse.feed(chunk);
        while sse.advance().unwrap() {
            let event = sse.event().unwrap();
            assert!(range.contains(&event.data.unwrap().as_ptr()));
            assert!(range.contains(&event.raw.as_ptr()));
        }
        assert_eq!(sse.carry.capacity(), 0);
    }

    /// Whoever made the chunk can use its memory again while the next one is waited for.
    #[test]
    fn a_chunk_that_was_read_is_let_go() {
        for text in ["data: a\n\ndata: b\n\n", "data: cut of", "data: a\r\n\r"] {
            let chunk = Bytes::from(text.as_bytes().to_vec());
            let mut sse = SseDecoder::new(100);
            sse.feed(chunk.clone());
            while sse.advance().unwrap() {}
            assert!(chunk.is_unique(), "{text:?}");
        }
    }

    proptest! {
        /// Whatever the bytes and wherever they are cut: the events are the same, and the raw
        /// bytes are the body.
        #[test]
        fn property_cuts_change_nothing(
            parts in prop::collection::vec(prop::sample::select(vec![
                "data", "data:", "data: ", "event: x", "id: 7", ":c", "\n", "\r", "\r\n", "\n\n",
                "\u{feff}", "a", "é", " ", "retry: 5", "\0",
            ]), 0..40),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let body = parts.concat().into_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            at.extend([0, body.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|w| &body[w[0]..w[1]]).collect();
            let (whole, cut) = (read(&[&body], 4096).unwrap(), read(&chunks, 4096).unwrap());
            for seen in [&whole, &cut] {
                let raw: Vec<u8> = seen.iter().flat_map(|s| s.0.clone()).collect();
                prop_assert_eq!(&raw, &body);
            }
            let events = |seen: Vec<Seen>| -> Vec<_> {
                seen.into_iter().filter_map(|s| Some((s.1?, s.2, s.3, s.4))).collect()
            };
            prop_assert_eq!(events(whole), events(cut));
        }
    }
}
