//! What a pool counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a connection was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum Cause {
    /// A request on it was given up before its answer ended.
    Aborted = 0,
    /// It was as old as connections may become.
    Aged = 1,
    /// The provider closed it, or said that it would.
    ClosedByPeer = 2,
    /// A request on it failed in a way that leaves its state unknown.
    Failed = 3,
    /// The provider said GOAWAY.
    GoAway = 4,
    /// It was unused for as long as the provider may be trusted to keep it.
    Idle = 5,
    /// There were more than the demand of late asked for.
    Surplus = 6,
}

impl Cause {
    /// All causes, in the order of their numbers.
    pub const ALL: [Cause; 7] = [
        Cause::Aborted,
        Cause::Aged,
        Cause::ClosedByPeer,
        Cause::Failed,
        Cause::GoAway,
        Cause::Idle,
        Cause::Surplus,
    ];

    /// The name that counters carry.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Aborted => "aborted",
            Cause::Aged => "aged",
            Cause::ClosedByPeer => "closed_by_peer",
            Cause::Failed => "failed",
            Cause::GoAway => "goaway",
            Cause::Idle => "idle",
            Cause::Surplus => "surplus",
        }
    }
}

/// A pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolGauges {
    /// Connections that stand.
    pub open: u64,
    /// Of them, those without a request.
    pub idle: u64,
    /// Of them, those with one or more.
    pub in_use: u64,
    /// Requests on connections.
    pub streams: u64,
    /// Requests that wait for a connection.
    pub waiting: u64,
    /// Connections made since the start.
    pub opened: u64,
    /// Requests that found a connection that had served before.
    pub reused: u64,
    /// Connections given up since the start, in the order of [`Cause::ALL`].
    pub retired: [u64; 7],
    /// TLS handshakes that proved the provider's certificate.
    pub full_handshakes: u64,
    /// TLS handshakes that went on with an earlier session.
    pub resumed_handshakes: u64,
}

impl PoolGauges {
    /// Numbers that [`to_words`](PoolGauges::to_words) gives.
    pub const WORDS: usize = 16;

    /// All numbers in a fixed order, for a place that other processes read.
    pub fn to_words(&self) -> [u64; PoolGauges::WORDS] {
        let [aborted, aged, closed, failed, goaway, idle, surplus] = self.retired;
        [
            self.open,
            self.idle,
            self.in_use,
            self.streams,
            self.waiting,
            self.opened,
            self.reused,
            aborted,
            aged,
            closed,
            failed,
            goaway,
            idle,
            surplus,
            self.full_handshakes,
            self.resumed_handshakes,
        ]
    }

    /// What [`to_words`](PoolGauges::to_words) gave.
    pub fn from_words(words: [u64; PoolGauges::WORDS]) -> PoolGauges {
        let [open, idle, in_use, streams, waiting, opened, reused, retired @ .., full, resumed] =
            words;
        PoolGauges {
            open,
            idle,
            in_use,
            streams,
            waiting,
            opened,
            reused,
            retired,
            full_handshakes: full,
            resumed_handshakes: resumed,
        }
    }

    /// Connections given up for one cause.
    pub fn retired(&self, cause: Cause) -> u64 {
        self.retired[cause as usize]
    }
}

/// What only ever grows.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub opened: AtomicU64,
    pub reused: AtomicU64,
    pub full_handshakes: AtomicU64,
    pub resumed_handshakes: AtomicU64,
    retired: [AtomicU64; 7],
}

impl Counts {
    pub fn retired(&self, cause: Cause) {
        self.retired[cause as usize].fetch_add(1, Relaxed);
    }

    pub fn fill(&self, gauges: &mut PoolGauges) {
        gauges.opened = self.opened.load(Relaxed);
        gauges.reused = self.reused.load(Relaxed);
        gauges.full_handshakes = self.full_handshakes.load(Relaxed);
        gauges.resumed_handshakes = self.resumed_handshakes.load(Relaxed);
        for (told, counted) in gauges.retired.iter_mut().zip(&self.retired) {
            *told = counted.load(Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_back() {
        let words: [u64; PoolGauges::WORDS] = std::array::from_fn(|at| at as u64);
        let gauges = PoolGauges::from_words(words);
        assert_eq!(gauges.to_words(), words);
        assert_eq!((gauges.reused, gauges.retired(Cause::Aborted)), (6, 7));
        assert!(Cause::ALL.iter().enumerate().all(|(at, cause)| *cause as usize == at));
    }
}
