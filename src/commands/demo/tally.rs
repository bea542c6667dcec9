//! What one consumer process counts, and how it knows that every token arrived intact.

use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use ringmain_shm::monotonic_ns;
use ringmain_sim::text::{expected_text, split_stamp};
use serde::{Deserialize, Serialize};

/// What a consumer process reports when it ends.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Streams begun.
    pub streams: u64,
    /// Streams of which every token arrived, in order, unchanged, and the good end.
    pub intact: u64,
    /// Tokens received.
    pub tokens: u64,
    /// From the request to the first token, ns, one per stream.
    pub first_token_ns: Vec<u64>,
    /// From the provider's sending of a token to the consumer holding it, ns, one per token.
    pub age_ns: Vec<u64>,
    /// CPU that the process used over all streams, ns.
    pub cpu_ns: u64,
    /// Times that the process went to sleep and was woken over all streams.
    pub wakeups: u64,
    /// What went wrong, a sentence each.
    pub faults: Vec<String>,
}

impl Tally {
    /// Takes in what another thread or process counted.
    pub fn add(&mut self, other: Tally) {
        self.streams += other.streams;
        self.intact += other.intact;
        self.tokens += other.tokens;
        self.first_token_ns.extend(other.first_token_ns);
        self.age_ns.extend(other.age_ns);
        self.cpu_ns += other.cpu_ns;
        self.wakeups += other.wakeups;
        self.faults.extend(other.faults);
    }
}

/// One stream while it is received.
pub struct StreamWatch {
    expected: String,
    position: usize,
    is_prefix: bool,
    begun: Instant,
    tally: Tally,
}

impl StreamWatch {
    /// Begins with the request about to be sent.
    pub fn begin(seed: u64, tokens: u32) -> StreamWatch {
        StreamWatch {
            expected: expected_text(seed, tokens as usize, 0),
            position: 0,
            is_prefix: true,
            begun: Instant::now(),
            tally: Tally { streams: 1, ..Tally::default() },
        }
    }

    /// Takes one token as it arrived, its time of sending in front.
    pub fn token(&mut self, stamped: &str) {
        // The provider stamps with the same clock, which all processes of a host share.
        let now_ns = monotonic_ns();
        if self.tally.tokens == 0 {
            self.tally.first_token_ns.push(self.begun.elapsed().as_nanos() as u64);
        }
        self.tally.tokens += 1;
        let Some((sent_ns, text)) = split_stamp(stamped) else {
            self.is_prefix = false;
            return;
        };
        self.tally.age_ns.push(now_ns.saturating_sub(sent_ns));
        self.is_prefix &= self.expected[self.position..].starts_with(text);
        self.position = (self.position + text.len()).min(self.expected.len());
        // The text of a torn stream may end anywhere, also inside a character.
        self.is_prefix &= self.expected.is_char_boundary(self.position);
        if !self.is_prefix {
            self.position = self.expected.len();
        }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tally.tokens
    }

    /// Ends the stream; `outcome` is how it ended.
    pub fn finish(mut self, outcome: Result<(), String>) -> Tally {
        let is_whole = self.is_prefix && self.position == self.expected.len();
        match outcome {
            Ok(()) if is_whole => self.tally.intact = 1,
            Ok(()) => self.tally.faults.push("a stream lost or changed tokens".to_owned()),
            Err(sentence) => self.tally.faults.push(sentence),
        }
        self.tally
    }
}

/// CPU and wake-ups of this process, from a point in time on.
pub struct OwnUsage {
    cpu_ns: u64,
    wakeups: u64,
}

impl OwnUsage {
    /// Starts to measure.
    pub fn begin() -> OwnUsage {
        let (cpu_ns, wakeups) = own_usage();
        OwnUsage { cpu_ns, wakeups }
    }

    /// Writes into `tally` what was used since.
    pub fn finish(&self, tally: &mut Tally) {
        let (cpu_ns, wakeups) = own_usage();
        tally.cpu_ns = cpu_ns - self.cpu_ns;
        tally.wakeups = wakeups - self.wakeups;
    }
}

fn own_usage() -> (u64, u64) {
    // It fails only for an unknown `who`.
    getrusage(UsageWho::RUSAGE_SELF).map_or((0, 0), |usage| {
        let cpu = usage.user_time() + usage.system_time();
        let cpu_us = cpu.tv_sec() * 1_000_000 + cpu.tv_usec();
        (cpu_us as u64 * 1_000, usage.voluntary_context_switches() as u64)
    })
}

#[cfg(test)]
mod tests {
    use ringmain_sim::text::{push_stamp, token_text};

    use super::*;

    fn stamped(index: usize) -> String {
        let mut token = String::new();
        push_stamp(&mut token, 1);
        token.push_str(&token_text(7, index, 0));
        token
    }

    #[test]
    fn a_whole_stream_is_intact_and_a_torn_one_is_not() {
        let received = |indices: &[usize]| {
            let mut watch = StreamWatch::begin(7, 4);
            indices.iter().for_each(|index| watch.token(&stamped(*index)));
            watch.finish(Ok(()))
        };
        assert_eq!(received(&[0, 1, 2, 3]).intact, 1);
        for torn in [&[0, 1, 2][..], &[0, 2, 1, 3], &[0, 1, 1, 2, 3], &[0, 1, 2, 3, 4]] {
            let tally = received(torn);
            assert_eq!((tally.intact, tally.faults.len()), (0, 1), "{torn:?}");
        }
    }

    #[test]
    fn an_error_is_never_intact() {
        let mut watch = StreamWatch::begin(7, 1);
        watch.token(&stamped(0));
        assert_eq!(watch.finish(Err("gone".to_owned())).faults, ["gone"]);
    }
}
