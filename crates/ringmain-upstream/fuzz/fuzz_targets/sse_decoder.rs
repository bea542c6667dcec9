//! Any body as an event stream, whole and cut anywhere, against a plain reading of it by lines.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringmain_upstream::sse::{Event, SseDecoder, TooLong};

const EVENT_BYTES_MAX: [usize; 4] = [16, 64, 1024, 1 << 20];

/// An event that is dispatched, as lines of the body.
#[derive(Debug, Default)]
struct Plain<'a> {
    data: Vec<&'a [u8]>,
    kind: &'a [u8],
    last_id: &'a [u8],
    terminated: bool,
}

/// How far the decoder came.
struct Read {
    events: usize,
    raw_bytes: usize,
    verdict: Result<(), TooLong>,
}

// The first byte chooses the limit and the number of cuts, that many follow, the rest is the body.
fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    let limit = EVENT_BYTES_MAX[usize::from(choice >> 6)];
    let Some((cuts, body)) = rest.split_at_checked(usize::from(choice & 7)) else { return };
    let body = Bytes::copy_from_slice(body);
    let plain = by_lines(&body);
    for cuts in [&[], cuts] {
        let read = read(&body, cuts, limit, &plain);
        let all = (read.events, read.raw_bytes) == (plain.len(), body.len());
        assert!(all || read.verdict.is_err(), "the end of the body was lost");
    }
});

/// Feeds the body, each cut that many bytes behind the last one, and holds what comes against the
/// plain reading.
fn read(body: &Bytes, cuts: &[u8], limit: usize, plain: &[Plain<'_>]) -> Read {
    let mut sse = SseDecoder::new(limit);
    let mut read = Read { events: 0, raw_bytes: 0, verdict: Ok(()) };
    let mut from = 0;
    for &cut in cuts {
        let to = (from + usize::from(cut)).min(body.len());
        sse.feed(body.slice(from..to));
        read.drain(&mut sse, body, plain);
        from = to;
    }
    sse.feed(body.slice(from..));
    read.drain(&mut sse, body, plain);
    sse.end();
    read.drain(&mut sse, body, plain);
    read
}

impl Read {
    fn drain(&mut self, sse: &mut SseDecoder, body: &[u8], plain: &[Plain<'_>]) {
        while self.verdict.is_ok() {
            match sse.advance() {
                Ok(true) => self.check(&sse.event().expect("there is one"), body, plain),
                Ok(false) => return,
                Err(error) => self.verdict = Err(error),
            }
        }
    }

    fn check(&mut self, event: &Event<'_>, body: &[u8], plain: &[Plain<'_>]) {
        assert!(body[self.raw_bytes..].starts_with(event.raw));
        self.raw_bytes += event.raw.len();
        let Some(data) = event.data else { return };
        let expected = &plain[self.events];
        self.events += 1;
        assert_eq!((event.kind, event.last_id), (expected.kind, expected.last_id));
        assert_eq!(event.terminated, expected.terminated);
        match expected.data[..] {
            [line] => assert_eq!(data, line),
            _ => assert_eq!(data, expected.data.join(&b'\n')),
        }
    }
}

/// The plain reading: the body line by line.
fn by_lines(body: &[u8]) -> Vec<Plain<'_>> {
    let mut rest = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let (mut events, mut event) = (Vec::new(), Plain::default());
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| b"\r\n".contains(byte));
        let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.strip_prefix(b"\r\n").unwrap_or_else(|| after.get(1..).unwrap_or_default());
        match line {
            [] => event.dispatch(true, &mut events),
            line => event.take(line),
        }
    }
    event.dispatch(false, &mut events);
    events
}

impl<'a> Plain<'a> {
    fn take(&mut self, line: &'a [u8]) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => self.data.push(value),
            b"event" => self.kind = value,
            b"id" if !value.contains(&0) => self.last_id = value,
            _ => {}
        }
    }

    fn dispatch(&mut self, terminated: bool, events: &mut Vec<Plain<'a>>) {
        let last_id = self.last_id;
        let event = std::mem::replace(self, Plain { last_id, ..Plain::default() });
        if !event.data.is_empty() {
            events.push(Plain { terminated, ..event });
        }
    }
}
