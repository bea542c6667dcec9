//! The body of a request as its connection takes it.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use crate::call::Progress;
use crate::pool::Stream;

/// Most bytes that a connection takes at once: it counts a piece as sent when it takes it, so
/// the progress of a large body is seen in steps of this.
const PIECE_BYTES_MAX: usize = 256 * 1024;
/// The same where streams share a connection: one HTTP/2 frame of the size that every server takes.
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// Pieces of memory that leave one after the other with their exact total length, so that
/// Content-Length is set.
///
/// On a connection of their own they leave uncopied. On one that may be shared each frame takes a
/// private copy: a frame of a stream that was given up can stand half written for as long as the
/// server does not read, and the connection is not cut for it while other streams run there. The
/// memory of its caller must be back long before.
///
/// The connection's first grasp for a piece tells that the request is being sent.
#[derive(Debug)]
pub struct RequestBody {
    pieces: std::vec::IntoIter<Bytes>,
    left: u64,
    progress: Progress,
    witness: Option<Witness>,
    /// Of an HTTP/2 request.
    stream: Option<Stream>,
}

/// A piece with which its request is held.
struct Held {
    piece: Bytes,
    _stream: Stream,
}

/// The request was given up before anything of it went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the request was given up before it was sent")]
pub struct GivenUp;

/// Told the addresses of each piece as its connection takes it, for tests that ask where a body
/// stands. Of the bytes it learns nothing.
#[derive(Clone)]
pub struct Witness(Arc<dyn Fn(Range<usize>) + Send + Sync>);

impl RequestBody {
    /// The pieces in order.
    pub fn new(pieces: Vec<Bytes>, progress: Progress) -> RequestBody {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        let pieces = pieces.into_iter();
        RequestBody { pieces, left, progress, witness: None, stream: None }
    }

    /// The same with a witness.
    #[must_use]
    pub fn witnessed(self, witness: Option<Witness>) -> RequestBody {
        RequestBody { witness, ..self }
    }

    /// Bytes that were not taken yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Takes the next piece, and tells of it; `None` when all were taken.
    ///
    /// # Errors
    /// [`GivenUp`] before the first, when nothing may go out any more.
    pub(crate) fn next_piece(&mut self) -> Result<Option<Bytes>, GivenUp> {
        let most = if self.stream.is_some() { FRAME_BYTES_MAX } else { PIECE_BYTES_MAX };
        let piece = match self.pieces.as_mut_slice().first_mut() {
            Some(long) if long.len() > most => Some(long.split_to(most)),
            _ => self.pieces.next(),
        };
        let Some(piece) = piece else { return Ok(None) };
        let bytes = piece.len() as u64;
        // The memory of its caller is back long before that of a shared connection is.
        let piece = match &self.stream {
            Some(stream) => {
                let piece = Bytes::copy_from_slice(&piece);
                Bytes::from_owner(Held { piece, _stream: stream.clone() })
            }
            None => piece,
        };
        self.left -= bytes;
        // The connection holds the head back until it has asked here, so it drops both.
        if !self.progress.sends(bytes, self.left == 0) {
            return Err(GivenUp);
        }
        if let Some(witness) = &self.witness {
            witness.saw(&piece);
        }
        Ok(Some(piece))
    }

    /// From now on it is the body of a stream, which is held until the last piece is let go.
    pub(crate) fn put_on(&mut self, stream: Option<Stream>) {
        self.stream = stream;
    }
}

impl Witness {
    /// A witness that is told by a call of `tell`.
    pub fn new(tell: impl Fn(Range<usize>) + Send + Sync + 'static) -> Witness {
        Witness(Arc::new(tell))
    }

    #[cold]
    fn saw(&self, piece: &Bytes) {
        let start = piece.as_ptr().addr();
        (self.0)(start..start + piece.len());
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness(..)")
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let piece = self.get_mut().next_piece().transpose();
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmain_wire::{Sent, Stage};

    #[test]
    fn frames_of_a_shared_connection_keep_no_memory_of_the_caller() {
        let given = Bytes::from(vec![7; FRAME_BYTES_MAX * 2 + 5]);
        let lent = given.as_ptr_range();
        let mut body = RequestBody::new(vec![given], Progress::default());
        body.put_on(Some(Stream::default()));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut frames = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
            frames.push(frame.into_data().unwrap());
        }
        let sizes: Vec<_> = frames.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [FRAME_BYTES_MAX, FRAME_BYTES_MAX, 5]);
        assert!(frames.iter().all(|frame| !lent.contains(&frame.as_ptr())));
    }

    #[test]
    fn zero_copy_request_body_leaves_from_where_it_lies() {
        let given = vec![Bytes::from(vec![1; 100_000]), Bytes::from(vec![2; 10])];
        let ranges: Vec<_> = given.iter().map(|piece| piece.as_ptr_range()).collect();
        let progress = Progress::default();
        let mut body = RequestBody::new(given, progress.clone());
        assert_eq!(body.size_hint().exact(), Some(100_010));
        assert_eq!(progress.sent(), Sent::No);
        let mut context = Context::from_waker(std::task::Waker::noop());
        for (range, stage) in ranges.into_iter().zip([Stage::Send, Stage::AwaitHead]) {
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) else {
                panic!("no frame")
            };
            assert_eq!(frame.into_data().unwrap().as_ptr_range(), range);
            assert_eq!((progress.stage(), progress.sent()), (stage, Sent::Maybe));
        }
        assert!(body.is_end_stream());
        assert_eq!(progress.body_bytes(), 100_010);
    }
}
