//! What a provider says about a failure: in the body of an error status, or under status 200.

use ringmain_wire::Code;
use ringmain_wire::head::cut;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::UpstreamError;

/// Most bytes of a provider's message that are passed on.
const MESSAGE_BYTES_MAX: usize = 300;

/// A provider's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    pub code: String,
    pub message: String,
}

/// Whether the value of an `error` field says that there is an error. Some providers write
/// `null`, `false` or an empty value into every chunk.
pub(super) fn is_truthy(raw: &RawValue) -> bool {
    match serde_json::from_str(raw.get()) {
        Ok(Value::Null | Value::Bool(false)) => false,
        Ok(Value::String(text)) => !text.is_empty(),
        Ok(Value::Number(number)) => number.as_f64() != Some(0.0),
        Ok(Value::Object(fields)) => !fields.is_empty(),
        Ok(Value::Array(items)) => !items.is_empty(),
        _ => true,
    }
}

/// Reads an error body: `{"error": {..}}`, `{"error": ".."}`, `{"message": ..}`, `{"detail": ..}`,
/// the same in a list of one, or any text.
pub(crate) fn read(body: &[u8]) -> Failure {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => read_value(&value),
        Err(_) => {
            Failure { code: String::new(), message: one_line(&String::from_utf8_lossy(body)) }
        }
    }
}

fn read_value(value: &Value) -> Failure {
    let value = value.get(0).unwrap_or(value);
    let error = value.get("error").filter(|error| !error.is_null()).unwrap_or(value);
    let text = |name: &str| match error.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let message = match error {
        Value::String(text) => Some(text.clone()),
        _ => text("message").or_else(|| text("detail")),
    };
    Failure {
        code: text("code").or_else(|| text("type")).or_else(|| text("status")).unwrap_or_default(),
        message: one_line(&message.unwrap_or_else(|| error.to_string())),
    }
}

/// What stands before a provider's own words where they came under a good status.
pub(crate) const INSIDE: &str = "the endpoint reported an error inside its answer";

/// An error that the provider reported under a good status.
pub(super) fn reported(failure: &Failure) -> UpstreamError {
    let message = match failure.message.as_str() {
        "" => INSIDE.to_owned(),
        text => format!("{INSIDE}: {text}"),
    };
    let error = UpstreamError::answered(Code::UpstreamError, message);
    let http_status = status_of(&failure.code);
    UpstreamError { provider_code: failure.code.clone(), http_status, ..error }
}

pub(super) fn truncated() -> UpstreamError {
    let message = "the stream of the endpoint ended before its terminal marker";
    UpstreamError::answered(Code::UpstreamTruncated, message)
}

pub(super) fn unreadable(what: &str, reason: &str) -> UpstreamError {
    let message = format!("the endpoint sent an {what} that cannot be read: {reason}");
    UpstreamError::answered(Code::UpstreamProtocol, message)
}

/// The types of error of the messages API and the status that each has as an answer of its own.
const STATUS_OF_TYPE: [(&str, u16); 10] = [
    ("invalid_request_error", 400),
    ("authentication_error", 401),
    ("billing_error", 402),
    ("permission_error", 403),
    ("not_found_error", 404),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("api_error", 500),
    ("timeout_error", 504),
    ("overloaded_error", 529),
];

/// The status that an error of this type would have had before the answer began.
fn status_of(code: &str) -> Option<u16> {
    STATUS_OF_TYPE.iter().find(|(known, _)| *known == code).map(|&(_, status)| status)
}

/// The type of error that the messages API gives a status.
pub(crate) fn type_of(status: u16) -> &'static str {
    let known = STATUS_OF_TYPE.iter().find(|&&(_, known)| known == status);
    match (known, status) {
        (Some((name, _)), _) => name,
        (None, 500..) => "api_error",
        (None, _) => "invalid_request_error",
    }
}

/// Without control characters: the text goes into logs.
fn one_line(text: &str) -> String {
    let clean: String = cut(text.trim(), MESSAGE_BYTES_MAX)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_forms_are_read() {
        for (body, code, message) in [
            (r#"{"error":{"message":"m","type":"t","code":"c"}}"#, "c", "m"),
            (r#"{"error":{"message":"m","type":"t","code":null}}"#, "t", "m"),
            (r#"{"error":{"message":"m","code":429}}"#, "429", "m"),
            (r#"[{"error":{"message":"m","status":"S"}}]"#, "S", "m"),
            (r#"{"error":"m"}"#, "", "m"),
            (r#"{"message":"m"}"#, "", "m"),
            (r#"{"detail":"m"}"#, "", "m"),
            ("<h1>\nm", "", "<h1> m"),
            ("", "", ""),
        ] {
            let expected = Failure { code: code.into(), message: message.into() };
            assert_eq!(read(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn empty_errors_are_none() {
        let truthy = |text: &str| is_truthy(serde_json::from_str(text).unwrap());
        for text in ["null", "false", "\"\"", "0", "{}", "[]"] {
            assert!(!truthy(text), "{text}");
        }
        for text in ["true", "\"x\"", "1", "{\"a\":1}"] {
            assert!(truthy(text), "{text}");
        }
    }
}
