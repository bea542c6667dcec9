//! What a provider says about a failure: in the body of an error status, or under status 200.

use ringmain_wire::head::cut;
use serde_json::Value;
use serde_json::value::RawValue;

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
