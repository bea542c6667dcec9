//! The one error of this crate: what happened, how far the call had come, what to do.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ringmain_wire::frame::PayloadError;
use ringmain_wire::{Code, ErrorFrame, Sent, Stage};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// [`Error::code`] is the typed kind to match on; the rest says how far the exchange had come, so
/// that a caller can decide what to do without parsing text.
///
/// ```
/// use ringmain_client::{Code, Error};
/// fn advice(error: &Error) -> &'static str {
///     match error.code() {
///         Code::UnknownRoute => "use another model name",
///         Code::BodyTooLarge => "send less",
///         _ if error.is_retryable() && error.bytes() == 0 => "send it again",
///         _ => "give up",
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Error(Box<Report>);

#[derive(Clone)]
struct Report {
    code: Code,
    stage: Stage,
    sent: Sent,
    http_status: Option<u16>,
    attempts: u16,
    bytes: u64,
    limit: Option<u64>,
    retry_after: Option<Duration>,
    provider_code: String,
    message: String,
    // An io::Error cannot be cloned, and one loss of a broker ends many exchanges.
    source: Option<Arc<io::Error>>,
}

impl Error {
    /// The message says by itself what happened, where, and what to do: nothing is put in front
    /// of it.
    pub(crate) fn new(code: Code, stage: Stage, message: impl Into<String>) -> Error {
        Error(Box::new(Report {
            code,
            stage,
            sent: Sent::No,
            http_status: None,
            attempts: 0,
            bytes: 0,
            limit: None,
            retry_after: None,
            provider_code: String::new(),
            message: message.into(),
            source: None,
        }))
    }

    pub(crate) fn from_frame(frame: &ErrorFrame<'_>) -> Error {
        let mut error = Error::new(frame.code, frame.stage, frame.message);
        error.0.sent = frame.sent;
        error.0.http_status = frame.http_status;
        error.0.attempts = frame.attempts;
        error.0.bytes = frame.bytes;
        error.0.retry_after = frame.retry_after_ms.map(Duration::from_millis);
        error.0.provider_code = frame.provider_code.to_owned();
        error
    }

    pub(crate) fn body_too_large(limit: u64, asked: u64) -> Error {
        let message = format!("a body may take {limit} bytes, {asked} were asked for; send less");
        let mut error = Error::new(Code::BodyTooLarge, Stage::Submit, message);
        error.0.limit = Some(limit);
        error
    }

    pub(crate) fn payload(bad: PayloadError) -> Error {
        let message = format!("{bad}; the two sides do not fit each other, update both");
        Error::new(Code::ViolationFrame, Stage::Relay, message)
    }

    #[must_use]
    pub(crate) fn with_source(mut self, source: io::Error) -> Error {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// For a terminal that this side writes itself: the broker cannot tell any more.
    #[must_use]
    pub(crate) fn with_progress(
        mut self,
        stage: Stage,
        bytes: u64,
        answered: bool,
        attempts: u16,
    ) -> Error {
        self.0.stage = stage;
        self.0.bytes = bytes;
        self.0.attempts = attempts;
        self.0.sent = if answered { Sent::Yes } else { Sent::Maybe };
        self
    }

    /// Nothing was published.
    #[must_use]
    pub(crate) fn at_submit(mut self) -> Error {
        self.0.stage = Stage::Submit;
        self.0.sent = Sent::No;
        self
    }

    /// What happened: the kind to match on.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// How far the call had come.
    pub fn stage(&self) -> Stage {
        self.0.stage
    }

    /// Whether the provider may have seen the request.
    pub fn sent(&self) -> Sent {
        self.0.sent
    }

    /// Content bytes delivered before the error: an exact prefix of the answer.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Attempts that the broker made upstream.
    pub fn attempts(&self) -> u16 {
        self.0.attempts
    }

    /// When the provider, or a limit, asks to come again, counted from the error.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// HTTP status of the provider, when it answered.
    pub fn http_status(&self) -> Option<u16> {
        self.0.http_status
    }

    /// The provider's own error code; may be empty.
    pub fn provider_code(&self) -> &str {
        &self.0.provider_code
    }

    /// What happened, where, and what to do, in one sentence; ends with the broker's log id where
    /// there is one.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The bound that was exceeded, bytes, for [`Code::BodyTooLarge`] of this side.
    pub fn limit(&self) -> Option<u64> {
        self.0.limit
    }

    /// Whether the same request may succeed when it is sent again unchanged. Look at
    /// [`Error::sent`] too when doing it twice does harm.
    pub fn is_retryable(&self) -> bool {
        match self.code() {
            // The provider's own words decide: overload and rate limits pass.
            Code::UpstreamStatus => {
                matches!(self.http_status(), Some(408 | 409 | 429 | 500..=599))
            }
            code => code.is_retryable(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message() {
            // Only a peer that is not of this project says nothing.
            "" => write!(f, "{} {}", self.code(), self.stage()),
            message => f.write_str(message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.0;
        f.debug_struct("Error")
            .field("code", &report.code)
            .field("stage", &report.stage)
            .field("sent", &report.sent)
            .field("http_status", &report.http_status)
            .field("attempts", &report.attempts)
            .field("bytes", &report.bytes)
            .field("retry_after", &report.retry_after)
            .field("provider_code", &report.provider_code)
            .field("message", &report.message)
            .field("source", &report.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_status_decides_about_a_retry() {
        let with = |status| {
            let mut frame = ErrorFrame::new(Code::UpstreamStatus, Stage::AwaitHead, "no (rm-1)");
            frame.http_status = Some(status);
            Error::from_frame(&frame)
        };
        assert!(with(429).is_retryable() && with(503).is_retryable());
        assert!(!with(400).is_retryable());
    }

    #[test]
    fn the_text_says_what_where_and_what_to_do() {
        let error = Error::body_too_large(10, 11);
        let text = "a body may take 10 bytes, 11 were asked for; send less";
        assert_eq!(error.to_string(), text);
        assert_eq!(error.limit(), Some(10));
    }

    #[test]
    fn the_words_of_the_broker_stand_alone() {
        let told = |message| {
            Error::from_frame(&ErrorFrame::new(Code::UnknownRoute, Stage::Intake, message))
        };
        let text = "no route serves \"tinny\"; the nearest of 3 is \"tiny\" (rm-1-2)";
        assert_eq!(told(text).to_string(), text);
        assert_eq!(
            told("").to_string(),
            "no route serves this model while the request was checked"
        );
    }
}
