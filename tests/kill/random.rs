//! The draws of a run: the same for the same seed.

use std::time::Duration;

use ringmain_sim::text::mix;

/// Seed of a run unless `RINGMAIN_SEED` gives another one.
const SEED: u64 = 0x52_49_4e_47;

/// A stream of random numbers.
pub struct Random(u64);

impl Random {
    /// The stream number `stream` of this run.
    pub fn new(stream: u64) -> Random {
        Random(mix(seed()) ^ mix(stream ^ 0x9e37_79b9_7f4a_7c15))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.any() % bound
    }

    /// A time up to about `longest`, each order of magnitude as likely as any other, zero too:
    /// most races are won within microseconds.
    pub fn delay(&mut self, longest: Duration) -> Duration {
        let bits = u64::from(longest.as_micros().max(1).ilog2()) + 1;
        let scale = self.below(bits + 1);
        Duration::from_micros(self.below(1 << scale))
    }
}

/// The seed of this run.
pub fn seed() -> u64 {
    number("RINGMAIN_SEED").unwrap_or(SEED)
}

/// How many kills of clients to make: at least 500, more with `RINGMAIN_KILLS`. Brokers are killed
/// a fifth as often.
pub fn kills() -> u64 {
    number("RINGMAIN_KILLS").unwrap_or(0).max(500)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")))
}
