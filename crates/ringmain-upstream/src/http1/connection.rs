//! One connection, for one request after the other.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;

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
/// Most memory for what is read that is kept when nothing of it is in use.
const KEPT_BYTES: usize = 2 * READ_BYTES;
/// Reads in a row that `READ_BYTES` would have done for, after which the burst is over.
const CALM_READS: u32 = 64;
/// Most interim answers (1xx) before an answer. Servers send signs of life as such; what bounds
/// them in time is the limit on the head.
pub(super) const INTERIM_MAX: u32 = 4096;

/// A connection over `T`.
pub(crate) struct Connection<T> {
    io: T,
    /// What was read and not yet given out. Bound: one read, and what lay there before it of a
    /// head, an extension or a trailer that is not whole.
    read: BytesMut,
    /// The memory behind it, that of what was given out included.
    held: usize,
    /// How much is read at once.
    room: usize,
    /// Reads in a row that were small.
    calm: u32,
    upload: Upload,
    /// Why the request could not be written to its end. The answer may tell more.
    unwritten: Option<Error>,
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
        let (read, held, upload) = (BytesMut::new(), 0, Upload::default());
        let (room, calm, unwritten) = (READ_BYTES, 0, None);
        Connection { io, read, held, room, calm, upload, unwritten, state: State::Idle }
    }

    /// Whether it takes a request: not while it has one, nor ever after its end or words that nobody
    /// asked for. Whoever asks is woken by either, and when it cannot be told yet.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        // Not one that was answered before its request was written to its end.
        if self.state != State::Idle || !self.upload.is_done() {
            return Poll::Ready(false);
        }
        let is_silent = self.poll_silent(cx);
        if is_silent == Poll::Ready(false) {
            self.fail();
        }
        is_silent
    }

    /// Whether nothing was said that is not read. It cannot be told without budget: the runtime
    /// then shows every connection as silent, and wakes the task for another look.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut byte = [0];
        if !self.read.is_empty()
            || Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_ready()
        {
            return Poll::Ready(false);
        }
        if has_budget_remaining() { Poll::Ready(true) } else { Poll::Pending }
    }

    /// Sends a request, whose address is what its first line is to say, and waits for the head of
    /// the answer. After a call that was dropped the connection is of no use. The request is taken
    /// at once, and is no part of what is waited for.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<()>, Unanswered>> {
        self.upload.begin(request);
        self.unwritten = None;
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
        // Looked at again while nothing has gone out: what comes before the request is no answer.
        if self.upload.is_unbegun() && !ready!(self.poll_silent(cx)) {
            return Poll::Ready(Err(Unanswered::Unsent));
        }
        if let Poll::Ready(Err(error)) = self.upload.poll(&mut self.io, cx) {
            if self.upload.is_unbegun() {
                return Poll::Ready(Err(Unanswered::Broken(error)));
            }
            // A server that has stopped reading may have answered before, or still do.
            self.upload.give_up();
            self.unwritten = Some(error);
        }
        let head = ready!(self.poll_head(cx));
        Poll::Ready(
            head.map_err(|error| Unanswered::Broken(self.unwritten.take().unwrap_or(error))),
        )
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
        if body.is_over() {
            self.end();
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = version;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// The next bytes of the answer; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        // Bound: each round reads bytes, and those that are no body have limits.
        loop {
            let State::Answered(body) = &mut self.state else { return Poll::Ready(None) };
            match body.take(&mut self.read) {
                Ok(Taken::Piece(piece)) => {
                    // Whoever knows the length does not ask for the end.
                    if body.is_over() {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
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
        // Not kept for the next burst: most connections never see another.
        self.calm_down();
    }

    /// Lets go of memory that was taken for a burst, or a long head.
    fn calm_down(&mut self) {
        // What came behind the end was not asked for, and has the connection ended.
        if self.held > KEPT_BYTES && self.read.is_empty() {
            (self.read, self.held) = (BytesMut::new(), 0);
        }
        (self.room, self.calm) = (READ_BYTES, 0);
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
        if self.held > KEPT_BYTES && self.calm >= CALM_READS {
            self.calm_down();
        }
        // The memory of what was given out is used again, if nobody has it any more.
        if self.read.capacity() - self.read.len() < self.room / 2 {
            self.read.reserve(self.room);
            self.held = self.held.max(self.read.capacity());
        }
        let space = self.read.capacity() - self.read.len();
        let bytes = ready!(pin!(self.io.read_buf(&mut self.read)).poll(cx))?;
        if bytes == space {
            (self.room, self.calm) = (BURST_BYTES, 0);
        } else if bytes > READ_BYTES {
            self.calm = 0;
        } else {
            self.calm += 1;
        }
        Poll::Ready(Ok(bytes))
    }

    /// Ends the connection in the way of its transport, and is ready when that is done.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.io).poll_shutdown(cx).map(|_| ())
    }
}

/// Without what was read, which is its reader's alone.
impl<T> fmt::Debug for Connection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("state", &self.state)
            .field("read_bytes", &self.read.len())
            .field("upload", &self.upload)
            .finish_non_exhaustive()
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

    /// Bytes of memory for what is read, those that were given out included.
    pub(super) fn memory(&self) -> usize {
        self.held
    }
}
