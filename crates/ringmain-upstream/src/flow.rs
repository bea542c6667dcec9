//! The bytes of an answer as they come from its connection, and what their end means for that
//! connection.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;

use crate::call::Progress;
use crate::clock::instant;
use crate::endpoint::failure;
use crate::error::UpstreamError;
use crate::framing::Framing;
use crate::pool::{AnswerStream, Hush, Lease};

/// The body of an answer. Dropping it before its end gives the request up.
pub(crate) struct Flow {
    /// Until its end. Dropped before the lease, whose end may cut what is left of it.
    body: Option<AnswerStream>,
    framing: Framing,
    lease: Option<Lease>,
    progress: Progress,
    /// Bytes of the request's body.
    request_bytes: u64,
}

impl Flow {
    pub fn new(
        response: Response<AnswerStream>,
        lease: Lease,
        progress: Progress,
        request_bytes: u64,
    ) -> Flow {
        let framing = Framing::of(&response);
        let (body, lease) = (Some(response.into_body()), Some(lease));
        Flow { body, framing, lease, progress, request_bytes }
    }

    /// The next bytes, or `None` after a correctly framed end.
    pub fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, UpstreamError>> {
        let (Some(body), Some(lease)) = (&mut self.body, &mut self.lease) else {
            return Poll::Ready(Ok(None));
        };
        Poll::Ready(match ready!(lease.poll_body(body, cx)) {
            Some(Ok(bytes)) => {
                self.framing.saw(bytes.len());
                Ok(Some(bytes))
            }
            None => {
                let verdict = self.framing.judge(body.is_ended());
                self.body = None;
                self.end(verdict.is_ok());
                verdict.map(|()| None)
            }
            Some(Err(error)) => {
                self.body = None;
                if let Some(lease) = self.lease.take() {
                    lease.failed(failure::of_connection(&error));
                }
                Err(failure::of_body(&error))
            }
        })
    }

    /// See [`Lease::hush`].
    pub fn hush(&self) -> Option<Hush> {
        self.lease.as_ref()?.hush()
    }

    /// The body ended. The connection is free for another request if the provider also took the
    /// present one whole: it may have answered before.
    fn end(&mut self, is_whole: bool) {
        let Some(lease) = self.lease.take() else { return };
        match is_whole {
            true if self.progress.body_bytes() < self.request_bytes => drop(lease),
            true => lease.done(instant(self.progress.now_ns())),
            false => lease.failed(None),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Whoever has read all bytes that were promised need not ask for the end behind them.
        if self.framing.is_whole() {
            self.body = None;
            self.end(true);
        }
    }
}
