//! What an HTTP/2 server says first: how many streams it takes at once.
//!
//! The HTTP library keeps a stream that is too much until another has ended, and tells nobody; a
//! request would wait there while it could be served over a connection of its own. So the one
//! SETTINGS frame that every server begins with (RFC 9113, 3.4) is read here on its way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

/// Bytes of the head of a frame.
const HEAD_BYTES: usize = 9;
/// Most bytes of a frame that nobody has agreed on a larger size for (RFC 9113, 4.2).
const FRAME_BYTES_MAX: usize = HEAD_BYTES + 16_384;
/// Most bytes read at once until the frame is whole.
const STEP_BYTES: usize = 256;
/// The type of a SETTINGS frame, and its flag of an acknowledgement.
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
/// Bytes of one setting, and the number of the one that counts here.
const SETTING_BYTES: usize = 6;
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// Told once, unless what comes is no greeting: the limit of the server, `None` if it has none.
pub(super) type Tell = Box<dyn FnOnce(Option<u32>) + Send>;

/// A connection whose server is heard out.
pub(super) struct Greeted<T> {
    below: T,
    greeting: Option<Greeting>,
}

struct Greeting {
    /// What has come of the frame. Bound: `FRAME_BYTES_MAX`, and one step.
    seen: Vec<u8>,
    tell: Tell,
}

impl<T> Greeted<T> {
    pub fn new(below: T, tell: Tell) -> Greeted<T> {
        Greeted { below, greeting: Some(Greeting { seen: Vec::new(), tell }) }
    }
}

/// What the first bytes of a server say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// The frame is not whole yet.
    Part,
    /// No greeting; the HTTP library judges it.
    Other,
    Limit(Option<u32>),
}

fn said(seen: &[u8]) -> Said {
    let Some((head, rest)) = seen.split_first_chunk::<HEAD_BYTES>() else { return Said::Part };
    let [high, mid, low, kind, flags, ..] = *head;
    let bytes = u32::from_be_bytes([0, high, mid, low]) as usize;
    let is_settings = kind == SETTINGS && flags & ACK == 0 && bytes <= FRAME_BYTES_MAX - HEAD_BYTES;
    if !is_settings {
        return Said::Other;
    }
    let Some(settings) = rest.get(..bytes) else { return Said::Part };
    // The last one of a kind holds (RFC 9113, 6.5.3).
    let limit = settings.chunks_exact(SETTING_BYTES).rev().find_map(|setting| match *setting {
        [high, low, a, b, c, d] if u16::from_be_bytes([high, low]) == MAX_CONCURRENT_STREAMS => {
            Some(u32::from_be_bytes([a, b, c, d]))
        }
        _ => None,
    });
    Said::Limit(limit)
}

impl<T: Read + Unpin> Read for Greeted<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Greeted { below, greeting } = self.get_mut();
        let Some(Greeting { seen, .. }) = greeting else {
            return Pin::new(below).poll_read(cx, buffer);
        };
        let mut bytes = [0; STEP_BYTES];
        let room = buffer.remaining().min(STEP_BYTES);
        let mut step = ReadBuf::new(&mut bytes[..room]);
        let polled = Pin::new(below).poll_read(cx, step.unfilled());
        if let Poll::Ready(Ok(())) = polled {
            buffer.put_slice(step.filled());
            seen.extend_from_slice(step.filled());
            match said(seen) {
                Said::Part => {}
                Said::Other => *greeting = None,
                Said::Limit(limit) => {
                    if let Some(greeting) = greeting.take() {
                        (greeting.tell)(limit);
                    }
                }
            }
        }
        polled
    }
}

impl<T: Write + Unpin> Write for Greeted<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().below).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().below).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.below.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().below).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().below).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, settings: &[(u16, u32)]) -> Vec<u8> {
        let bytes = settings.len() * SETTING_BYTES;
        let mut frame = vec![0, (bytes >> 8) as u8, bytes as u8, kind, flags, 0, 0, 0, 0];
        for (number, value) in settings {
            frame.extend(number.to_be_bytes());
            frame.extend(value.to_be_bytes());
        }
        frame
    }

    #[test]
    fn the_limit_is_found_however_the_frame_is_cut() {
        let greetings = [
            (frame(SETTINGS, 0, &[(1, 4096), (3, 100), (4, 65_535)]), Some(100)),
            (frame(SETTINGS, 0, &[(3, 100), (3, 5)]), Some(5)),
            (frame(SETTINGS, 0, &[(4, 65_535)]), None),
            (frame(SETTINGS, 0, &[]), None),
        ];
        for (frame, limit) in greetings {
            for cut in 0..frame.len() {
                assert_eq!(said(&frame[..cut]), Said::Part, "{frame:?} cut at {cut}");
            }
            assert_eq!(said(&frame), Said::Limit(limit), "{frame:?}");
        }
        let endless = vec![0xff, 0xff, 0xff, SETTINGS, 0, 0, 0, 0, 0];
        let acknowledged = frame(SETTINGS, ACK, &[]);
        let data = frame(0, 0, &[(3, 7)]);
        for other in [endless, acknowledged, data, b"HTTP/1.1 400 Bad Request".to_vec()] {
            assert_eq!(said(&other), Said::Other, "{other:?}");
        }
    }
}
