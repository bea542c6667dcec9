//! Two top-level fields may be spliced into a request without parsing the rest: `model` and
//! `stream_options.include_usage`.
//!
//! The body may lie in memory that its writer still changes. So a body that must be looked at is
//! copied first, and what is sent are pieces of that copy: what was judged is what goes out. A
//! body that need not be looked at is never touched and goes out from where it lies.
//!
//! The scan knows the top level only: it finds keys and the ranges of their values and steps over
//! strings and nested values by their brackets. It does not validate what it steps over; the
//! provider will.

use bytes::Bytes;
use memchr::memchr2;
use thiserror::Error;

/// Most edits of one body: a body that repeats its keys more often is refused.
const EDITS_MAX: usize = 16;
/// Most levels of nesting.
const DEPTH_MAX: u32 = 128;

/// Why nothing can be spliced into a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpliceError {
    /// The body is not one JSON object.
    #[error("the body is not a JSON object: {reason} at byte {at}")]
    NotAnObject {
        /// Where the scan stopped.
        at: usize,
        /// What it met there.
        reason: &'static str,
    },
    /// A key is given too often.
    #[error("the body gives its model more than {EDITS_MAX} times")]
    Repeated,
}

/// What is wanted of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The value that `model` must have.
    pub model: Option<&'a str>,
    /// Whether a stream is to report usage.
    pub usage: bool,
}

/// A body ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spliced {
    /// The body in order. Bound: two pieces per edit and one more.
    pub pieces: Vec<Bytes>,
    /// Whether usage was asked for that the caller did not ask for.
    pub usage_injected: bool,
}

/// Makes the body say what is wanted.
///
/// # Errors
/// [`SpliceError`] when a model is wanted and the body is not a JSON object. Usage alone is only
/// ever put where it fits: a body that cannot take it is left as it is.
pub fn splice(body: &Bytes, wanted: Wanted<'_>) -> Result<Spliced, SpliceError> {
    let untouched = || Spliced { pieces: vec![body.clone()], usage_injected: false };
    if wanted == Wanted::default() {
        return Ok(untouched());
    }
    let copy = Bytes::copy_from_slice(body);
    let found = match scan(&copy) {
        Ok(found) => found,
        Err(_) if wanted.model.is_none() => return Ok(untouched()),
        Err(error) => return Err(error),
    };
    let mut edits = Vec::new();
    if let Some(model) = wanted.model {
        found.put_model(model, &copy, &mut edits)?;
    }
    let before = edits.len();
    if wanted.usage && found.is_stream(&copy) {
        edits.extend(found.ask_for_usage(&copy));
    }
    let usage_injected = edits.len() > before;
    if edits.is_empty() && wanted.model.is_none() {
        return Ok(untouched());
    }
    Ok(Spliced { pieces: apply(&copy, edits), usage_injected })
}

/// Replace the bytes from `at` to `end` by `text`.
#[derive(Debug)]
struct Edit {
    at: usize,
    end: usize,
    text: String,
}

fn apply(copy: &Bytes, mut edits: Vec<Edit>) -> Vec<Bytes> {
    // Stable: of two insertions at one place the earlier stays first.
    edits.sort_by_key(|edit| edit.at);
    let mut pieces = Vec::with_capacity(2 * edits.len() + 1);
    let mut at = 0;
    for edit in edits {
        pieces.push(copy.slice(at..edit.at));
        pieces.push(Bytes::from(edit.text));
        at = edit.end;
    }
    pieces.push(copy.slice(at..));
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// A value of an object: its bytes are `at..end`.
type Value = (usize, usize);

/// What the scan found at the top level. Where a key is repeated, parsers disagree on which one
/// counts; every `model` is replaced, and of the others the last counts, as for most parsers.
#[derive(Debug, Default)]
struct Found {
    /// Behind the opening brace.
    inside: usize,
    empty: bool,
    models: Vec<Value>,
    stream: Option<Value>,
    stream_options: Option<Value>,
}

impl Found {
    fn put_model(
        &self,
        model: &str,
        copy: &[u8],
        edits: &mut Vec<Edit>,
    ) -> Result<(), SpliceError> {
        let text = serde_json::Value::from(model).to_string();
        if self.models.is_empty() {
            let comma = if self.empty { "" } else { "," };
            let text = format!("\"model\":{text}{comma}");
            edits.push(Edit { at: self.inside, end: self.inside, text });
        }
        if self.models.len() > EDITS_MAX {
            return Err(SpliceError::Repeated);
        }
        for &(at, end) in &self.models {
            if copy[at..end] != *text.as_bytes() {
                edits.push(Edit { at, end, text: text.clone() });
            }
        }
        Ok(())
    }

    fn is_stream(&self, copy: &[u8]) -> bool {
        self.stream.is_some_and(|(at, end)| &copy[at..end] == b"true")
    }

    /// The edit after which the body asks for usage; `None` when it does or cannot.
    fn ask_for_usage(&self, copy: &[u8]) -> Option<Edit> {
        const ASKING: &str = "{\"include_usage\":true}";
        let Some((at, end)) = self.stream_options else {
            // A stream has a field at least, `stream` itself.
            let text = format!("\"stream_options\":{ASKING},");
            return Some(Edit { at: self.inside, end: self.inside, text });
        };
        match &copy[at..end] {
            b"null" => Some(Edit { at, end, text: ASKING.into() }),
            [b'{', ..] => ask_inside(&copy[at..end], at),
            _ => None,
        }
    }
}

/// The edit of the `stream_options` that begin at `offset`.
fn ask_inside(options: &[u8], offset: usize) -> Option<Edit> {
    let mut asked = None;
    let mut scanner = Scanner { bytes: options, at: 0 };
    let (inside, empty) = scanner
        .object(|key, value| {
            if is_key(key, "include_usage") {
                asked = Some(value);
            }
        })
        .ok()?;
    match asked {
        Some((at, end)) if matches!(&options[at..end], b"false" | b"null") => {
            Some(Edit { at: offset + at, end: offset + end, text: "true".into() })
        }
        Some(_) => None,
        None => {
            let at = offset + inside;
            let comma = if empty { "" } else { "," };
            Some(Edit { at, end: at, text: format!("\"include_usage\":true{comma}") })
        }
    }
}

fn scan(bytes: &[u8]) -> Result<Found, SpliceError> {
    let mut found = Found::default();
    let mut scanner = Scanner { bytes, at: 0 };
    scanner.skip_blanks();
    let (inside, empty) = scanner.object(|key, value| {
        if is_key(key, "model") {
            // Bound: one more than may be edited, which is then refused.
            if found.models.len() <= EDITS_MAX {
                found.models.push(value);
            }
        } else if is_key(key, "stream") {
            found.stream = Some(value);
        } else if is_key(key, "stream_options") {
            found.stream_options = Some(value);
        }
    })?;
    scanner.skip_blanks();
    if scanner.at < bytes.len() {
        return scanner.fail("something follows the object");
    }
    Ok(Found { inside, empty, ..found })
}

/// Whether the string `raw`, without its quotes, says `key`. It may be written with escapes.
fn is_key(raw: &[u8], key: &str) -> bool {
    if !raw.contains(&b'\\') {
        return raw == key.as_bytes();
    }
    let quoted = [b"\"", raw, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|text| text == key)
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Steps over an object and reports its keys and values. Gives the position behind the
    /// opening brace, and whether the object is empty.
    fn object(
        &mut self,
        mut field: impl FnMut(&'a [u8], Value),
    ) -> Result<(usize, bool), SpliceError> {
        self.expect(b'{', "no opening brace")?;
        let inside = self.at;
        self.skip_blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok((inside, true));
        }
        loop {
            self.skip_blanks();
            let start = self.at + 1;
            self.string()?;
            let key = &self.bytes[start..self.at - 1];
            self.skip_blanks();
            self.expect(b':', "no colon behind a key")?;
            self.skip_blanks();
            let at = self.at;
            self.value()?;
            field(key, (at, self.at));
            self.skip_blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok((inside, false));
                }
                _ => return self.fail("neither comma nor brace behind a value"),
            }
        }
    }

    fn value(&mut self) -> Result<(), SpliceError> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{' | b'[') => self.nested(),
            _ => self.scalar(),
        }
    }

    /// Steps over a nested value by its brackets. Which kind is open at which depth is kept in
    /// one bit each.
    fn nested(&mut self) -> Result<(), SpliceError> {
        let (mut braces, mut depth) = (0u128, 0);
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' if depth == DEPTH_MAX => return self.fail("more than 128 levels"),
                b'{' | b'[' => {
                    braces = braces << 1 | u128::from(byte == b'{');
                    depth += 1;
                }
                b'}' | b']' if (braces & 1 == 1) != (byte == b'}') => {
                    return self.fail("a bracket that closes nothing");
                }
                b'}' | b']' => {
                    braces >>= 1;
                    depth -= 1;
                }
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
        self.fail("the end inside a value")
    }

    fn string(&mut self) -> Result<(), SpliceError> {
        self.expect(b'"', "no quote where a string begins")?;
        while let Some(found) = memchr2(b'"', b'\\', &self.bytes[self.at..]) {
            self.at += found + 1;
            if self.bytes[self.at - 1] == b'"' {
                return Ok(());
            }
            // Whatever is escaped, a quote or a backslash too, is no end of the string.
            self.at = (self.at + 1).min(self.bytes.len());
        }
        self.at = self.bytes.len();
        self.fail("the end inside a string")
    }

    fn scalar(&mut self) -> Result<(), SpliceError> {
        let start = self.at;
        let part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        self.at += self.bytes[start..].iter().take_while(|b| part(b)).count();
        if self.at == start { self.fail("no value") } else { Ok(()) }
    }

    fn skip_blanks(&mut self) {
        let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.bytes[self.at..].iter().take_while(|b| blank(b)).count();
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8, reason: &'static str) -> Result<(), SpliceError> {
        if self.peek() != Some(byte) {
            return self.fail(reason);
        }
        self.at += 1;
        Ok(())
    }

    fn fail<T>(&self, reason: &'static str) -> Result<T, SpliceError> {
        Err(SpliceError::NotAnObject { at: self.at, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value as Json, json};

    fn sent(body: &str, wanted: Wanted<'_>) -> (String, bool) {
        let spliced = splice(&Bytes::copy_from_slice(body.as_bytes()), wanted).unwrap();
        (String::from_utf8(spliced.pieces.concat()).unwrap(), spliced.usage_injected)
    }

    const USAGE: Wanted<'_> = Wanted { model: None, usage: true };

    fn model(name: &str) -> Wanted<'_> {
        Wanted { model: Some(name), usage: false }
    }

    #[test]
    fn a_body_that_needs_nothing_is_the_same_memory() {
        let body = Bytes::from_static(b"{\"model\":\"a\",\"stream\":false}");
        for wanted in [Wanted::default(), USAGE] {
            let pieces = splice(&body, wanted).unwrap().pieces;
            assert_eq!(pieces.len(), 1);
            assert_eq!(pieces[0].as_ptr_range(), body.as_ptr_range());
        }
        // What was judged must be what is sent, even when it was found in order.
        let pieces = splice(&body, model("a")).unwrap().pieces;
        assert_eq!(pieces.concat(), body);
        assert_ne!(pieces[0].as_ptr(), body.as_ptr());
    }

    #[test]
    fn the_model_is_replaced_at_the_top_alone() {
        let body = r#" {"messages":[{"model":"x","s":"\"]}"}], "model" : "x" , "n":1} "#;
        let expected = r#" {"messages":[{"model":"x","s":"\"]}"}], "model" : "y\"" , "n":1} "#;
        assert_eq!(sent(body, model("y\"")).0, expected);
        assert_eq!(sent("{}", model("y")).0, r#"{"model":"y"}"#);
        assert_eq!(sent(r#"{"a":1}"#, model("y")).0, r#"{"model":"y","a":1}"#);
        let twice = r#"{"model":"a","mod\u0065l":{"b":[]}}"#;
        assert_eq!(sent(twice, model("y")).0, r#"{"model":"y","mod\u0065l":"y"}"#);
    }

    #[test]
    fn a_body_that_is_no_object_is_refused_when_a_model_is_needed() {
        for body in
            ["", "[]", "null", "{", "{\"a\":}", "{\"a\":[}]}", "{} {}", "{\"a\"", "{\"a\":\"\\"]
        {
            let bytes = Bytes::copy_from_slice(body.as_bytes());
            let error = splice(&bytes, model("y")).unwrap_err();
            assert!(matches!(error, SpliceError::NotAnObject { .. }), "{body}: {error}");
            assert_eq!(sent(body, USAGE), (body.to_owned(), false));
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(129), "]".repeat(129));
        assert!(splice(&Bytes::from(deep), model("y")).is_err());
        let often = format!("{{{}\"z\":1}}", "\"model\":1,".repeat(17));
        assert_eq!(splice(&Bytes::from(often), model("y")), Err(SpliceError::Repeated));
    }

    #[test]
    fn usage_is_asked_for_once() {
        for (body, expected) in [
            (r#"{"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#),
            (
                r#"{"stream":true,"stream_options":null}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{ }}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true }}"#,
            ),
            (
                r#"{"stream_options":{"a":{}},"stream":true}"#,
                r#"{"stream_options":{"include_usage":true,"a":{}},"stream":true}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":false}}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
        ] {
            assert_eq!(sent(body, USAGE), (expected.to_owned(), true));
            assert_eq!(sent(expected, USAGE), (expected.to_owned(), false));
        }
        for body in [r#"{"a":1}"#, r#"{"stream":false}"#, r#"{"stream":true,"stream_options":3}"#] {
            assert_eq!(sent(body, USAGE), (body.to_owned(), false));
        }
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            "[\\PC\"\\\\{}\\[\\]\n]{0,12}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
                prop::collection::vec((any_key(), inner), 0..5)
                    .prop_map(|fields| fields.into_iter().collect::<Map<_, _>>().into()),
            ]
        })
    }

    fn any_key() -> impl Strategy<Value = String> {
        prop_oneof![
            prop::sample::select(vec!["model", "stream", "stream_options", "include_usage"])
                .prop_map(str::to_owned),
            "[a-z\"\\\\]{0,4}",
        ]
    }

    proptest! {
        #[test]
        fn property_splicing_is_what_a_parser_would_do(
            fields in prop::collection::vec((any_key(), any_json()), 0..6),
            stream in any::<Option<bool>>(),
            name in "\\PC{1,8}",
            pretty in any::<bool>(),
        ) {
            let mut before: Map<String, Json> = fields.into_iter().collect();
            if let Some(stream) = stream {
                before.insert("stream".into(), stream.into());
            }
            let text = match pretty {
                true => serde_json::to_string_pretty(&before).unwrap(),
                false => serde_json::to_string(&before).unwrap(),
            };
            let (text, injected) = sent(&text, Wanted { model: Some(&name), usage: true });
            let after: Json = serde_json::from_str(&text).unwrap();
            let mut expected = before.clone();
            expected.insert("model".into(), json!(name));
            let mut asked = false;
            if before.get("stream") == Some(&json!(true)) {
                let options = expected.entry("stream_options").or_insert(Json::Null);
                if options.is_null() {
                    *options = json!({});
                }
                if let Some(options) = options.as_object_mut() {
                    let usage = options.entry("include_usage").or_insert(json!(false));
                    if usage.is_null() || *usage == json!(false) {
                        (*usage, asked) = (json!(true), true);
                    }
                }
            }
            prop_assert_eq!(after, Json::from(expected));
            prop_assert_eq!(injected, asked);
        }

        #[test]
        fn property_any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let body = Bytes::from(bytes);
            let _ = splice(&body, Wanted { model: Some("m"), usage: true });
        }
    }
}
