//! Two top-level fields may be spliced into a request without parsing the rest: `model` and
//! `stream_options.include_usage`.
//!
//! A body that is looked at must be private: what is sent are pieces of it, and what was judged
//! must be what goes out. A body that need not be looked at is never touched and goes out from
//! where it lies, which may be memory that its writer still changes.
//!
//! Parsers disagree about keys: some compare them without regard to case, and of two equal keys
//! some take the first and some the last. Where a model is put, a body that could be read in two
//! ways is refused. So is one that is not UTF-8, of which a parser may leave something out, and one
//! with a control character in a string: it is no JSON, and to a reader of another format it could
//! be where a field begins.
//!
//! The scan knows the top level only: it finds keys and the ranges of their values and steps over
//! strings and nested values by their brackets. It does not validate what it steps over; the
//! provider will.

use bytes::Bytes;
use memchr::{memchr, memchr2, memmem};
use thiserror::Error;

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
    /// Some parsers leave out what is no text, and read another key then.
    #[error("the body must be text in UTF-8 where its model is judged")]
    NotText,
    /// The body gives its model in a way that not every parser reads alike.
    #[error("the body must name its model once, under the key \"model\" as it stands here")]
    Ambiguous,
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
    /// The body in order. Bound: two pieces per edit, of which there are two, and one more.
    pub pieces: Vec<Bytes>,
    /// Whether usage was asked for that the caller did not ask for.
    pub usage_injected: bool,
}

/// Makes the body say what is wanted. If anything is, the body must be private: a writer who
/// changes it afterwards changes what was judged.
///
/// # Errors
/// [`SpliceError`] when a model is wanted and the body is not a JSON object, or not one whose
/// model every parser reads alike. Usage alone is only ever put where it fits: a body that cannot
/// take it is left as it is.
pub fn splice(body: &Bytes, wanted: Wanted<'_>) -> Result<Spliced, SpliceError> {
    let untouched = || Spliced { pieces: vec![body.clone()], usage_injected: false };
    if wanted == Wanted::default() || wanted.model.is_none() && is_no_stream(body) {
        return Ok(untouched());
    }
    let found = match scan(body) {
        Ok(found) => found,
        Err(_) if wanted.model.is_none() => return Ok(untouched()),
        Err(error) => return Err(error),
    };
    let mut edits = Vec::new();
    if let Some(model) = wanted.model {
        if std::str::from_utf8(body).is_err() {
            return Err(SpliceError::NotText);
        }
        edits.extend(found.put_model(model, body)?);
    }
    let before = edits.len();
    if wanted.usage && found.is_stream(body) {
        edits.extend(found.ask_for_usage(body));
    }
    let usage_injected = edits.len() > before;
    Ok(Spliced { pieces: apply(body, edits), usage_injected })
}

/// Whether no key of this body can say `stream`: it is not written there, nor hidden by an escape.
fn is_no_stream(body: &[u8]) -> bool {
    memchr(b'\\', body).is_none() && memmem::find(body, b"\"stream\"").is_none()
}

/// Replace the bytes from `at` to `end` by `text`.
#[derive(Debug)]
struct Edit {
    at: usize,
    end: usize,
    text: String,
}

fn apply(body: &Bytes, mut edits: Vec<Edit>) -> Vec<Bytes> {
    // Stable: of two insertions at one place the earlier stays first.
    edits.sort_by_key(|edit| edit.at);
    let mut pieces = Vec::with_capacity(2 * edits.len() + 1);
    let mut at = 0;
    for edit in edits {
        pieces.push(body.slice(at..edit.at));
        pieces.push(Bytes::from(edit.text));
        at = edit.end;
    }
    pieces.push(body.slice(at..));
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// A value of an object: its bytes are `at..end`.
type Value = (usize, usize);

/// What the scan found at the top level.
#[derive(Debug, Default)]
struct Found {
    /// Behind the opening brace.
    inside: usize,
    empty: bool,
    model: Key,
    stream: Key,
    stream_options: Key,
}

/// What the scan found of one key.
#[derive(Debug, Default)]
struct Key {
    value: Option<Value>,
    /// The key is repeated, or stands there in another case: parsers disagree on its value.
    is_ambiguous: bool,
}

impl Key {
    fn found(&mut self, spelling: Spelling, value: Value) {
        self.is_ambiguous |= spelling == Spelling::Alike || self.value.is_some();
        self.value = Some(value);
    }
}

impl Found {
    /// The edit after which the body names this model; `None` when it does already.
    fn put_model(&self, model: &str, body: &[u8]) -> Result<Option<Edit>, SpliceError> {
        if self.model.is_ambiguous {
            return Err(SpliceError::Ambiguous);
        }
        let text = serde_json::Value::from(model).to_string();
        Ok(match self.model.value {
            Some((at, end)) if body[at..end] == *text.as_bytes() => None,
            Some((at, end)) => Some(Edit { at, end, text }),
            None => {
                let comma = if self.empty { "" } else { "," };
                let text = format!("\"model\":{text}{comma}");
                Some(Edit { at: self.inside, end: self.inside, text })
            }
        })
    }

    /// Whether every parser reads a stream.
    fn is_stream(&self, body: &[u8]) -> bool {
        !self.stream.is_ambiguous
            && self.stream.value.is_some_and(|(at, end)| &body[at..end] == b"true")
    }

    /// The edit after which the body asks for usage; `None` when it does or cannot.
    fn ask_for_usage(&self, body: &[u8]) -> Option<Edit> {
        const ASKING: &str = "{\"include_usage\":true}";
        if self.stream_options.is_ambiguous {
            return None;
        }
        let Some((at, end)) = self.stream_options.value else {
            // A stream has a field at least, `stream` itself.
            let text = format!("\"stream_options\":{ASKING},");
            return Some(Edit { at: self.inside, end: self.inside, text });
        };
        match &body[at..end] {
            b"null" => Some(Edit { at, end, text: ASKING.into() }),
            [b'{', ..] => ask_inside(&body[at..end], at),
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
            if spelling(key, "include_usage") == Some(Spelling::Exact) {
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
        for (known, name) in [
            (&mut found.model, "model"),
            (&mut found.stream, "stream"),
            (&mut found.stream_options, "stream_options"),
        ] {
            if let Some(spelling) = spelling(key, name) {
                known.found(spelling, value);
            }
        }
    })?;
    scanner.skip_blanks();
    if scanner.at < bytes.len() {
        return scanner.fail("something follows the object");
    }
    Ok(Found { inside, empty, ..found })
}

/// How a key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    Exact,
    /// In another case: the same key to a parser that folds cases.
    Alike,
}

/// How the string `raw`, without its quotes, says `key`, if it does. It may be written with
/// escapes; what they cannot mean could be any key to a parser that leaves it out.
fn spelling(raw: &[u8], key: &str) -> Option<Spelling> {
    // Most keys are other words, of another length.
    if raw.len() != key.len() && raw.iter().all(|byte| byte.is_ascii() && *byte != b'\\') {
        return None;
    }
    let unescaped;
    let mut text = raw;
    if raw.contains(&b'\\') {
        let quoted = [b"\"", raw, b"\""].concat();
        let Ok(text_of_it) = serde_json::from_slice::<String>(&quoted) else {
            return Some(Spelling::Alike);
        };
        unescaped = text_of_it;
        text = unescaped.as_bytes();
    }
    if text == key.as_bytes() {
        return Some(Spelling::Exact);
    }
    if text.eq_ignore_ascii_case(key.as_bytes()) {
        return Some(Spelling::Alike);
    }
    // Unicode folds the long s too. Its other fold into ASCII, the Kelvin sign, is in no key here.
    let text = std::str::from_utf8(text).ok().filter(|text| text.contains('\u{17f}'))?;
    text.replace('\u{17f}', "s").eq_ignore_ascii_case(key).then_some(Spelling::Alike)
}

/// Looks at every byte, so that the compiler can look at many at once.
fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |found, byte| found | (*byte < b' '))
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
        let start = self.at;
        while let Some(found) = memchr2(b'"', b'\\', &self.bytes[self.at..]) {
            self.at += found + 1;
            if self.bytes[self.at - 1] == b'"' {
                return match has_control(&self.bytes[start..self.at]) {
                    true => self.fail("a control character inside the string before"),
                    false => Ok(()),
                };
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
    fn an_escape_hides_no_stream() {
        let asks = |body: &str| sent(body, USAGE).1;
        assert!(asks(r#"{"stream":true}"#) && asks(r#"{"str\u0065am":true}"#));
        assert!(!asks(r#"{"model":"m"}"#) && !asks(r#"{"model":"a\nb"}"#) && !asks(""));
    }

    #[test]
    fn a_body_that_needs_nothing_is_the_same_memory() {
        let body = Bytes::from_static(b"{\"model\":\"a\",\"stream\":false}");
        for wanted in [Wanted::default(), USAGE] {
            let pieces = splice(&body, wanted).unwrap().pieces;
            assert_eq!(pieces.len(), 1);
            assert_eq!(pieces[0].as_ptr_range(), body.as_ptr_range());
        }
    }

    #[test]
    fn zero_copy_splice_cuts_what_it_is_given() {
        let body = Bytes::from_static(b"{\"model\":\"a\",\"stream\":true}");
        let pieces = splice(&body, model("a")).unwrap().pieces;
        assert_eq!((pieces.len(), pieces[0].as_ptr_range()), (1, body.as_ptr_range()));
        let pieces = splice(&body, model("b")).unwrap().pieces;
        assert_eq!((pieces.len(), &pieces[1][..]), (3, &b"\"b\""[..]));
        assert_eq!(pieces[0].as_ptr(), body.as_ptr());
        assert_eq!(pieces[2].as_ptr_range().end, body.as_ptr_range().end);
    }

    #[test]
    fn the_model_is_replaced_at_the_top_alone() {
        let body = r#" {"messages":[{"model":"x","s":"\"]}"}], "model" : "x" , "n":1} "#;
        let expected = r#" {"messages":[{"model":"x","s":"\"]}"}], "model" : "y\"" , "n":1} "#;
        assert_eq!(sent(body, model("y\"")).0, expected);
        assert_eq!(sent("{}", model("y")).0, r#"{"model":"y"}"#);
        assert_eq!(sent(r#"{"a":1}"#, model("y")).0, r#"{"model":"y","a":1}"#);
        let escaped = r#"{"mod\u0065l":{"b":[]}}"#;
        assert_eq!(sent(escaped, model("y")).0, r#"{"mod\u0065l":"y"}"#);
    }

    #[test]
    fn a_model_that_parsers_read_differently_is_refused() {
        for body in [
            r#"{"model":"y","model":"x"}"#,
            r#"{"model":"y","mod\u0065l":"x"}"#,
            r#"{"model":"y","Model":"x"}"#,
            r#"{"MODEL":"y"}"#,
            r#"{"m\u004fdel":"y"}"#,
        ] {
            let bytes = Bytes::copy_from_slice(body.as_bytes());
            assert_eq!(splice(&bytes, model("y")), Err(SpliceError::Ambiguous), "{body}");
            assert_eq!(sent(body, USAGE), (body.to_owned(), false));
        }
        let other = r#"{"a":{"Model":1},"models":2,"model":"x"}"#;
        assert_eq!(sent(other, model("y")).0, r#"{"a":{"Model":1},"models":2,"model":"y"}"#);
    }

    #[test]
    fn usage_is_not_put_where_parsers_could_miss_the_stream() {
        for body in [
            r#"{"stream":false,"stream":true}"#,
            r#"{"stream":true,"STREAM":false}"#,
            r#"{"stream":true,"\u017ftream":false}"#,
            r#"{"stream":true,"Stream_Options":{}}"#,
            r#"{"stream":true,"stream_options":{},"stream_options":{}}"#,
        ] {
            assert_eq!(sent(body, USAGE), (body.to_owned(), false));
        }
    }

    #[test]
    fn a_body_that_is_no_object_is_refused_when_a_model_is_needed() {
        for body in [
            "",
            "[]",
            "null",
            "{",
            "{\"a\":}",
            "{\"a\":[}]}",
            "{} {}",
            "{\"a\"",
            "{\"a\":\"\\",
            "{\"a\":\"\r\n\"}",
            "{\"a\":[\"\\\n\"]}",
            "{\"a\u{1}\":1}",
        ] {
            let bytes = Bytes::copy_from_slice(body.as_bytes());
            let error = splice(&bytes, model("y")).unwrap_err();
            assert!(matches!(error, SpliceError::NotAnObject { .. }), "{body}: {error}");
            assert_eq!(sent(body, USAGE), (body.to_owned(), false));
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(129), "]".repeat(129));
        assert!(splice(&Bytes::from(deep), model("y")).is_err());
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
