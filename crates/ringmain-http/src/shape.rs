//! Errors in the words of the API that was called, so that the caller's library raises what it
//! raises for the provider itself.

use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use crate::names;

/// Whose error objects the caller reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Anthropic,
    OpenAi,
    /// As OpenAI; events of a stream carry their type.
    Responses,
}

/// What an error says, before it is put into a shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a> {
    pub status: u16,
    /// Our own name of what happened.
    pub code: &'a str,
    pub message: &'a str,
    pub request_id: &'a str,
}

impl Shape {
    /// Of a request to this path (below `/v1`).
    pub fn of(path: &str, headers: &HeaderMap) -> Shape {
        let path = path.split('?').next().unwrap_or_default();
        if path == "/messages" || path.starts_with("/messages/") {
            return Shape::Anthropic;
        }
        match path {
            "/responses" => Shape::Responses,
            _ if headers.contains_key(&names::ANTHROPIC_VERSION) => Shape::Anthropic,
            _ => Shape::OpenAi,
        }
    }

    /// The body of an error status.
    pub fn body(self, words: &Words<'_>) -> Vec<u8> {
        self.object(words).to_string().into_bytes()
    }

    /// The last event of a stream that broke.
    pub fn event(self, words: &Words<'_>) -> Vec<u8> {
        let object = self.object(words);
        let text = match self {
            Shape::Anthropic => format!("event: error\ndata: {object}\n\n"),
            Shape::OpenAi => format!("data: {object}\n\n"),
            Shape::Responses => {
                let Words { code, message, .. } = words;
                let error = &object["error"];
                let object = json!({"type": "error", "code": code, "message": message,
                    "param": null, "sequence_number": null, "error": error});
                format!("event: error\ndata: {object}\n\n")
            }
        };
        text.into_bytes()
    }

    /// The header that carries the id of a request.
    pub fn id_header(self) -> &'static HeaderName {
        match self {
            Shape::Anthropic => &names::REQUEST_ID,
            Shape::OpenAi | Shape::Responses => &names::X_REQUEST_ID,
        }
    }

    fn object(self, words: &Words<'_>) -> Value {
        let Words { status, code, message, request_id } = *words;
        match self {
            Shape::Anthropic => json!({"type": "error", "request_id": request_id,
                "error": {"type": anthropic_type(status), "message": message, "code": code}}),
            Shape::OpenAi | Shape::Responses => json!({"error": {"message": message,
                "type": openai_type(status), "param": null, "code": code}}),
        }
    }
}

fn openai_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: Words<'_> =
        Words { status: 404, code: "UnknownRoute", message: "no \"x\"", request_id: "rm-1" };

    #[test]
    fn each_api_has_its_own_error_object() {
        let read = |shape: Shape| -> Value { serde_json::from_slice(&shape.body(&WORDS)).unwrap() };
        let error = &read(Shape::OpenAi)["error"];
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(
            (&error["code"], &error["message"]),
            (&json!("UnknownRoute"), &json!("no \"x\""))
        );
        let object = read(Shape::Anthropic);
        assert_eq!((&object["type"], &object["request_id"]), (&json!("error"), &json!("rm-1")));
        assert_eq!(object["error"]["type"], "not_found_error");
        assert_eq!(object["error"]["code"], "UnknownRoute");
    }

    #[test]
    fn events_are_whole() {
        for shape in [Shape::Anthropic, Shape::OpenAi, Shape::Responses] {
            let event = String::from_utf8(shape.event(&WORDS)).unwrap();
            let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert!(data["error"].is_object() && event.ends_with("\n\n"), "{event}");
        }
    }

    #[test]
    fn the_path_or_a_header_tells_the_api() {
        let mut headers = HeaderMap::new();
        assert_eq!(Shape::of("/chat/completions", &headers), Shape::OpenAi);
        assert_eq!(Shape::of("/messages?beta=true", &headers), Shape::Anthropic);
        assert_eq!(Shape::of("/messages/count_tokens", &headers), Shape::Anthropic);
        assert_eq!(Shape::of("/responses", &headers), Shape::Responses);
        headers.insert("anthropic-version", http::HeaderValue::from_static("2023-06-01"));
        assert_eq!(Shape::of("/models", &headers), Shape::Anthropic);
    }
}
