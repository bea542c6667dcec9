//! Error bodies in the shape of each API.

use serde_json::{Value, json};

use crate::config::Dialect;
use crate::decode::failure::type_of;

/// The body of an error answer with this status, as the client libraries of the dialect read it.
/// `code` is the finer code, where there is one.
pub fn error_body(dialect: Dialect, status: u16, code: &str, message: &str) -> String {
    error_value(dialect, status, code, message).to_string()
}

pub(super) fn error_value(dialect: Dialect, status: u16, code: &str, message: &str) -> Value {
    let kind = type_of(status);
    match dialect {
        Dialect::Anthropic => {
            // This shape has no place for a code but the words.
            let message = match code.is_empty() || code == kind {
                true => message.to_owned(),
                false => format!("{message} ({code})"),
            };
            json!({"type": "error", "error": {"type": kind, "message": message}})
        }
        Dialect::OpenAi => {
            let kind = if status >= 500 { "server_error" } else { kind };
            let code = Some(code).filter(|code| !code.is_empty());
            json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
        }
    }
}
