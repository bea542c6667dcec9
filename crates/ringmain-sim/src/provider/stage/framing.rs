//! HTTP/1.1 byte for byte: heads and framings that no server library would write.

use super::{Act, Part, StageEnd, Staged, concat, tokens, upto};
use crate::fault::Fault;

const OK: &str = "HTTP/1.1 200 OK\r\n";
const TYPE: &str = "content-type: text/event-stream\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n";
/// What is too much of anything in a head.
const HUGE_BYTES: usize = 1 << 20;

pub(super) fn stage(fault: Fault, parts: &[Part], before: u64) -> Staged {
    let answer = Answer { whole: concat(parts), tokens: tokens(parts), some: upto(parts, before) };
    let mut staged = match fault {
        Fault::DripHead => answer.drip(),
        Fault::EarlyHints | Fault::ManyHints | Fault::Http10 | Fault::Trailers => {
            answer.well_meant(fault)
        }
        Fault::ChunkedAndLength | Fault::ChunkUnended | Fault::UntilClose | Fault::Surplus => {
            answer.well_meant(fault)
        }
        Fault::ChunkTruncated | Fault::ChunkBad | Fault::ChunkHuge | Fault::ChunkExtension => {
            answer.bad_chunk(fault)
        }
        Fault::LengthLong | Fault::LengthShort | Fault::LengthTwice | Fault::LengthBad => {
            answer.bad_length(fault)
        }
        Fault::UntilCloseCut => {
            let head = format!("{OK}{TYPE}connection: close\r\n\r\n");
            answer.cut(head, answer.some_bytes(), StageEnd::Break)
        }
        _ => answer.bad_head(fault),
    };
    staged.is_verbatim = true;
    staged
}

/// What is to be said one way or the other.
struct Answer {
    whole: Vec<u8>,
    tokens: u64,
    some: Vec<Part>,
}

impl Answer {
    fn some_bytes(&self) -> Vec<u8> {
        concat(&self.some)
    }

    /// A head and the whole body behind it.
    fn all(&self, head: String, body: Vec<u8>, end: StageEnd) -> Staged {
        let body = Act { tokens: self.tokens, is_marker: true, ..Act::write(body) };
        Staged::new([Act::write(head), body], end)
    }

    /// A head and a part of the body behind it.
    fn cut(&self, head: String, body: Vec<u8>, end: StageEnd) -> Staged {
        let body = Act { tokens: tokens(&self.some), ..Act::write(body) };
        Staged::new([Act::write(head), body], end)
    }

    fn drip(&self) -> Staged {
        let head = format!("{OK}{TYPE}{CHUNKED}\r\n");
        let mut acts: Vec<Act> = head.bytes().map(|byte| Act::write([byte])).collect();
        let body = Act::write(chunked(&self.whole, "0\r\n\r\n"));
        acts.push(Act { tokens: self.tokens, is_marker: true, ..body });
        Staged::new(acts, StageEnd::Whole)
    }

    fn well_meant(&self, fault: Fault) -> Staged {
        let plain = format!("{OK}{TYPE}{CHUNKED}\r\n");
        let body = |last: &str| chunked(&self.whole, last);
        let hint = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
        let until_close = |version: &str| {
            let head = format!("{version} 200 OK\r\n{TYPE}connection: close\r\n\r\n");
            self.all(head, self.whole.clone(), StageEnd::Break)
        };
        match fault {
            Fault::EarlyHints => {
                let head = format!("HTTP/1.1 100 Continue\r\n\r\n{hint}{plain}");
                self.all(head, body("0\r\n\r\n"), StageEnd::Whole)
            }
            Fault::ManyHints => {
                self.all(hint.repeat(1000) + &plain, body("0\r\n\r\n"), StageEnd::Whole)
            }
            Fault::Http10 => until_close("HTTP/1.0"),
            Fault::UntilClose => until_close("HTTP/1.1"),
            Fault::Trailers => {
                self.all(plain, body("0\r\nx-sum: 1\r\nx-more: 2\r\n\r\n"), StageEnd::Whole)
            }
            Fault::ChunkedAndLength => {
                let head = format!("{OK}{TYPE}{CHUNKED}content-length: 5\r\n\r\n");
                self.all(head, body("0\r\n\r\n"), StageEnd::Break)
            }
            Fault::Surplus => {
                let surplus = "0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nsurplus";
                self.all(plain, body(surplus), StageEnd::Whole)
            }
            _ => self.all(plain, body(""), StageEnd::Break),
        }
    }

    fn bad_chunk(&self, fault: Fault) -> Staged {
        let head = format!("{OK}{TYPE}{CHUNKED}\r\n");
        let mut body = chunked(&self.some_bytes(), "");
        match fault {
            Fault::ChunkTruncated => body.extend(b"fff\r\ndata: {"),
            Fault::ChunkBad => body.extend(b"zz\r\ndata: {\r\n"),
            Fault::ChunkHuge => body.extend(b"1ffffffffffffffff\r\ndata: {"),
            _ => {
                body.extend(b"5;");
                body.extend(std::iter::repeat_n(b'x', HUGE_BYTES));
                body.extend(b"\r\ndata:\r\n");
            }
        }
        self.cut(head, body, StageEnd::Break)
    }

    fn bad_length(&self, fault: Fault) -> Staged {
        let (all, some) = (self.whole.len(), self.some_bytes());
        let length = |length: &str| format!("{OK}{TYPE}content-length: {length}\r\n\r\n");
        match fault {
            Fault::LengthLong => self.cut(length(&all.to_string()), some, StageEnd::Break),
            Fault::LengthShort => {
                let head = length(&some.len().to_string());
                self.cut(head, self.whole.clone(), StageEnd::Break)
            }
            Fault::LengthTwice => {
                let head = length(&format!("{all}\r\ncontent-length: {}", all + 1));
                self.all(head, self.whole.clone(), StageEnd::Break)
            }
            _ => self.all(length("some"), self.whole.clone(), StageEnd::Break),
        }
    }

    fn bad_head(&self, fault: Fault) -> Staged {
        let end = format!("{TYPE}{CHUNKED}\r\n");
        let head = match fault {
            Fault::CutHead => "HTTP/1.1 200 OK\r\ncontent-ty".to_owned(),
            Fault::HugeHeader => format!("{OK}x-huge: {}\r\n{end}", "h".repeat(HUGE_BYTES)),
            Fault::ManyHeaders => {
                let many: String = (0..500).map(|n| format!("x-many-{n}: 1\r\n")).collect();
                format!("{OK}{many}{end}")
            }
            Fault::BadStatusLine => format!("HTTP/1.1 OK fine\r\n{end}"),
            Fault::BadHeader => format!("{OK}this line has no colon\r\n{end}"),
            _ => {
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n"
                    .to_owned()
            }
        };
        match fault {
            Fault::CutHead | Fault::Switching => Staged::new([Act::write(head)], StageEnd::Break),
            _ => {
                let body = chunked(&self.whole, "0\r\n\r\n");
                Staged::new([Act::write(head), Act::write(body)], StageEnd::Break)
            }
        }
    }
}

/// A body in one chunk, and what comes behind it.
fn chunked(body: &[u8], last: &str) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(last.as_bytes());
    out
}
