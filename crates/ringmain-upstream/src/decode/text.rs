//! Strings of a JSON text, borrowed from it wherever they hold no escape.

use std::ops::Range;

use memchr::memchr;
use serde_json::value::RawValue;

/// The inside of `raw` if it is a string: as written, escapes and all.
pub(super) fn inside(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

pub(super) fn has_escape(inside: &str) -> bool {
    memchr(b'\\', inside.as_bytes()).is_some()
}

/// The string's text; written to `buffer` when it holds an escape.
pub(super) fn text<'a>(raw: Option<&'a RawValue>, buffer: &'a mut String) -> &'a str {
    match raw.and_then(inside) {
        None => "",
        Some(plain) if !has_escape(plain) => plain,
        Some(escaped) => {
            buffer.clear();
            unescape(escaped, buffer);
            buffer
        }
    }
}

/// The string's text as a value of its own.
pub(super) fn owned(raw: Option<&RawValue>) -> String {
    let mut buffer = String::new();
    text(raw, &mut buffer).to_owned()
}

/// Where `part`, which was borrowed from `whole`, lies in it.
pub(super) fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let at = part.as_ptr() as usize - whole.as_ptr() as usize;
    at..at + part.len()
}

/// Appends what the escapes of a JSON string stand for. Half a surrogate pair, which a provider
/// can produce by cutting its text, becomes U+FFFD: text frames are UTF-8.
pub(super) fn unescape(mut rest: &str, out: &mut String) {
    while let Some(at) = memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        rest = rest.get(at + 2..).unwrap_or_default();
        match escape {
            b'n' => out.push('\n'),
            b't' => out.push('\t'),
            b'r' => out.push('\r'),
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'u' => rest = unescape_unicode(rest, out),
            other => out.push(char::from(other)),
        }
    }
    out.push_str(rest);
}

fn unescape_unicode<'a>(rest: &'a str, out: &mut String) -> &'a str {
    let Some((unit, rest)) = unit(rest) else {
        out.push(char::REPLACEMENT_CHARACTER);
        return rest;
    };
    let low = rest.strip_prefix("\\u").and_then(self::unit);
    let (units, used) = match low {
        Some((low, after)) if is_high(unit) && is_low(low) => ([unit, low], after),
        _ => ([unit, 0], rest),
    };
    let decoded = char::decode_utf16(units).next();
    out.push(decoded.and_then(Result::ok).unwrap_or(char::REPLACEMENT_CHARACTER));
    used
}

fn is_high(unit: u16) -> bool {
    (0xd800..0xdc00).contains(&unit)
}

fn is_low(unit: u16) -> bool {
    (0xdc00..0xe000).contains(&unit)
}

fn unit(text: &str) -> Option<(u16, &str)> {
    let digits = text.get(..4)?;
    Some((u16::from_str_radix(digits, 16).ok()?, &text[4..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(json: &str) -> String {
        owned(Some(serde_json::from_str::<&RawValue>(json).unwrap()))
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        assert_eq!(read(r#""a\ud83d""#), "a\u{fffd}");
        assert_eq!(read(r#""\ud83d\n\ude00""#), "\u{fffd}\n\u{fffd}");
        assert_eq!(read(r#""\ud83d\ude00\u0041""#), "😀A");
        assert_eq!(read("{\"a\":1}"), "");
    }

    proptest! {
        #[test]
        fn property_escapes_are_what_a_parser_says(text in any::<String>(), ascii in any::<bool>()) {
            let mut json = serde_json::to_string(&text).unwrap();
            if ascii {
                let units = |c: char| -> String {
                    let mut buffer = [0; 2];
                    c.encode_utf16(&mut buffer).iter().map(|u| format!("\\u{u:04X}")).collect()
                };
                json = json
                    .chars()
                    .map(|c| if c.is_ascii() { c.to_string() } else { units(c) })
                    .collect();
            }
            prop_assert_eq!(read(&json), text);
        }
    }
}
