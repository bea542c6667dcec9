//! The script of one answer, as a prompt carries it: `[[sim n=200 gap_us=5000]]`.
//!
//! The prompt steers the provider, so a test reaches every behaviour through any client, broker
//! or proxy that stands in between. [`Script`]'s `Display` writes what [`Script::find`] reads.
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `n` | text tokens | 16 |
//! | `ttft_us` | time to the first token | 0 |
//! | `gap_us` | time between tokens | 0 |
//! | `coalesce` | tokens in one write | 1 |
//! | `flush` | 1: a write of its own for each, even without a gap | 0 |
//! | `size` | bytes of a token; 0: natural | 0 |
//! | `reasoning` | reasoning tokens before the text | 0 |
//! | `tools` | tool calls after the text | 0 |
//! | `stamp` | 1: each text token begins with its time of sending | 0 |
//! | `dims` | dimensions of an embedding | 16 |
//! | `id` | correlation id, kept in the provider's log | none |
//! | `seed` | seed of the text | that of the id, else the provider's |
//! | `replay` | stream this recording instead | none |
//! | `chunk` | most bytes of one piece of a recording | 256 |
//! | `status` | answer with this status and an error object | 200 |
//! | `retry_after`, `retry_after_ms` | that header, as written | none |
//! | `fault` | one of [`Fault::ALL`] | none |
//! | `at` | tokens before the fault | 1 |
//! | `head_us` | delay of the response head | 0; 1,000,000 for `slow_head` |
//! | `big` | bytes of the text in a `big_event` | 4 MiB |

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fault::Fault;
use crate::text::seed_of;

/// What an answer is to be like.
///
/// ```
/// use ringmain_sim::Script;
/// let script = Script { n: 3, gap_us: 500, ..Script::default() };
/// let prompt = format!("tell me something {script}");
/// assert_eq!(prompt, "tell me something [[sim n=3 gap_us=500]]");
/// assert_eq!(Script::find(&prompt), Ok(Some(script)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Script {
    /// Text tokens.
    pub n: u64,
    /// Time to the first token, microseconds.
    pub ttft_us: u64,
    /// Time between tokens, microseconds.
    pub gap_us: u64,
    /// Tokens in one write.
    pub coalesce: u64,
    /// Whether each write is flushed on its own even when the next one is due.
    pub flush: bool,
    /// Bytes of a token; 0: natural.
    pub size: u64,
    /// Reasoning tokens before the text.
    pub reasoning: u64,
    /// Tool calls after the text.
    pub tools: u64,
    /// Whether each text token begins with its time of sending.
    pub stamp: bool,
    /// Dimensions of an embedding.
    pub dims: u64,
    /// Correlation id.
    pub id: Option<String>,
    /// Seed of the text.
    pub seed: Option<u64>,
    /// Recording to stream, relative to the provider's folder.
    pub replay: Option<String>,
    /// Most bytes of one piece of a recording.
    pub chunk: u64,
    /// Status of the answer.
    pub status: u16,
    /// Header `retry-after`.
    pub retry_after: Option<String>,
    /// Header `retry-after-ms`.
    pub retry_after_ms: Option<String>,
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// Tokens before it does.
    pub at: Option<u64>,
    /// Delay of the response head, microseconds.
    pub head_us: Option<u64>,
    /// Bytes of the text in a [`Fault::BigEvent`].
    pub big: u64,
}

/// Why a script could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// `[[sim` without `]]`.
    #[error("a script begins with [[sim and does not end with ]]")]
    Open,
    /// A key without a value.
    #[error("script key {0:?} has no value")]
    NoValue(String),
    /// No such key.
    #[error("script key {0:?} does not exist")]
    UnknownKey(String),
    /// A value that the key cannot have.
    #[error("script key {key} cannot be {value:?}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// More than the provider is willing to do.
    #[error("script key {key} is {value}, at most {max} is possible")]
    TooMuch {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// Its bound.
        max: u64,
    },
}

// Bound: an answer of one request. Large enough for any test, small enough to add up.
const TOKENS_MAX: u64 = 100_000_000;
const COALESCE_MAX: u64 = 4096;
const TOKEN_BYTES_MAX: u64 = 1 << 20;
const WRITE_BYTES_MAX: u64 = 64 << 20;
const TOOLS_MAX: u64 = 64;
const DIMS_MAX: u64 = 8192;
const TIME_US_MAX: u64 = 24 * 3600 * 1_000_000;

impl Default for Script {
    fn default() -> Script {
        Script {
            n: 16,
            ttft_us: 0,
            gap_us: 0,
            coalesce: 1,
            flush: false,
            size: 0,
            reasoning: 0,
            tools: 0,
            stamp: false,
            dims: 16,
            id: None,
            seed: None,
            replay: None,
            chunk: 256,
            status: 200,
            retry_after: None,
            retry_after_ms: None,
            fault: None,
            at: None,
            head_us: None,
            big: 4 << 20,
        }
    }
}

impl Script {
    /// A script with `n` tokens.
    pub fn tokens(n: u64) -> Script {
        Script { n, ..Script::default() }
    }

    /// The same with a correlation id.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Script {
        Script { id: Some(id.into()), ..self }
    }

    /// The same with a fault.
    #[must_use]
    pub fn with_fault(self, fault: Fault) -> Script {
        Script { fault: Some(fault), ..self }
    }

    /// Reads the last script in a text; `None` when there is none.
    ///
    /// # Errors
    /// [`ScriptError`] names the key that could not be understood.
    pub fn find(text: &str) -> Result<Option<Script>, ScriptError> {
        const OPEN: &str = "[[sim";
        let Some(start) = text.rfind(OPEN) else { return Ok(None) };
        let (inner, _) = text[start + OPEN.len()..].split_once("]]").ok_or(ScriptError::Open)?;
        let mut script = Script::default();
        for pair in inner.split_ascii_whitespace() {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| ScriptError::NoValue(pair.to_owned()))?;
            script.set(key, value)?;
        }
        script.bound()?;
        Ok(Some(script))
    }

    /// The seed of its text, `fallback` where neither seed nor id is given.
    pub fn text_seed(&self, fallback: u64) -> u64 {
        self.seed.or_else(|| self.id.as_deref().map(seed_of)).unwrap_or(fallback)
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), ScriptError> {
        let text = || Some(value.to_owned());
        match key {
            "n" => self.n = number(key, value)?,
            "ttft_us" => self.ttft_us = number(key, value)?,
            "gap_us" => self.gap_us = number(key, value)?,
            "coalesce" => self.coalesce = number(key, value)?,
            "flush" => self.flush = number::<u8>(key, value)? != 0,
            "size" => self.size = number(key, value)?,
            "reasoning" => self.reasoning = number(key, value)?,
            "tools" => self.tools = number(key, value)?,
            "stamp" => self.stamp = number::<u8>(key, value)? != 0,
            "dims" => self.dims = number(key, value)?,
            "id" => self.id = text(),
            "seed" => self.seed = Some(number(key, value)?),
            "replay" => self.replay = text(),
            "chunk" => self.chunk = number(key, value)?,
            "status" => self.status = number(key, value)?,
            "retry_after" => self.retry_after = text(),
            "retry_after_ms" => self.retry_after_ms = text(),
            "fault" => self.fault = Some(number(key, value)?),
            "at" => self.at = Some(number(key, value)?),
            "head_us" => self.head_us = Some(number(key, value)?),
            "big" => self.big = number(key, value)?,
            _ => return Err(ScriptError::UnknownKey(key.to_owned())),
        }
        Ok(())
    }

    pub(crate) fn bound(&self) -> Result<(), ScriptError> {
        let write_bytes = self.coalesce.saturating_mul(self.size);
        for (key, value, max) in [
            ("n", self.n, TOKENS_MAX),
            ("reasoning", self.reasoning, TOKENS_MAX),
            ("coalesce", self.coalesce, COALESCE_MAX),
            ("size", self.size, TOKEN_BYTES_MAX),
            ("coalesce x size", write_bytes, WRITE_BYTES_MAX),
            ("tools", self.tools, TOOLS_MAX),
            ("dims", self.dims, DIMS_MAX),
            ("ttft_us", self.ttft_us, TIME_US_MAX),
            ("gap_us", self.gap_us, TIME_US_MAX),
            ("head_us", self.head_us.unwrap_or(0), TIME_US_MAX),
            ("chunk", self.chunk, TOKEN_BYTES_MAX),
            ("big", self.big, WRITE_BYTES_MAX),
            ("status", self.status.into(), 599),
        ] {
            if value > max {
                return Err(ScriptError::TooMuch { key, value, max });
            }
        }
        if self.status < 200 {
            let value = self.status.to_string();
            return Err(ScriptError::Value { key: "status".to_owned(), value });
        }
        Ok(())
    }
}

impl fmt::Display for Script {
    /// Writes the keys that differ from their defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = Script::default();
        let seed = self.seed.map(|seed| seed.to_string());
        let fault = self.fault.map(|fault| fault.to_string());
        let at = self.at.map(|at| at.to_string());
        let head_us = self.head_us.map(|head_us| head_us.to_string());
        f.write_str("[[sim")?;
        for (key, value, default) in [
            ("n", self.n, plain.n),
            ("ttft_us", self.ttft_us, plain.ttft_us),
            ("gap_us", self.gap_us, plain.gap_us),
            ("coalesce", self.coalesce, plain.coalesce),
            ("flush", self.flush.into(), 0),
            ("size", self.size, plain.size),
            ("reasoning", self.reasoning, plain.reasoning),
            ("tools", self.tools, plain.tools),
            ("stamp", self.stamp.into(), 0),
            ("dims", self.dims, plain.dims),
            ("chunk", self.chunk, plain.chunk),
            ("status", self.status.into(), plain.status.into()),
            ("big", self.big, plain.big),
        ] {
            if value != default {
                write!(f, " {key}={value}")?;
            }
        }
        for (key, value) in [
            ("id", &self.id),
            ("seed", &seed),
            ("replay", &self.replay),
            ("retry_after", &self.retry_after),
            ("retry_after_ms", &self.retry_after_ms),
            ("fault", &fault),
            ("at", &at),
            ("head_us", &head_us),
        ] {
            if let Some(value) = value {
                write!(f, " {key}={value}")?;
            }
        }
        f.write_str("]]")
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, ScriptError> {
    value.parse().map_err(|_| ScriptError::Value { key: key.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_script_comes_back() {
        let script = Script {
            n: 5,
            ttft_us: 1,
            gap_us: 2,
            coalesce: 3,
            flush: true,
            size: 4,
            reasoning: 6,
            tools: 2,
            stamp: true,
            dims: 8,
            id: Some("a-1".into()),
            seed: Some(u64::MAX),
            replay: Some("openai/text.sse".into()),
            chunk: 9,
            status: 429,
            retry_after: Some("1.5".into()),
            retry_after_ms: Some("20".into()),
            fault: Some(Fault::Stall),
            at: Some(3),
            head_us: Some(10),
            big: 11,
        };
        let text = format!("before {script} after");
        assert_eq!(Script::find(&text), Ok(Some(script)));
    }

    #[test]
    fn the_last_script_counts() {
        let script = Script::find("[[sim n=1]] and [[sim n=2]]").unwrap().unwrap();
        assert_eq!(script.n, 2);
        assert_eq!(Script::find("nothing [sim n=2]"), Ok(None));
    }

    #[test]
    fn faults_of_a_script_are_named() {
        let error = |text: &str| Script::find(text).unwrap_err().to_string();
        assert!(error("[[sim n=1").contains("does not end"));
        assert!(error("[[sim n]]").contains("\"n\" has no value"));
        assert!(error("[[sim tokens=1]]").contains("\"tokens\" does not exist"));
        assert!(error("[[sim n=-1]]").contains("n cannot be \"-1\""));
        assert!(error("[[sim fault=gremlin]]").contains("fault cannot be"));
        assert!(error("[[sim size=99999999]]").contains("at most 1048576"));
        assert!(error("[[sim status=100]]").contains("status cannot be"));
    }
}
