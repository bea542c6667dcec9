//! What is held back until it is known that the answer is to be this one.

use ringmain_wire::{Kind, ResponseHead};

use crate::log_id::{LogId, TEXT_BYTES};
use crate::record::Record;

/// Most events that are held.
const EVENTS_MAX: usize = 64;
/// Most bytes that are held.
const BYTES_MAX: usize = 256 * 1024;

/// The head of an answer and what came before its first content: comments, lifecycle events, signs
/// of life. They are written in order when content comes; if none comes, another attempt may take
/// their place.
// Bound: `EVENTS_MAX` and `BYTES_MAX`.
#[derive(Debug)]
pub(crate) struct Window {
    pub head: HeldHead,
    pieces: Vec<(Kind, u16, usize)>,
    bytes: Vec<u8>,
}

/// The head of an answer: what it says of itself, and under which id it came.
#[derive(Debug, Default)]
pub(crate) struct HeldHead {
    pub id: LogId,
    pub status: u16,
    pub content_type: String,
    pub request_id: Option<String>,
    pub headers: Vec<(String, String)>,
}

impl HeldHead {
    /// Shows the head that the caller is given.
    pub fn show<T>(&self, record: &Record, to: impl FnOnce(&ResponseHead<'_>) -> T) -> T {
        let mut id = [0; TEXT_BYTES];
        let mut head = ResponseHead::default();
        head.status = self.status;
        head.attempt = record.attempts;
        head.log_id = self.id.text(&mut id);
        head.route = &record.route;
        head.endpoint = &record.endpoint;
        head.content_type = &self.content_type;
        head.upstream_request_id = self.request_id.as_deref();
        let headers = self.headers.iter();
        head.headers = headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        to(&head)
    }
}

impl Window {
    /// A window that holds the head alone.
    pub fn new(head: HeldHead) -> Window {
        Window { head, pieces: Vec::new(), bytes: Vec::new() }
    }

    /// Holds one piece back. False when it does not fit any more: the window is over.
    pub fn hold(&mut self, kind: Kind, choice: u16, payload: &[u8]) -> bool {
        let fits = self.pieces.len() < EVENTS_MAX && self.bytes.len() + payload.len() <= BYTES_MAX;
        if fits {
            self.pieces.push((kind, choice, payload.len()));
            self.bytes.extend_from_slice(payload);
        }
        fits
    }

    /// What was held, in order.
    pub fn pieces(&self) -> impl Iterator<Item = (Kind, u16, &[u8])> {
        let mut rest = &self.bytes[..];
        self.pieces.iter().map(move |(kind, choice, bytes)| {
            let (payload, after) = rest.split_at(*bytes);
            rest = after;
            (*kind, *choice, payload)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_out_in_order() {
        let mut window = Window::new(HeldHead::default());
        assert!(window.hold(Kind::Event, 0, b"ab") && window.hold(Kind::Event, 1, b""));
        assert!(window.hold(Kind::Usage, 2, b"c"));
        let pieces: Vec<_> = window.pieces().collect();
        let expected: [(Kind, u16, &[u8]); 3] =
            [(Kind::Event, 0, b"ab"), (Kind::Event, 1, b""), (Kind::Usage, 2, b"c")];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn a_window_ends_at_its_bounds() {
        let mut window = Window::new(HeldHead::default());
        assert!((0..EVENTS_MAX).all(|_| window.hold(Kind::Event, 0, b": ping\n")));
        assert!(!window.hold(Kind::Event, 0, b""));
        let mut window = Window::new(HeldHead::default());
        assert!(window.hold(Kind::Event, 0, &vec![0; BYTES_MAX]));
        assert!(!window.hold(Kind::Event, 0, b"x") && window.hold(Kind::Event, 0, b""));
    }
}
