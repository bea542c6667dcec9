//! A request on its way out.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{Method, Request};
use tokio::io::AsyncWrite;

use super::error::Error;
use super::head;
use crate::body::RequestBody;

/// Most pieces of a body that are taken at once. Each tells that it is sent when it is taken.
const PIECES_MAX: usize = 8;
/// No piece is taken beside so many bytes of others.
const TAKEN_BYTES: usize = 64 * 1024;
/// Most memory for heads that a connection keeps from one request to the next.
const HEAD_ROOM_MAX: usize = 8 * 1024;

/// What is still to be written of a request.
#[derive(Default)]
pub(super) struct Upload {
    /// The memory is kept for the next.
    head: Vec<u8>,
    /// How much of the head was written.
    written: usize,
    /// Taken from the body. Bound: see above.
    pieces: VecDeque<Bytes>,
    body: Option<RequestBody>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The connection has taken nothing of it.
    Unbegun,
    Writing,
    /// All is written, and has yet to leave.
    Flushing,
    #[default]
    Done,
    /// It will never be.
    GivenUp,
}

impl Upload {
    /// Takes a request.
    pub fn begin(&mut self, request: Request<RequestBody>) {
        let (length, has_body) = (request.body().left(), request.method() == Method::POST);
        self.head.clear();
        head::write(&mut self.head, &request, has_body.then_some(length));
        self.pieces.clear();
        (self.written, self.body) = (0, Some(request.into_body()));
        self.stage = Stage::Unbegun;
    }

    /// Whether the connection has taken nothing of it.
    pub fn is_unbegun(&self) -> bool {
        self.stage == Stage::Unbegun
    }

    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Writes what the connection takes.
    pub fn poll<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        // Bound: each round writes bytes.
        while matches!(self.stage, Stage::Unbegun | Stage::Writing) {
            // The body first: it may have been given up, and then the head does not go out either.
            self.take()?;
            if self.is_written() {
                self.body = None;
                self.stage = Stage::Flushing;
                break;
            }
            let bytes = ready!(self.poll_write(io, cx))?;
            self.stage = Stage::Writing;
            self.wrote(bytes);
        }
        if self.stage == Stage::Flushing {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.stage = Stage::Done;
            if self.head.capacity() > HEAD_ROOM_MAX {
                self.head = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Lets go of what was not written: the connection takes no other request.
    pub fn give_up(&mut self) {
        self.pieces.clear();
        self.body = None;
        if self.stage != Stage::Done {
            self.stage = Stage::GivenUp;
        }
    }

    /// Takes pieces of the body.
    fn take(&mut self) -> Result<(), Error> {
        let Some(body) = &mut self.body else { return Ok(()) };
        let mut bytes: usize = self.pieces.iter().map(Bytes::len).sum();
        while bytes < TAKEN_BYTES && self.pieces.len() < PIECES_MAX {
            let Some(piece) = body.next_piece()? else { break };
            bytes += piece.len();
            if !piece.is_empty() {
                self.pieces.push_back(piece);
            }
        }
        Ok(())
    }

    /// Whether all that was taken is.
    fn is_written(&self) -> bool {
        self.written == self.head.len() && self.pieces.is_empty()
    }

    fn poll_write<T: AsyncWrite + Unpin>(
        &self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); PIECES_MAX + 1];
        slices[0] = IoSlice::new(&self.head[self.written..]);
        for (slice, piece) in slices[1..].iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        let from = usize::from(slices[0].is_empty());
        let slices = &slices[from..=self.pieces.len()];
        match ready!(Pin::new(io).poll_write_vectored(cx, slices))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            bytes => Poll::Ready(Ok(bytes)),
        }
    }

    fn wrote(&mut self, bytes: usize) {
        let of_head = bytes.min(self.head.len() - self.written);
        self.written += of_head;
        let mut left = bytes - of_head;
        while let Some(piece) = self.pieces.front_mut()
            && left > 0
        {
            let of_piece = left.min(piece.len());
            left -= of_piece;
            piece.advance(of_piece);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

/// Without the head, in which the credential stands.
impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("stage", &self.stage)
            .field("head_bytes", &self.head.len())
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}
