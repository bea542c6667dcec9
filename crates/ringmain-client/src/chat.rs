//! The body of a chat completion.

use std::borrow::Cow;
use std::io::{self, Write};

use crate::body::{Body, BodyWriter};
use crate::json::{Count, write_json_string};

/// The JSON body of a streamed chat completion, written without a JSON library and without a
/// buffer. It always asks for a stream and for its usage.
///
/// [`Client::chat`](crate::Client::chat) wraps it; use it directly with a
/// [`Session`](crate::Session).
#[derive(Clone, Debug, Default)]
pub struct ChatBody<'a> {
    model: Cow<'a, str>,
    messages: Vec<(Cow<'a, str>, Content<'a>)>,
    params: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

#[derive(Clone, Debug)]
enum Content<'a> {
    Text(Cow<'a, str>),
    Json(Cow<'a, str>),
}

impl<'a> ChatBody<'a> {
    /// A chat with `model`.
    pub fn new(model: impl Into<Cow<'a, str>>) -> ChatBody<'a> {
        ChatBody { model: model.into(), ..ChatBody::default() }
    }

    /// Adds a message of text.
    #[must_use]
    pub fn message(mut self, role: impl Into<Cow<'a, str>>, text: impl Into<Cow<'a, str>>) -> Self {
        self.messages.push((role.into(), Content::Text(text.into())));
        self
    }

    /// Adds a message whose content is JSON: an array of parts, say.
    #[must_use]
    pub fn message_json(
        mut self,
        role: impl Into<Cow<'a, str>>,
        json: impl Into<Cow<'a, str>>,
    ) -> Self {
        self.messages.push((role.into(), Content::Json(json.into())));
        self
    }

    /// Adds a top-level field; `json` goes out as it stands. `model`, `messages`, `stream` and
    /// `stream_options` are set already.
    #[must_use]
    pub fn param(mut self, name: impl Into<Cow<'a, str>>, json: impl Into<Cow<'a, str>>) -> Self {
        self.params.push((name.into(), json.into()));
        self
    }

    /// Writes the JSON.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(b"{\"model\":")?;
        write_json_string(out, &self.model)?;
        out.write_all(b",\"messages\":[")?;
        for (at, (role, content)) in self.messages.iter().enumerate() {
            out.write_all(if at == 0 { b"{\"role\":" } else { b",{\"role\":" })?;
            write_json_string(out, role)?;
            out.write_all(b",\"content\":")?;
            match content {
                Content::Text(text) => write_json_string(out, text)?,
                Content::Json(json) => out.write_all(json.as_bytes())?,
            }
            out.write_all(b"}")?;
        }
        out.write_all(b"],\"stream\":true,\"stream_options\":{\"include_usage\":true}")?;
        for (name, json) in &self.params {
            out.write_all(b",")?;
            write_json_string(out, name)?;
            out.write_all(b":")?;
            out.write_all(json.as_bytes())?;
        }
        out.write_all(b"}")
    }
}

impl Body for &ChatBody<'_> {
    fn bytes_max(&self) -> u64 {
        let mut count = Count::default();
        // Counting cannot fail.
        let _ = self.write_json(&mut count);
        count.0
    }

    fn write_to(self, out: &mut BodyWriter<'_>) -> io::Result<()> {
        self.write_json(out)
    }
}

/// A number as JSON. What JSON has no word for becomes null, which providers refuse by name.
pub(crate) fn number(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { "null".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_what_a_provider_expects() {
        let body = ChatBody::new("tiny")
            .message("system", "be \"brief\"")
            .message("user", String::from("hi\n"))
            .message_json("user", r#"[{"type":"text","text":"x"}]"#)
            .param("temperature", number(0.5))
            .param("tools", "[]");
        let mut out = Vec::new();
        body.write_json(&mut out).unwrap();
        let expected = concat!(
            r#"{"model":"tiny","messages":[{"role":"system","content":"be \"brief\""},"#,
            r#"{"role":"user","content":"hi\n"},"#,
            r#"{"role":"user","content":[{"type":"text","text":"x"}]}],"#,
            r#""stream":true,"stream_options":{"include_usage":true},"#,
            r#""temperature":0.5,"tools":[]}"#
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!((&body).bytes_max(), expected.len() as u64);
        assert_eq!(number(f64::NAN), "null");
    }

    #[test]
    fn a_chat_without_messages_is_still_json() {
        let mut out = Vec::new();
        ChatBody::new("m").write_json(&mut out).unwrap();
        assert!(out.starts_with(br#"{"model":"m","messages":[],"stream":true"#));
    }
}
