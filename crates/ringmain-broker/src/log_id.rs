//! The id of an exchange in the log, in HEAD and in every error text.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The broker's id of an exchange. Shown as `rm-` and 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogId(u64);

/// Bytes of the id as it is shown.
pub(crate) const TEXT_BYTES: usize = 3 + 16;

/// Gives each exchange of a broker an id of its own.
#[derive(Debug)]
pub(crate) struct LogIds {
    next: AtomicU64,
}

impl LogIds {
    /// Ids that differ from those of other brokers by their seed.
    pub fn new(seed: u64) -> LogIds {
        LogIds { next: AtomicU64::new(seed) }
    }

    pub fn next(&self) -> LogId {
        LogId(mix(self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

impl LogId {
    /// The same as it is shown, in memory that is at hand.
    pub(crate) fn text(self, text: &mut [u8; TEXT_BYTES]) -> &str {
        text[..3].copy_from_slice(b"rm-");
        for (at, digit) in text[3..].iter_mut().enumerate() {
            let nibble = (self.0 >> (60 - 4 * at)) as usize & 0xf;
            *digit = b"0123456789abcdef"[nibble];
        }
        std::str::from_utf8(text).unwrap_or_default()
    }

    /// A number that differs for each exchange, to draw from.
    pub(crate) fn seed(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text(&mut [0; TEXT_BYTES]))
    }
}

/// The finalizer of SplitMix64: one to one, so that no id comes twice, and neighbours look
/// different, so that nobody takes an id for a count.
pub(crate) fn mix(seed: u64) -> u64 {
    let a = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ (a >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let c = (b ^ (b >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    c ^ (c >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_their_form() {
        let ids = LogIds::new(7);
        let all: std::collections::HashSet<_> = (0..1000).map(|_| ids.next()).collect();
        assert_eq!(all.len(), 1000);
        let text = ids.next().to_string();
        assert!(text.len() == 19 && text.starts_with("rm-"), "{text}");
        assert_eq!(LogId(0xf).to_string(), "rm-000000000000000f");
        assert_eq!(LogId(0x0123_4567_89ab_cdef).to_string(), "rm-0123456789abcdef");
    }
}
