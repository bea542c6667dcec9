//! Writing events piece by piece.

use serde::Serialize;

/// Appends a value as JSON. What is written here always has a form in JSON, and a vector takes
/// every byte.
pub(super) fn push(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let _ = serde_json::to_writer(out, value);
}

/// Appends a payload that holds text, as a JSON string.
pub(super) fn push_text(out: &mut Vec<u8>, payload: &[u8]) {
    push(out, &*String::from_utf8_lossy(payload));
}

/// Appends bytes as they are.
pub(super) fn push_raw(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}
