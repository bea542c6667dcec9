//! The payload of USAGE.

use bytemuck::{Pod, Zeroable};

use super::{Kind, PayloadError, split_raw};

/// Tokens used, payload of USAGE. 0 where the provider does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub input: u64,
    /// Tokens generated, reasoning included.
    pub output: u64,
    /// Tokens of the prompt that the provider had cached.
    pub input_cached: u64,
    /// Tokens of the prompt that the provider wrote to its cache.
    pub input_cache_written: u64,
    /// Tokens generated as reasoning.
    pub output_reasoning: u64,
    /// Total, as the provider counts it.
    pub total: u64,
}

impl Usage {
    /// The payload.
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::bytes_of(self)
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`PayloadError`] when it is too short.
    pub fn parse(payload: &[u8]) -> Result<Usage, PayloadError> {
        split_raw(payload).map(|(usage, _)| usage).ok_or(PayloadError(Kind::Usage))
    }
}
