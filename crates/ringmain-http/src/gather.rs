//! Answers to HTTP/1.0, which has no chunks: without a length the end of the connection is the end
//! of the answer, and a broken one looks whole. What is not an event stream, whose own end can be
//! told, is kept until it is whole and has a length then.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use ringmain_broker::face::{Charged, Charger, Failure};
use ringmain_wire::{Code, Stage};

use crate::refusal::Refusal;
use crate::running::Running;

/// Memory is taken, and charged for, in steps that double, from this on.
const STEP_BYTES: usize = 64 * 1024;

/// A whole answer, and what it is charged.
pub(crate) struct Gathered {
    pub whole: Bytes,
    pub charged: Vec<Charged>,
}

/// One that was never more than may wait for its server.
impl From<Bytes> for Gathered {
    fn from(whole: Bytes) -> Gathered {
        Gathered { whole, charged: Vec::new() }
    }
}

/// Keeps an answer. Bound: `bytes_max`, and the quota of its caller.
pub(crate) struct Gatherer {
    pub charger: Charger,
    pub bytes_max: u64,
}

struct Gathering<'a> {
    with: &'a Gatherer,
    whole: BytesMut,
    charged: Vec<Charged>,
}

impl Gatherer {
    /// Runs the pipeline to its end.
    pub async fn gather(&self, running: &Running) -> Result<Gathered, Refusal> {
        let mut gathering = Gathering { with: self, whole: BytesMut::new(), charged: Vec::new() };
        poll_fn(|cx| gathering.poll(running, cx)).await?;
        Ok(Gathered { whole: gathering.whole.freeze(), charged: gathering.charged })
    }
}

impl Gathering<'_> {
    fn poll(&mut self, running: &Running, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        // Bound: each round takes some bytes.
        loop {
            let polled = running.poll(cx);
            let bytes = running.outlet.lock().take();
            if let Err(failure) = self.add(&bytes) {
                return Poll::Ready(Err(Refusal::of(failure, String::new(), 1)));
            }
            if polled.is_pending() && !bytes.is_empty() {
                // There is room again.
                continue;
            }
            let ended = ready!(polled).unwrap_or(Ok(()));
            return Poll::Ready(ended.map_err(|refusal| *refusal));
        }
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let needed = self.whole.len() + bytes.len();
        if needed as u64 > self.with.bytes_max {
            let text = format!(
                "the answer has more than the {} bytes that are kept for HTTP/1.0",
                self.with.bytes_max
            );
            return Err(Failure::new(Code::UpstreamTooLarge, Stage::Relay, text));
        }
        if needed > self.whole.capacity() {
            let room = needed.max(2 * self.whole.capacity()).max(STEP_BYTES);
            self.charged.push(self.with.charger.charge((room - self.whole.capacity()) as u64)?);
            self.whole.reserve(room - self.whole.len());
        }
        self.whole.extend_from_slice(bytes);
        Ok(())
    }
}
