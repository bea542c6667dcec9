//! The bytes of an answer as they come from its connection, and what their end means for that
//! connection.

use bytes::Bytes;

use crate::call::Progress;
use crate::endpoint::failure;
use crate::error::UpstreamError;
use crate::framing::Framing;
use crate::pool::Lease;

/// The body of an answer. Dropping it before its end gives the request up.
pub(crate) struct Flow {
    /// Until its end. Dropped before the lease, whose end may cut what is left of it.
    response: Option<reqwest::Response>,
    framing: Framing,
    lease: Option<Lease>,
    progress: Progress,
    /// Bytes of the request's body.
    request_bytes: u64,
}

impl Flow {
    pub fn new(
        response: reqwest::Response,
        lease: Lease,
        progress: Progress,
        request_bytes: u64,
    ) -> Flow {
        let framing = Framing::of(&response);
        let (response, lease) = (Some(response), Some(lease));
        Flow { response, framing, lease, progress, request_bytes }
    }

    /// The next bytes, or `None` after a correctly framed end. Cancel-safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let Some(response) = &mut self.response else { return Ok(None) };
        match response.chunk().await {
            Ok(Some(bytes)) => {
                self.framing.saw(bytes.len());
                if let Some(lease) = &self.lease {
                    lease.sign();
                }
                Ok(Some(bytes))
            }
            Ok(None) => {
                let verdict = self.response.take().map_or(Ok(()), |end| self.framing.judge(end));
                self.end(verdict.is_ok());
                verdict.map(|()| None)
            }
            Err(error) => {
                self.response = None;
                if let Some(lease) = self.lease.take() {
                    lease.failed(failure::of_connection(&error));
                }
                Err(failure::of_body(error))
            }
        }
    }

    /// The body ended. The connection is free for another request if the provider also took the
    /// present one whole: it may have answered before.
    fn end(&mut self, is_whole: bool) {
        let Some(lease) = self.lease.take() else { return };
        match is_whole {
            true if self.progress.body_bytes() < self.request_bytes => drop(lease),
            true => lease.done(),
            false => lease.failed(None),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Whoever has read all bytes that were promised need not ask for the end behind them.
        if self.framing.is_whole() {
            self.response = None;
            self.end(true);
        }
    }
}
