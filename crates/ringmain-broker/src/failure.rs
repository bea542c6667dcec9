//! Why an exchange ended badly, and the ERROR frame that says so.

use std::fmt;

use ringmain_policy::QuotaExceeded;
use ringmain_upstream::UpstreamError;
use ringmain_wire::{Code, ErrorFrame, Sent, Stage};

use crate::log_id::LogId;

/// The bad end of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// What happened.
    pub code: Code,
    /// How far the exchange had come.
    pub stage: Stage,
    /// Whether a provider may have seen the request.
    pub sent: Sent,
    /// Status of the provider's answer, when there was one.
    pub http_status: Option<u16>,
    /// When to come again, milliseconds from now.
    pub retry_after_ms: Option<u64>,
    /// The provider's own code; empty when it gave none.
    pub provider_code: String,
    /// One sentence for people. It holds neither a key nor a part of the request.
    pub message: String,
}

/// What a session's peer did against the protocol; it ends the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub code: Code,
    pub text: String,
}

impl Failure {
    /// A failure before anything was sent.
    pub fn new(code: Code, stage: Stage, message: impl Into<String>) -> Failure {
        Failure {
            code,
            stage,
            sent: Sent::No,
            http_status: None,
            retry_after_ms: None,
            provider_code: String::new(),
            message: message.into(),
        }
    }

    /// A failure that another side of the exchange brought about while the upstream was asked.
    pub fn while_sent(code: Code, stage: Stage, sent: Sent, message: String) -> Failure {
        Failure { sent, ..Failure::new(code, stage, message) }
    }

    /// A quota that is used up.
    pub(crate) fn quota(exceeded: &QuotaExceeded) -> Failure {
        Failure::new(Code::QuotaExceeded, Stage::Intake, exceeded.to_string())
    }

    /// The payload of the ERROR frame.
    pub(crate) fn payload(&self, id: LogId, attempts: u16, bytes: u64) -> Vec<u8> {
        let message = format!("{} ({id})", self.message);
        let mut frame = ErrorFrame::new(self.code, self.stage, &message);
        frame.sent = self.sent;
        frame.http_status = self.http_status;
        frame.attempts = attempts;
        frame.bytes = bytes;
        frame.retry_after_ms = self.retry_after_ms;
        frame.provider_code = &self.provider_code;
        let mut payload = Vec::with_capacity(256);
        frame.encode(&mut payload);
        payload
    }
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Failure {
        Failure {
            code: error.code,
            stage: error.stage,
            sent: error.sent,
            http_status: error.http_status,
            retry_after_ms: error.retry_after_ms,
            provider_code: error.provider_code,
            message: error.message,
        }
    }
}

impl Violation {
    pub fn new(code: Code, what: impl fmt::Display) -> Violation {
        Violation { code, text: what.to_string() }
    }
}
