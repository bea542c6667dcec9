//! How many tokens a request will use, as far as its body says before it is sent.
//!
//! What goes in is a quarter of the bytes, the rule of thumb of the providers themselves for
//! English text; bytes of `data:` URLs (pictures, sound) are left out of it. What comes out is
//! at most what the body allows (`max_tokens` and its further names, times `n`). A body that sets
//! no such limit is expected to bring nothing out: what it uses is charged when the answer tells,
//! and may leave the limit in debt.
//!
//! The body is in memory that its caller may still change, so each byte is copied once, in small
//! pieces, and only an estimate depends on it.

use crate::intake::Body;

/// Bytes that are copied at once.
const PIECE: usize = 4096;
/// Pieces that are looked at before others run: a mebibyte.
const PIECES_PER_TURN: usize = 256;
/// Bytes of text to a token.
const BYTES_PER_TOKEN: u64 = 4;
/// Longest name that matters.
const NAME_MAX: usize = "max_completion_tokens".len();

/// What a request is expected to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Estimate {
    /// Tokens that go in.
    pub input: u64,
    /// Most tokens that its body lets come out; 0: it does not say.
    pub output_max: u64,
}

impl Estimate {
    /// What is reserved for it.
    pub fn whole(self) -> u64 {
        self.input.saturating_add(self.output_max)
    }

    /// What it used when its answer did not say, and this many bytes of it were delivered.
    pub fn used(self, bytes: u64) -> u64 {
        let output = bytes.div_ceil(BYTES_PER_TOKEN);
        self.input.saturating_add(match self.output_max {
            0 => output,
            most => output.min(most),
        })
    }
}

/// Estimates what the request with this body will use.
pub(super) async fn tokens(body: &Body) -> Estimate {
    let mut scan = Scan::default();
    let mut at = 0;
    // Bound: the length of the body.
    while at < body.len() {
        if at > 0 {
            tokio::task::yield_now().await;
        }
        at = scan_turn(&mut scan, body, at);
    }
    scan.end();
    scan.estimate(body.len() as u64)
}

fn scan_turn(scan: &mut Scan, body: &Body, from: usize) -> usize {
    let mut piece = [0; PIECE];
    let mut at = from;
    for _ in 0..PIECES_PER_TURN {
        let bytes = PIECE.min(body.len() - at);
        body.copy_piece(at, &mut piece[..bytes]);
        piece[..bytes].iter().for_each(|byte| scan.byte(*byte));
        at += bytes;
        if at == body.len() {
            break;
        }
    }
    at
}

/// Reads a JSON object byte by byte for the few numbers at its top that matter. Whatever the
/// bytes, it ends in some estimate.
#[derive(Default)]
struct Scan {
    depth: u32,
    string: Option<Text>,
    /// The last string of the top object that was closed, if it may be a name that matters.
    name: Option<Name>,
    /// The number that is being read, and for what.
    number: Option<(Name, u64)>,
    /// Bytes that are no text.
    opaque: u64,
    output_max: u64,
    choices: u64,
}

/// A string that is being read.
#[derive(Default)]
struct Text {
    head: [u8; NAME_MAX],
    bytes: u64,
    is_escaped: bool,
}

#[derive(Clone, Copy)]
enum Name {
    Choices,
    OutputMax,
}

impl Scan {
    fn byte(&mut self, byte: u8) {
        match &mut self.string {
            Some(text) => {
                if text.closes(byte) {
                    self.end_string();
                }
            }
            None => self.structure(byte),
        }
    }

    /// A byte outside of strings.
    fn structure(&mut self, byte: u8) {
        if let Some((name, value)) = &mut self.number {
            match byte {
                b'0'..=b'9' => {
                    *value = value.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                    return;
                }
                b' ' | b'\t' | b'\r' | b'\n' if *value == 0 => return,
                _ => {
                    let (name, value) = (*name, *value);
                    self.end_number(name, value);
                }
            }
        }
        match byte {
            b'"' => self.string = Some(Text::default()),
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' => self.number = self.name.take().map(|name| (name, 0)),
            b',' => self.name = None,
            _ => {}
        }
    }

    fn end_string(&mut self) {
        let Some(text) = self.string.take() else { return };
        if text.head.starts_with(b"data:") {
            self.opaque += text.bytes;
        }
        self.name = match self.depth {
            1 => text.name(),
            _ => None,
        };
    }

    fn end_number(&mut self, name: Name, value: u64) {
        self.number = None;
        match name {
            Name::Choices => self.choices = value,
            // Some bodies carry both the old name and the new one.
            Name::OutputMax => self.output_max = self.output_max.max(value),
        }
    }

    fn end(&mut self) {
        if let Some((name, value)) = self.number {
            self.end_number(name, value);
        }
    }

    fn estimate(&self, bytes: u64) -> Estimate {
        let input = bytes.saturating_sub(self.opaque).div_ceil(BYTES_PER_TOKEN);
        Estimate { input, output_max: self.output_max.saturating_mul(self.choices.max(1)) }
    }
}

impl Text {
    /// Takes the next byte; true if it ends the string.
    fn closes(&mut self, byte: u8) -> bool {
        match (self.is_escaped, byte) {
            (false, b'"') => return true,
            (false, b'\\') => self.is_escaped = true,
            _ => self.is_escaped = false,
        }
        if let Some(place) = self.head.get_mut(self.bytes as usize) {
            *place = byte;
        }
        self.bytes += 1;
        false
    }

    fn name(&self) -> Option<Name> {
        match self.head.get(..self.bytes as usize)? {
            b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens" => {
                Some(Name::OutputMax)
            }
            b"n" => Some(Name::Choices),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn estimate(text: &[u8]) -> u64 {
        let mut scan = Scan::default();
        text.iter().for_each(|byte| scan.byte(*byte));
        scan.end();
        scan.estimate(text.len() as u64).whole()
    }

    fn output(text: &str) -> u64 {
        estimate(text.as_bytes()) - (text.len() as u64).div_ceil(BYTES_PER_TOKEN)
    }

    #[test]
    fn the_limit_of_a_body_is_found_at_its_top_alone() {
        assert_eq!(output(r#"{"model":"m","max_tokens":100}"#), 100);
        assert_eq!(output(r#"{ "max_completion_tokens" : 70 , "max_tokens": 5}"#), 70);
        assert_eq!(output(r#"{"max_output_tokens":9,"n":3}"#), 27);
        assert_eq!(output(r#"{"a":{"max_tokens":100},"b":[{"n":3}]}"#), 0);
        assert_eq!(output(r#"{"a":"max_tokens","b":"\"max_tokens\":7","c":5}"#), 0);
        assert_eq!(output(r#"{"max_tokens":null,"x":7}"#), 0);
        assert_eq!(output(r#"{"max_tokens":"50"}"#), 0);
        assert_eq!(estimate(br#"{"max_tokens":99999999999999999999999"#), u64::MAX);
        assert_eq!(output(r#"{"max_tokens":4"#), 4, "cut short");
    }

    #[test]
    fn pictures_are_not_text() {
        let picture = format!(r#"{{"url":"data:image/png;base64,{}"}}"#, "A".repeat(4000));
        assert!(estimate(picture.as_bytes()) < 10);
        assert_eq!(estimate(&[b'x'; 4001]), 1001);
        assert_eq!(estimate(b""), 0);
    }

    #[test]
    fn what_an_answer_did_not_say_is_told_by_its_bytes() {
        let said = Estimate { input: 10, output_max: 50 };
        assert_eq!((said.whole(), said.used(0), said.used(41)), (60, 10, 21));
        assert_eq!(said.used(u64::MAX), 60, "no more than the body allows");
        let open = Estimate { input: 10, output_max: 0 };
        assert_eq!((open.whole(), open.used(400)), (10, 110));
    }

    proptest! {
        #[test]
        fn property_any_bytes_end_in_an_estimate(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = estimate(&bytes);
        }

        /// Whatever stands around them, the two numbers of the top are found.
        #[test]
        fn property_it_finds_what_stands_at_the_top(
            max in any::<u32>(),
            n in 0u32..9,
            text in r#"([a-z{}\[\],:]|\\\\|\\"){0,40}"#,
            gap in "[ \n]{0,3}",
        ) {
            let inner = r#"{"max_tokens":3,"n":["n",2]}"#;
            let source = format!(
                r#"{{"x{text}":[{inner}, "{text}"],{gap}"n"{gap}:{gap}{n}{gap},"max_tokens":{gap}{max}{gap}}}"#
            );
            let expected = u64::from(max) * u64::from(n.max(1));
            let input = (source.len() as u64).div_ceil(BYTES_PER_TOKEN);
            prop_assert_eq!(estimate(source.as_bytes()), input + expected, "{}", source);
        }
    }
}
