//! Bodies that are something else than the answer asked for, or are coded in a way of their own.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Act, Part, StageEnd, Staged, concat, upto};
use crate::fault::Fault;
use crate::plan::Piece;
use crate::render;

const COMMENT: &str = ": PROCESSING\n\n";
/// Time between two comments.
const COMMENT_MS: u64 = 10;
/// Bytes of one write of something endless.
const BLOCK_BYTES: usize = 256 << 10;

pub(super) fn stage(fault: Fault, parts: Vec<Part>, before: u64) -> Staged {
    let some = || upto(&parts, before).into_iter().map(Act::from);
    let comment = || Act::write(COMMENT).after(COMMENT_MS);
    match fault {
        Fault::ErrorObject | Fault::ErrorThenFine => {
            let mut staged = Staged::new([Act::write(error().to_string())], StageEnd::Whole);
            staged.is_json = true;
            staged
        }
        Fault::ErrorFirst => {
            let event = format!("data: {}\n\n", error());
            Staged::new([Act::write(event)], StageEnd::Whole)
        }
        Fault::ErrorLines => {
            // Cannot fail: a value is JSON.
            let lines = serde_json::to_string_pretty(&error()).unwrap_or_default();
            let lines = lines.replace('\n', "\ndata: ");
            let event = Act::write(format!("data: {lines}\n\n"));
            Staged::new(some().chain([event]), StageEnd::Whole)
        }
        Fault::EndlessLine => {
            let block = Act::write(vec![b'x'; BLOCK_BYTES]);
            let start = Act::write("data: {\"x\":\"");
            Staged::new(some().chain([start]), StageEnd::Hold).repeating(block)
        }
        Fault::OnlyComments => Staged::new([comment()], StageEnd::Hold).repeating(comment()),
        Fault::OnlyRole => {
            let role = parts.into_iter().take(1).map(Act::from);
            Staged::new(role, StageEnd::Hold)
        }
        Fault::PingsAfter => Staged::new(some(), StageEnd::Hold).repeating(comment()),
        Fault::InvalidUtf8 => {
            let event =
                b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xff\xfe\"}}]}\n\n";
            let wrong = Act::write(*event);
            let rest = parts[upto(&parts, before).len()..].iter().cloned().map(Act::from);
            Staged::new(some().chain([wrong]).chain(rest), StageEnd::Whole)
        }
        Fault::DoneOnly => {
            let done = parts.into_iter().filter(|part| part.piece == Piece::Done);
            Staged::new(done.map(Act::from), StageEnd::Whole)
        }
        _ => {
            let next = parts.get(upto(&parts, before).len());
            let half = next.map(|part| Act::write(&part.bytes[..part.bytes.len() / 2]));
            Staged::new(some().chain(half), StageEnd::Whole)
        }
    }
}

/// Bodies under a content encoding.
pub(super) fn coded(fault: Fault, parts: &[Part]) -> Staged {
    let plain = concat(parts);
    // What nobody can read holds no tokens.
    let cut = |bytes: Vec<u8>| Staged::new([Act::write(bytes)], StageEnd::Whole);
    match fault {
        Fault::GzipBomb => bomb().encoded("gzip"),
        Fault::GzipWrong => cut(plain).encoded("gzip"),
        Fault::GzipTruncated => {
            let mut bytes = gzip(&plain);
            bytes.truncate(bytes.len() / 2);
            cut(bytes).encoded("gzip")
        }
        Fault::GzipCorrupt => {
            let mut bytes = gzip(&plain);
            let middle = bytes.len() / 2;
            bytes[middle..middle + 16].fill(0xff);
            cut(bytes).encoded("gzip")
        }
        _ => cut(plain).encoded("x-own"),
    }
}

/// A stream of gzip that stands for a line without an end. Each block after the first ones is the
/// same, for what it repeats is the same.
fn bomb() -> Staged {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut block = |bytes: &[u8]| {
        // Writing to a vector cannot fail.
        let _ = encoder.write_all(bytes).and_then(|()| encoder.flush());
        Act::write(std::mem::take(encoder.get_mut()))
    };
    let xs = vec![b'x'; BLOCK_BYTES];
    let start = [block(b"data: {\"x\":\""), block(&xs)];
    let again = block(&xs);
    Staged::new(start, StageEnd::Hold).repeating(again)
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default()
}

fn error() -> serde_json::Value {
    render::error_object("the simulated engine is overloaded", "overloaded_error")
}
