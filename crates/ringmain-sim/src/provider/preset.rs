//! Faults that stand for a script: a status and header fields.

use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};

use crate::fault::Fault;
use crate::script::Script;

/// How far a date in `retry-after` lies ahead. Dates have whole seconds, so it may be one less.
const DATE_AHEAD: Duration = Duration::from_secs(2);

/// Puts what the fault stands for into the script.
pub(super) fn apply(script: &mut Script) {
    let Some(fault) = script.fault else { return };
    if let Some(status) = status(fault) {
        script.status = status;
    }
    let needs_tool =
        [Fault::ToolEmptyList, Fault::ToolIndexNegative, Fault::ToolNoId, Fault::ToolNoIndex];
    if needs_tool.contains(&fault) {
        script.tools = script.tools.max(1);
    }
    let (seconds, millis) = match fault {
        Fault::RateMs | Fault::RateNever | Fault::RateThenFine => (None, Some("20")),
        Fault::RateSeconds => (Some("1"), None),
        Fault::RateFloat => (Some("0.02"), None),
        Fault::RateLong => (Some("130"), None),
        Fault::RateJunk => (Some("soon"), None),
        _ => return,
    };
    script.retry_after = script.retry_after.take().or(seconds.map(str::to_owned));
    script.retry_after_ms = script.retry_after_ms.take().or(millis.map(str::to_owned));
}

/// Adds the header fields that no key of a script writes.
pub(super) fn extend(head: &mut HeaderMap, fault: Option<Fault>) {
    let should_retry = HeaderName::from_static("x-should-retry");
    let (name, value) = match fault {
        Some(Fault::NeverRetry503 | Fault::RateNever) => (should_retry, "false"),
        Some(Fault::DoRetry400) => (should_retry, "true"),
        Some(Fault::Redirect302) => (LOCATION, "/v1/models"),
        Some(Fault::Redirect308) => (LOCATION, "http://elsewhere.invalid/v1/chat/completions"),
        Some(Fault::RateDate) => {
            let date = httpdate::fmt_http_date(SystemTime::now() + DATE_AHEAD);
            if let Ok(date) = HeaderValue::from_str(&date) {
                head.insert(RETRY_AFTER, date);
            }
            return;
        }
        _ => return,
    };
    head.insert(name, HeaderValue::from_static(value));
}

fn status(fault: Fault) -> Option<u16> {
    use Fault::*;
    Some(match fault {
        NoContent204 => 204,
        Redirect302 => 302,
        Redirect308 => 308,
        Bad400 | DoRetry400 => 400,
        Auth401 => 401,
        Timeout408 => 408,
        Conflict409 => 409,
        RateMs | RateSeconds | RateFloat | RateDate | RateLong | RateJunk => 429,
        RateNever | RateThenFine => 429,
        Server500 => 500,
        Gateway502 => 502,
        Unavailable503 | UnavailableThenFine | NeverRetry503 => 503,
        Overloaded529 => 529,
        _ => return None,
    })
}
