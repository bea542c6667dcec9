//! What became of an attempt: whether another may follow, and what it says of the endpoint.

use std::time::Duration;

use ringmain_policy::retry::{Again, Fault, Hints};
use ringmain_upstream::{Answer, reach};
use ringmain_wire::head::Method;
use ringmain_wire::{Code, Flags, Mode, RequestHead, Sent, Stage};

use super::health::Running;
use crate::failure::Failure;

/// APIs that compute something and store nothing that matters: asking twice does no harm.
const IDEMPOTENT: [&str; 6] =
    ["/completions", "/embeddings", "/responses", "/messages", "/moderations", "/rerank"];

/// An attempt that gave no content.
pub(crate) enum Failed {
    /// There is no answer that could be passed on.
    Lost(Failure),
    /// An answer with an error status, whose body was not looked at, or a plain error object
    /// under a good one.
    Refused(Box<Answer>),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        Failed::Lost(failure)
    }
}

/// Whether a request may be made twice when it is not known what became of the first.
pub(crate) fn is_idempotent(head: &RequestHead<'_>, flags: Flags) -> bool {
    if flags.has(Flags::ONCE) {
        return false;
    }
    let path = reach::without_query(head.path);
    head.method != Method::Post
        || flags.has(Flags::IDEMPOTENT)
        || head.idempotency_key.is_some()
        || is_computing(path)
}

/// Whether a plain JSON answer that opens with an error is a failure: of an API that is known, for
/// a caller who would be given it as bytes. In mode deltas the decoder says so itself.
pub(crate) fn may_be_an_object(head: &RequestHead<'_>, mode: Mode) -> bool {
    mode != Mode::Deltas
        && head.method == Method::Post
        && is_computing(reach::without_query(head.path))
}

fn is_computing(path: &str) -> bool {
    IDEMPOTENT.iter().any(|api| path.ends_with(api))
}

impl Failed {
    pub fn fault(&self) -> Fault {
        match self {
            Failed::Refused(answer) if answer.status < 400 => Fault::Broken,
            Failed::Refused(answer) => Fault::Refused { status: answer.status },
            Failed::Lost(failure) => fault_of(failure),
        }
    }

    pub fn hints(&self) -> Hints {
        match self {
            Failed::Refused(answer) => {
                Hints { retry_after_ms: answer.retry_after_ms, should_retry: answer.should_retry }
            }
            Failed::Lost(failure) => {
                Hints { retry_after_ms: failure.retry_after_ms, should_retry: None }
            }
        }
    }

    /// Whether the provider may have seen this attempt.
    pub fn sent(&self) -> Sent {
        match self {
            Failed::Refused(_) => Sent::Yes,
            Failed::Lost(failure) => failure.sent,
        }
    }

    /// Tells the endpoint's health.
    pub fn charge(&self, running: &mut Running) {
        match self {
            Failed::Refused(answer) => match answer.status {
                // What an object under a good status means can be this caller's request alone.
                ..400 | 429 => running.was_busy(),
                408 | 500.. => running.failed(),
                _ => running.answered(),
            },
            Failed::Lost(failure) => charge(failure, running),
        }
    }
}

fn fault_of(failure: &Failure) -> Fault {
    let is_answered = failure.sent == Sent::Yes && failure.stage >= Stage::AwaitContent;
    match failure.code {
        // The request itself is what is wrong, or the broker.
        _ if failure.stage < Stage::Admit => Fault::Final,
        Code::QuotaExceeded | Code::Internal => Fault::Final,
        // What a producer has no place for waits for nobody: its caller decides.
        _ if failure.sent == Sent::No => Fault::Unprocessed(match failure.code {
            Code::UpstreamReset | Code::UpstreamRefused => Again::Now,
            code if failure.stage == Stage::Admit || !code.is_retryable() => Again::Never,
            _ => Again::Later,
        }),
        // An error object in the place of content stands for a status. Whatever else broke behind
        // a good head may be work that was done, and is not asked for twice.
        Code::UpstreamError if is_answered => match failure.http_status {
            Some(status) if status >= 400 => Fault::Refused { status },
            _ => Fault::Broken,
        },
        _ => Fault::Final,
    }
}

/// Tells the health of an endpoint how the last request of an exchange ended that took so long.
pub(crate) fn charge_end(failure: &Failure, running: &mut Running, exchange: Duration) {
    match failure.code {
        Code::TotalTimeout if speaks_against(failure) => running.ran_out(exchange),
        _ => charge(failure, running),
    }
}

/// Tells the health of an endpoint how the request there failed.
fn charge(failure: &Failure, running: &mut Running) {
    match failure.code {
        // It lives and says so, and what it objects to can be this caller's request alone.
        Code::UpstreamError => running.was_busy(),
        _ if speaks_against(failure) => running.failed(),
        _ => {}
    }
}

/// Whether a failure is the endpoint's own.
fn speaks_against(failure: &Failure) -> bool {
    use Code::*;
    matches!(
        failure.code,
        UpstreamDns
            | UpstreamConnect
            | UpstreamTls
            | UpstreamTruncated
            | UpstreamProtocol
            | UpstreamTooLarge
            | UpstreamEncoding
            | ConnectTimeout
            | FirstContentTimeout
            | IdleTimeout
    ) || matches!(failure.code, UpstreamReset | WriteTimeout | HeadTimeout)
        // Of what nothing went out, the wait was ours.
        && failure.sent != Sent::No
        // It had all of the request, and said nothing.
        || failure.code == TotalTimeout
            && matches!(failure.stage, Stage::AwaitHead | Stage::AwaitContent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code, stage: Stage, sent: Sent) -> Failure {
        Failure::while_sent(code, stage, sent, String::new())
    }

    #[test]
    fn only_what_is_provably_unprocessed_or_was_answered_may_be_repeated() {
        use Code::*;
        for (code, stage, sent, fault) in [
            (UpstreamConnect, Stage::Connect, Sent::No, Fault::Unprocessed(Again::Later)),
            (UpstreamTls, Stage::Connect, Sent::No, Fault::Unprocessed(Again::Never)),
            (UpstreamRefused, Stage::AwaitHead, Sent::No, Fault::Unprocessed(Again::Now)),
            (UpstreamReset, Stage::Send, Sent::No, Fault::Unprocessed(Again::Now)),
            (ProducerAbsent, Stage::Admit, Sent::No, Fault::Unprocessed(Again::Never)),
            (UpstreamReset, Stage::AwaitHead, Sent::Maybe, Fault::Final),
            (UpstreamReset, Stage::AwaitContent, Sent::Yes, Fault::Final),
            (UpstreamTruncated, Stage::AwaitContent, Sent::Yes, Fault::Final),
            (UpstreamProtocol, Stage::AwaitContent, Sent::Yes, Fault::Final),
            (UpstreamEncoding, Stage::AwaitContent, Sent::Yes, Fault::Final),
            (UpstreamError, Stage::AwaitContent, Sent::Yes, Fault::Broken),
            (UpstreamTooLarge, Stage::AwaitContent, Sent::Yes, Fault::Final),
            (HeadTimeout, Stage::AwaitHead, Sent::Maybe, Fault::Final),
            (NotAllowed, Stage::Intake, Sent::No, Fault::Final),
            (QuotaExceeded, Stage::Admit, Sent::No, Fault::Final),
        ] {
            assert_eq!(Failed::Lost(failure(code, stage, sent)).fault(), fault, "{code:?}");
        }
    }

    #[test]
    fn what_never_went_out_does_not_speak_against_the_endpoint() {
        use Code::*;
        for (code, stage, sent, against) in [
            (HeadTimeout, Stage::Connect, Sent::No, false),
            (HeadTimeout, Stage::AwaitHead, Sent::Maybe, true),
            (UpstreamReset, Stage::Send, Sent::No, false),
            (ConnectTimeout, Stage::Connect, Sent::No, true),
            (TotalTimeout, Stage::AwaitHead, Sent::Maybe, true),
            (TotalTimeout, Stage::AwaitContent, Sent::Yes, true),
            (TotalTimeout, Stage::Relay, Sent::Yes, false),
            (TotalTimeout, Stage::Connect, Sent::No, false),
            // Of a caller's own deadline only its length speaks.
            (DeadlineExceeded, Stage::AwaitHead, Sent::Maybe, false),
        ] {
            assert_eq!(speaks_against(&failure(code, stage, sent)), against, "{code:?} {stage:?}");
        }
    }

    #[test]
    fn generating_twice_is_harmless_unless_the_caller_says_otherwise() {
        let judged = |path: &str, flags| is_idempotent(&RequestHead::new("m", path), flags);
        assert!(judged("/chat/completions", Flags::NONE));
        assert!(judged("/embeddings?x=1", Flags::NONE));
        assert!(!judged("/chat/completions", Flags::ONCE));
        assert!(!judged("/files", Flags::NONE));
        assert!(judged("/files", Flags::IDEMPOTENT));
        assert!(!judged("/files", Flags::IDEMPOTENT.with(Flags::ONCE)));
        let mut keyed = RequestHead::new("m", "/files");
        keyed.idempotency_key = Some("k");
        assert!(is_idempotent(&keyed, Flags::NONE));
        let mut read = RequestHead::new("m", "/models");
        read.method = Method::Get;
        assert!(is_idempotent(&read, Flags::NONE));
    }
}
