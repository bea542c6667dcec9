//! What a consumer asks for and what it counts, the same whether a broker stands in between or not.

use ringmain_shm::monotonic_ns;
use serde::{Deserialize, Serialize};

use super::{answer, own_cpu_ns, ready_and_wait};
use crate::error::{BenchError, Result};
use crate::harness::Latency;
use crate::harness::latency::Buckets;

/// What is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Streams at the same time.
    pub streams: u32,
    /// Exchanges after one another on each of them.
    pub rounds: u32,
    /// The prompt, which steers the provider.
    pub prompt: String,
    /// Tokens of one exchange; anything else is a failure.
    pub tokens: u64,
    /// Time between the tokens of a stream that carry their time of sending, ns.
    pub stamped_every_ns: Option<u64>,
    /// A plain answer in place of a stream of events; it counts as one token.
    pub plain: bool,
    /// Bytes of text behind the prompt of a plain exchange.
    #[serde(default)]
    pub pad_bytes: usize,
    /// Exchanges before the clock starts, so that connections and sessions stand.
    pub warm_up: u32,
}

/// What a consumer saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Consumed {
    pub exchanges: u64,
    pub tokens: u64,
    pub bytes: u64,
    pub cpu_ns: u64,
    pub wall_ns: u64,
    /// From the request to the first token.
    pub first: Buckets,
    /// From the provider's sending of a token to its arrival.
    pub ages: Buckets,
}

/// Counts while a load runs.
#[derive(Debug)]
pub(crate) struct Tally {
    stamped_every_ns: Option<u64>,
    exchanges: u64,
    tokens: u64,
    bytes: u64,
    first: Latency,
    ages: Latency,
}

impl Load {
    /// `streams` streams of `tokens` tokens each, one after another `gap_us` apart.
    pub(crate) fn stream(streams: u32, tokens: u64, gap_us: u64) -> Load {
        Load {
            streams,
            rounds: 1,
            prompt: format!("[[sim n={tokens} gap_us={gap_us} seed=7]]"),
            tokens,
            stamped_every_ns: None,
            plain: false,
            pad_bytes: 0,
            warm_up: streams,
        }
    }

    /// One stream as fast as the provider sends, 64 tokens in each of its writes: what arrives
    /// together after a delay on the way, or from a cache.
    pub(crate) fn burst(tokens: u64) -> Load {
        let prompt = format!("[[sim n={tokens} coalesce=64 seed=7]]");
        Load { prompt, ..Load::stream(1, tokens, 0) }
    }

    /// The same with each token in a write of its own, as inference servers send them.
    pub(crate) fn flushed(tokens: u64) -> Load {
        let prompt = format!("[[sim n={tokens} flush=1 seed=7]]");
        Load { prompt, ..Load::stream(1, tokens, 0) }
    }

    /// The same with the time of sending in each token.
    pub(crate) fn stamped(streams: u32, tokens: u64, gap_us: u64) -> Load {
        Load {
            prompt: format!("[[sim n={tokens} gap_us={gap_us} stamp=1 seed=7]]"),
            stamped_every_ns: Some(gap_us * 1_000),
            ..Load::stream(streams, tokens, gap_us)
        }
    }

    /// Short streams, `rounds` after one another on each of `streams`.
    pub(crate) fn rounds(streams: u32, rounds: u32, tokens: u64) -> Load {
        Load { rounds, ..Load::stream(streams, tokens, 0) }
    }

    /// Plain answers, `rounds` after one another on each of `streams`.
    pub(crate) fn plain(streams: u32, rounds: u32) -> Load {
        Load { plain: true, ..Load::rounds(streams, rounds, 1) }
    }

    /// The same, each with a body of about so many bytes of text.
    pub(crate) fn padded(streams: u32, rounds: u32, pad_bytes: usize) -> Load {
        Load { pad_bytes, ..Load::plain(streams, rounds) }
    }

    /// One plain answer on each of `streams`, for which the provider takes `ms`.
    pub(crate) fn slow(streams: u32, ms: u64) -> Load {
        let prompt = format!("[[sim n=1 ttft_us={} seed=7]]", ms * 1_000);
        Load { prompt, warm_up: 1, ..Load::plain(streams, 1) }
    }

    /// The prompt of the exchanges before the clock starts.
    pub(crate) fn warm_up_load(&self) -> Load {
        let (rounds, tokens, prompt) = (1, 2, "[[sim n=2 seed=7]]".to_owned());
        let warm = Load { streams: self.warm_up, rounds, prompt, tokens, ..self.clone() };
        let tokens = if self.plain { 1 } else { 2 };
        Load { stamped_every_ns: None, tokens, ..warm }
    }
}

/// Runs a load twice, small and whole, with the parent's word in between, and answers with what
/// the whole one cost.
pub(crate) fn run(
    load: &Load,
    mut once: impl FnMut(&Load, &mut Tally) -> Result<()>,
) -> Result<()> {
    let warm_up = load.warm_up_load();
    if warm_up.streams > 0 {
        once(&warm_up, &mut Tally::new(&warm_up))?;
    }
    ready_and_wait()?;
    let mut tally = Tally::new(load);
    let (cpu_ns, start_ns) = (own_cpu_ns()?, monotonic_ns());
    once(load, &mut tally)?;
    let (cpu_ns, wall_ns) = (own_cpu_ns()? - cpu_ns, monotonic_ns() - start_ns);
    answer(&tally.consumed(load, cpu_ns, wall_ns)?)
}

impl Tally {
    pub(crate) fn new(load: &Load) -> Tally {
        Tally {
            stamped_every_ns: load.stamped_every_ns,
            exchanges: 0,
            tokens: 0,
            bytes: 0,
            first: Latency::new(),
            ages: Latency::new(),
        }
    }

    /// Counts a piece of text that is not empty.
    #[inline]
    pub(crate) fn token(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.tokens += 1;
        self.bytes += text.len() as u64;
        if let Some(interval_ns) = self.stamped_every_ns {
            self.age(text, interval_ns);
        }
    }

    /// Counts a piece of a plain answer.
    pub(crate) fn plain(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
    }

    /// Counts the time from the request to the first token.
    pub(crate) fn first(&mut self, since_ns: u64) {
        self.first.record(monotonic_ns().saturating_sub(since_ns));
    }

    pub(crate) fn end(&mut self, plain: bool) {
        self.exchanges += 1;
        self.tokens += u64::from(plain);
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.exchanges += other.exchanges;
        self.tokens += other.tokens;
        self.bytes += other.bytes;
        self.first.add(&other.first);
        self.ages.add(&other.ages);
    }

    fn age(&mut self, text: &str, interval_ns: u64) {
        let stamp = text.get(..16).and_then(|stamp| u64::from_str_radix(stamp, 16).ok());
        if let Some(sent_ns) = stamp {
            let age_ns = monotonic_ns().saturating_sub(sent_ns);
            self.ages.record_open_loop(age_ns, interval_ns);
        }
    }

    fn consumed(&self, load: &Load, cpu_ns: u64, wall_ns: u64) -> Result<Consumed> {
        let exchanges = u64::from(load.streams) * u64::from(load.rounds);
        let tokens = exchanges * load.tokens;
        if (self.exchanges, self.tokens) != (exchanges, tokens) {
            let text = format!(
                "{} of {exchanges} exchanges and {} of {tokens} tokens arrived",
                self.exchanges, self.tokens
            );
            return Err(BenchError::NotIntact(text));
        }
        Ok(Consumed {
            exchanges,
            tokens,
            bytes: self.bytes,
            cpu_ns,
            wall_ns,
            first: self.first.buckets(),
            ages: self.ages.buckets(),
        })
    }
}

impl Consumed {
    pub(crate) fn cpu_ns_per_token(&self) -> f64 {
        self.cpu_ns as f64 / self.tokens.max(1) as f64
    }

    pub(crate) fn exchanges_per_s(&self) -> f64 {
        self.exchanges as f64 * 1e9 / self.wall_ns.max(1) as f64
    }
}
