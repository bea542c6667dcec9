//! Writing JSON strings: all of JSON that a caller of a chat endpoint needs.

use std::io::{self, Write};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes `text` as a JSON string, quotes included: for bodies that are put together by hand.
/// Stretches that need no escape go out in one piece; everything beyond ASCII stays as it is,
/// UTF-8 being JSON's encoding.
///
/// ```
/// let mut out = Vec::new();
/// ringmain_client::write_json_string(&mut out, "a \"b\"\n")?;
/// assert_eq!(out, br#""a \"b\"\n""#);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// Those of `out`.
pub fn write_json_string(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(b"\"")?;
    let bytes = text.as_bytes();
    let mut start = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.write_all(&bytes[start..at])?;
        write_escape(out, byte)?;
        start = at + 1;
    }
    out.write_all(&bytes[start..])?;
    out.write_all(b"\"")
}

fn write_escape(out: &mut impl Write, byte: u8) -> io::Result<()> {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            return out.write_all(&[b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
        }
    };
    out.write_all(&[b'\\', short])
}

/// Counts what is written: a body is measured before its chunk is taken.
#[derive(Debug, Default)]
pub(crate) struct Count(pub(crate) u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        let mut out = Vec::new();
        write_json_string(&mut out, text).unwrap();
        let mut count = Count::default();
        write_json_string(&mut count, text).unwrap();
        assert_eq!(count.0, out.len() as u64);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_json_forbids_is_escaped_and_nothing_else() {
        assert_eq!(json(""), r#""""#);
        assert_eq!(json("a\"b\\c/d"), r#""a\"b\\c/d""#);
        assert_eq!(json("1\n2\r3\t4\u{0}5\u{1f}6\u{8}"), r#""1\n2\r3\t4\u00005\u001f6\u0008""#);
        assert_eq!(json("é 漢 🦀 \u{7f}\u{2028}"), "\"é 漢 🦀 \u{7f}\u{2028}\"");
    }
}
