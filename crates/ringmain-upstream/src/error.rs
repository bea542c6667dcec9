//! Why an exchange with an endpoint failed.

use ringmain_wire::{Code, Sent, Stage};
use thiserror::Error;

/// A failure of one attempt, in the terms that an ERROR frame reports.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct UpstreamError {
    /// What happened.
    pub code: Code,
    /// How far the attempt had come.
    pub stage: Stage,
    /// Whether the provider may have seen the request.
    pub sent: Sent,
    /// Status of the answer, when there was one.
    pub http_status: Option<u16>,
    /// When the provider asks to come again, milliseconds from the answer's head.
    pub retry_after_ms: Option<u64>,
    /// The provider's own code; empty when it gave none.
    pub provider_code: String,
    /// One sentence for people. It holds neither a key nor a part of the request.
    pub message: String,
}

impl UpstreamError {
    /// An error without an answer of the provider.
    pub fn new(code: Code, stage: Stage, sent: Sent, message: impl Into<String>) -> UpstreamError {
        UpstreamError {
            code,
            stage,
            sent,
            http_status: None,
            retry_after_ms: None,
            provider_code: String::new(),
            message: message.into(),
        }
    }

    /// An error in an answer whose head had arrived.
    pub(crate) fn answered(code: Code, message: impl Into<String>) -> UpstreamError {
        UpstreamError::new(code, Stage::Relay, Sent::Yes, message)
    }
}
