//! Any bytes as what comes over a connection, whole and cut: for tests and for the fuzzer.

use bytes::{Bytes, BytesMut};

use super::body::{Body, Taken};
use super::head;

/// How an answer was read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Played {
    statuses: Vec<u16>,
    fields: usize,
    body: Vec<u8>,
    end: End,
    /// Bytes behind the end.
    rest: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Wants,
    Whole,
    /// In these words.
    Faulty(String),
}

/// Most interim heads that are played.
const HEADS_MAX: usize = 4;

/// The first byte says in how many pieces the others come, at most seven, and as many follow that
/// say how long each is.
pub fn play(data: &[u8]) {
    let Some((&pieces, rest)) = data.split_first() else { return };
    let Some((cuts, text)) = rest.split_at_checked(usize::from(pieces & 7)) else { return };
    let whole = read(&[], text);
    assert_eq!(whole, read(cuts, text), "an answer does not depend on how it is cut");
    assert!(whole.body.len() + whole.rest <= text.len(), "no byte is read twice");
    assert!(matches!(whole.end, End::Whole | End::Faulty(_)) || whole.rest == 0);
}

fn read(cuts: &[u8], text: &[u8]) -> Played {
    let (mut played, mut from) = (Played::default(), 0);
    let (mut buffer, mut searched, mut body) = (BytesMut::new(), 0, None);
    let ends = cuts.iter().map(|&cut| usize::from(cut));
    for bytes in ends.chain([text.len()]) {
        let to = (from + bytes).min(text.len());
        buffer.extend_from_slice(&text[from..to]);
        from = to;
        if played.end == End::Wants {
            played.end = go_on(&mut played, &mut buffer, &mut searched, &mut body);
        }
    }
    if played.end == End::Whole {
        played.rest = buffer.len();
    }
    played
}

fn go_on(
    played: &mut Played,
    buffer: &mut BytesMut,
    searched: &mut usize,
    body: &mut Option<Body>,
) -> End {
    while body.is_none() && played.statuses.len() < HEADS_MAX {
        let head = match head::read(buffer, searched) {
            Ok(Some(head)) => head,
            Ok(None) => return End::Wants,
            Err(fault) => return End::Faulty(fault.to_string()),
        };
        played.statuses.push(head.status.as_u16());
        played.fields += head.headers.len();
        if !head.status.is_informational() {
            match Body::of(head.status, head.version, &head.headers) {
                Ok(found) => *body = Some(found),
                Err(fault) => return End::Faulty(fault.to_string()),
            }
        }
    }
    let Some(body) = body else { return End::Whole };
    // Bound: each round takes bytes, or is the last.
    loop {
        match body.take(buffer) {
            Ok(Taken::Piece(piece)) => played.took(&piece),
            Ok(Taken::Wants) => return End::Wants,
            Ok(Taken::End) => return End::Whole,
            Err(fault) => return End::Faulty(fault.to_string()),
        }
    }
}

impl Played {
    fn took(&mut self, piece: &Bytes) {
        assert!(!piece.is_empty());
        self.body.extend_from_slice(piece);
    }
}
