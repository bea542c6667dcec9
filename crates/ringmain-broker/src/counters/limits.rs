//! The rows of rate limits in the counters segment.

use bytemuck::{Pod, Zeroable};
use ringmain_policy::LimitGauge;
use ringmain_wire::head::cut;

/// Most limits listed.
pub(super) const LIMIT_ROWS: usize = 256;
const NAME_BYTES: usize = 128;

/// One rate limit, or one endpoint that is held to a rate because it refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitRow {
    /// What it is about, cut at 128 bytes.
    pub name: String,
    /// Requests that could be sent at once when this was written; `None` without such a rate. Of a
    /// limit for each uid, what the uid with the least could send.
    pub requests: Option<i64>,
    /// Tokens that could be used at once, likewise; below zero: used beyond what was expected.
    pub tokens: Option<i64>,
    /// Requests in flight.
    pub in_flight: u64,
    /// Requests that wait for it.
    pub waiting: u64,
    /// Requests refused because of it.
    pub refused: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RawLimit {
    name: [u8; NAME_BYTES],
    /// Bit 0: `requests` is there; bit 1: `tokens` is.
    given: u64,
    requests: i64,
    tokens: i64,
    counts: [u64; 3],
}

impl LimitRow {
    pub(super) fn raw(&self) -> RawLimit {
        let mut name = [0; NAME_BYTES];
        let text = cut(&self.name, NAME_BYTES).as_bytes();
        name[..text.len()].copy_from_slice(text);
        RawLimit {
            name,
            given: u64::from(self.requests.is_some()) | u64::from(self.tokens.is_some()) << 1,
            requests: self.requests.unwrap_or(0),
            tokens: self.tokens.unwrap_or(0),
            counts: [self.in_flight, self.waiting, self.refused],
        }
    }

    pub(super) fn of(raw: &RawLimit) -> LimitRow {
        let end = raw.name.iter().position(|b| *b == 0).unwrap_or(NAME_BYTES);
        let [in_flight, waiting, refused] = raw.counts;
        LimitRow {
            name: String::from_utf8_lossy(&raw.name[..end]).into_owned(),
            requests: (raw.given & 1 != 0).then_some(raw.requests),
            tokens: (raw.given & 2 != 0).then_some(raw.tokens),
            in_flight,
            waiting,
            refused,
        }
    }
}

impl From<LimitGauge> for LimitRow {
    fn from(gauge: LimitGauge) -> LimitRow {
        let LimitGauge { name, requests, tokens, in_flight, waiting, refused, .. } = gauge;
        LimitRow { name, requests, tokens, in_flight, waiting, refused }
    }
}
