//! One connection, for one request after the other.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::body::{Body, Taken};
use super::error::{Error, HeadFault};
use super::head::{self, Head};
use super::upload::Upload;
use crate::body::RequestBody;

/// Bytes that are read at once, and once a read has filled them. A burst of hundreds of chunks then
/// comes with one read, and is still near the CPU when it is decoded: with six times as much it
/// takes a tenth longer.
const READ_BYTES: usize = 8 * 1024;
const BURST_BYTES: usize = 64 * 1024;
/// Most interim answers (1xx) before an answer. Servers send signs of life as such; what bounds
/// them in time is the limit on the head.
pub(super) const INTERIM_MAX: u32 = 4096;

/// A connection over `T`.
#[derive(Debug)]
pub(crate) struct Connection<T> {
    io: T,
    /// What was read and not yet given out. Bound: `BURST_BYTES` and what one read finds of a head,
    /// a line of chunks or trailers that is not whole.
    read: BytesMut,
    /// How much is read at once.
    room: usize,
    upload: Upload,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// The head of the answer is waited for: how far its end was looked for in what was read, and
    /// how many interim answers came.
    Asked {
        searched: usize,
        interim: u32,
    },
    /// Its body.
    Answered(Body),
    /// It takes no other request.
    Over,
}

/// Why a request was not answered.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Nothing of it was sent.
    Unsent,
    Broken(Error),
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// A connection on which nothing was said yet.
    pub fn new(io: T) -> Connection<T> {
        let (read, upload) = (BytesMut::new(), Upload::default());
        Connection { io, read, room: READ_BYTES, upload, state: State::Idle }
    }

    /// Whether it takes a request: not while it has one, nor after its end or words that nobody
    /// asked for. Whoever asks is woken by either.
    pub fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        // Not one that was answered before it was written to its end.
        self.state == State::Idle && self.upload.is_done() && self.is_silent(cx)
    }

    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        self.read.is_empty()
            && Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Sends a request, whose address is what its first line is to say, and waits for the head of
    /// the answer. After a call that was dropped the connection is of no use. The request is taken
    /// at once, and is no part of what is waited for.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<()>, Unanswered>> {
        self.upload.begin(request);
        self.state = State::Asked { searched: 0, interim: 0 };
        poll_fn(|cx| {
            let answered = self.poll_answer(cx);
            if let Poll::Ready(Err(_)) = answered {
                self.fail();
            }
            answered
        })
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Unanswered>> {
        if self.upload.is_unbegun() && !self.is_silent(cx) {
            return Poll::Ready(Err(Unanswered::Unsent));
        }
        let written = self.upload.poll(&mut self.io, cx);
        if let Poll::Ready(Err(Error::GivenUp(given_up))) = written {
            return Poll::Ready(Err(Unanswered::Broken(given_up.into())));
        }
        // A server may have answered before it stopped reading: its words count.
        match (self.poll_head(cx), written) {
            (Poll::Ready(Ok(head)), _) => Poll::Ready(Ok(head)),
            (_, Poll::Ready(Err(error))) | (Poll::Ready(Err(error)), _) => {
                Poll::Ready(Err(Unanswered::Broken(error)))
            }
            (Poll::Pending, _) => Poll::Pending,
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Error>> {
        // Bound: each round reads bytes, of which a head has a limit, or takes an interim answer.
        while let State::Asked { searched, interim } = &mut self.state {
            let head = head::read(&mut self.read, searched).map_err(Error::Head)?;
            match head.map(|head| (head.status, head)) {
                Some((StatusCode::SWITCHING_PROTOCOLS, _)) => {
                    return Poll::Ready(Err(Error::Head(HeadFault::Switched)));
                }
                Some((status, _)) if status.is_informational() => {
                    *interim += 1;
                    if *interim > INTERIM_MAX {
                        return Poll::Ready(Err(Error::Head(HeadFault::Interim)));
                    }
                }
                Some((_, head)) => return Poll::Ready(self.answered(head)),
                None => {
                    if ready!(self.poll_read(cx))? == 0 {
                        break;
                    }
                }
            }
        }
        Poll::Ready(Err(Error::Headless))
    }

    fn answered(&mut self, head: Head) -> Result<Response<()>, Error> {
        let Head { status, version, headers } = head;
        let body = Body::of(status, version, &headers).map_err(Error::Head)?;
        self.state = State::Answered(body);
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = version;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// The next bytes of the answer; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        // Bound: each round reads bytes, of which what is no body has a limit.
        loop {
            let State::Answered(body) = &mut self.state else { return Poll::Ready(None) };
            match body.take(&mut self.read) {
                Ok(Taken::Piece(piece)) => return Poll::Ready(Some(Ok(piece))),
                Ok(Taken::End) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Ok(Taken::Wants) => {}
                Err(error) => return Poll::Ready(Some(Err(self.failed(error)))),
            }
            // An answer may come while its request is still written. What cannot be written then
            // is not missed: the answer tells.
            if !self.upload.is_done()
                && let Poll::Ready(Err(_)) = self.upload.poll(&mut self.io, cx)
            {
                self.upload.give_up();
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) if self.state == State::Answered(Body::UntilClose) => {
                    self.fail();
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(self.failed(Error::Cut)))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(self.failed(error.into())))),
            }
        }
    }

    /// The body was read to its end.
    fn end(&mut self) {
        self.state = State::Idle;
        // Not kept for the next burst: most connections never see another. What came behind the end
        // was not asked for, and has the connection ended.
        if self.room > READ_BYTES && self.read.is_empty() {
            (self.read, self.room) = (BytesMut::new(), READ_BYTES);
        }
    }

    fn failed(&mut self, error: Error) -> Error {
        self.fail();
        error
    }

    fn fail(&mut self) {
        self.state = State::Over;
        self.upload.give_up();
    }

    /// How many bytes came; none at the end of the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // The memory of what was given out is used again, if nobody has it any more.
        if self.read.capacity() - self.read.len() < self.room / 2 {
            self.read.reserve(self.room);
        }
        let space = self.read.capacity() - self.read.len();
        let bytes = ready!(pin!(self.io.read_buf(&mut self.read)).poll(cx))?;
        if bytes == space {
            self.room = BURST_BYTES;
        }
        Poll::Ready(Ok(bytes))
    }

    /// Ends the connection in the way of its transport, and is ready when that is done.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.io).poll_shutdown(cx).map(|_| ())
    }
}

#[cfg(test)]
impl<T> Connection<T> {
    pub(super) fn io(&self) -> &T {
        &self.io
    }

    pub(super) fn io_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// Memory for what is read.
    pub(super) fn buffered_room(&self) -> usize {
        self.read.capacity()
    }
}
