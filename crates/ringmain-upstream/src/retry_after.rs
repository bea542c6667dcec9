//! When a provider asks to come again.

use std::time::SystemTime;

/// Milliseconds from `now` until the provider wants to hear again: `retry-after-ms`, or else
/// `retry-after` in seconds or as a date. Both numbers may have a fraction. `None` when neither
/// says anything that can be understood.
pub fn retry_after_ms(
    retry_after_ms: Option<&str>,
    retry_after: Option<&str>,
    now: impl FnOnce() -> SystemTime,
) -> Option<u64> {
    if let Some(ms) = retry_after_ms.and_then(|text| number(text, 1.0)) {
        return Some(ms);
    }
    let text = retry_after?.trim();
    number(text, 1000.0).or_else(|| {
        let date = httpdate::parse_http_date(text).ok()?;
        // A date that has passed asks for no wait at all.
        let wait = date.duration_since(now()).unwrap_or_default();
        Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    })
}

/// Rounded up: never earlier than asked.
fn number(text: &str, scale: f64) -> Option<u64> {
    let value = text.trim().parse::<f64>().ok()? * scale;
    // A float beyond u64 becomes u64::MAX, which still means: not now.
    (value.is_finite() && value >= 0.0).then(|| value.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn every_form_is_read() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (ms, after, expected) in [
            (Some("12.5"), Some("9"), Some(13)),
            (Some("x"), Some("9"), Some(9000)),
            (None, Some("0.25"), Some(250)),
            (None, Some(" 7 "), Some(7000)),
            (None, Some("Sun, 06 Nov 1994 08:49:57 GMT"), Some(20_000)),
            (None, Some("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0)),
            (None, Some("-1"), None),
            (None, Some("NaN"), None),
            (None, Some("inf"), None),
            (None, Some("soon"), None),
            (None, Some("1e300"), Some(u64::MAX)),
            (None, None, None),
        ] {
            assert_eq!(retry_after_ms(ms, after, || now), expected, "{ms:?} {after:?}");
        }
    }
}
