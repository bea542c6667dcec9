//! The usual event of a chat stream, read in one pass.
//!
//! Nearly every event says one thing: one choice, one piece of content. Such an event is found
//! with a single look at each of its bytes; anything else, be it only a field that is not null,
//! is left to the full reading. What is taken here the full reading would take too, and say the
//! same of it: a test compares the two.
//!
//! Most streams say the same around every piece: id, time and model do not change. An event that
//! begins and ends like the one before it is known but for its content, and that is all of it that
//! is looked at.

use super::text::range_in;

/// Most bytes of an event without its content that are kept to know the next one by.
const AROUND_BYTES_MAX: usize = 2048;
/// Most events in a row that did not look like the one before, until that is not tried any more.
const STRANGERS_MAX: u8 = 8;

/// The usual event of one stream, as it came last.
#[derive(Debug, Default)]
pub(super) struct Usual {
    /// What stood before the content, its opening quote included; empty: nothing is known.
    before: Vec<u8>,
    /// What stood behind it, from its closing quote on.
    after: Vec<u8>,
    choice: u16,
    strangers: u8,
}

impl Usual {
    /// Reads the usual event; `None` for every other.
    pub fn read<'a>(&mut self, data: &'a [u8]) -> Option<Quick<'a>> {
        if self.strangers > STRANGERS_MAX {
            return read(data);
        }
        if let Some(content) = self.recognize(data) {
            self.strangers = 0;
            return Some(Quick { choice: self.choice, content: Some(content) });
        }
        let quick = read(data)?;
        if let Some(content) = quick.content {
            self.strangers += 1;
            self.learn(data, quick.choice, content);
        }
        Some(quick)
    }

    /// The content of an event that is known around it.
    fn recognize<'a>(&self, data: &'a [u8]) -> Option<Inside<'a>> {
        let end = data.len().checked_sub(self.after.len())?;
        if self.before.is_empty()
            || end < self.before.len()
            || !data.ends_with(&self.after)
            || !data.starts_with(&self.before)
        {
            return None;
        }
        // The content has to end where what is known begins.
        let mut scan = Scan { bytes: data, at: self.before.len() - 1 };
        scan.text().filter(|_| scan.at == end + 1)
    }

    fn learn(&mut self, data: &[u8], choice: u16, content: Inside<'_>) {
        let content = range_in(data, content.as_bytes());
        self.choice = choice;
        self.before.clear();
        self.after.clear();
        if data.len() - content.len() <= AROUND_BYTES_MAX {
            self.before.extend_from_slice(&data[..content.start]);
            self.after.extend_from_slice(&data[content.end..]);
        }
    }
}

/// What the usual event says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Quick<'a> {
    pub choice: u16,
    /// The inside of the content's string; `None` without one.
    pub content: Option<Inside<'a>>,
}

/// The inside of a string of text, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside<'a> {
    /// Without escapes; known to be UTF-8.
    Plain(&'a [u8]),
    /// With escapes, each of which is whole.
    Escaped(&'a str),
}

impl<'a> Inside<'a> {
    fn as_bytes(self) -> &'a [u8] {
        match self {
            Inside::Plain(bytes) => bytes,
            Inside::Escaped(text) => text.as_bytes(),
        }
    }
}

/// The fields that the full reading knows. One that comes twice is no usual event.
const OF_EVENT: [&[u8]; 4] = [b"choices", b"usage", b"error", b"x_groq"];
const OF_CHOICE: [&[u8]; 5] = [b"index", b"delta", b"finish_reason", b"message", b"text"];
const OF_DELTA: [&[u8]; 7] = [
    b"content",
    b"role",
    b"refusal",
    b"reasoning_content",
    b"reasoning",
    b"tool_calls",
    b"function_call",
];

/// Reads the usual event of a stream that nothing is known of.
pub(super) fn read(data: &[u8]) -> Option<Quick<'_>> {
    let mut scan = Scan { bytes: data, at: 0 };
    let mut quick = None;
    scan.object(&OF_EVENT, |scan, known| match known {
        Some(b"choices") => {
            scan.expect(b'[')?;
            quick = Some(scan.choice()?);
            scan.expect(b']')
        }
        Some(_) => None,
        None => scan.scalar(),
    })?;
    if scan.at == data.len() { quick } else { None }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// Steps over an object. `field` steps over each value that is not null, and is told whose it
    /// is if it is that of a known field.
    fn object(
        &mut self,
        known: &[&'static [u8]],
        mut field: impl FnMut(&mut Scan<'a>, Option<&'static [u8]>) -> Option<()>,
    ) -> Option<()> {
        self.expect(b'{')?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Some(());
        }
        let mut seen = 0u32;
        loop {
            // A key must be text, and is never another one in disguise.
            let key = self.plain_string().filter(|key| key.is_ascii())?;
            let place = known.iter().position(|known| *known == key);
            if let Some(place) = place {
                if seen & 1 << place != 0 {
                    return None;
                }
                seen |= 1 << place;
            }
            self.expect(b':')?;
            self.skip_space();
            if !self.null() {
                field(self, place.map(|place| known[place]))?;
            }
            match self.next()? {
                b',' => self.skip_space(),
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn choice(&mut self) -> Option<Quick<'a>> {
        let mut quick = Quick { choice: 0, content: None };
        self.object(&OF_CHOICE, |scan, known| {
            match known {
                Some(b"index") => quick.choice = scan.index()?,
                Some(b"delta") => quick.content = scan.delta()?,
                Some(_) => return None,
                None => scan.scalar()?,
            }
            Some(())
        })?;
        Some(quick)
    }

    /// The content of a delta that says nothing else but who speaks.
    fn delta(&mut self) -> Option<Option<Inside<'a>>> {
        let mut content = None;
        self.object(&OF_DELTA, |scan, known| {
            match known {
                Some(b"content") => content = Some(scan.text()?),
                Some(b"role") => return scan.plain_string()?.is_ascii().then_some(()),
                Some(_) => return None,
                None => scan.scalar()?,
            }
            Some(())
        })?;
        Some(content)
    }

    fn index(&mut self) -> Option<u16> {
        let start = self.at;
        self.number()?;
        str::from_utf8(&self.bytes[start..self.at]).ok()?.parse().ok()
    }

    /// Steps over a value that holds no other.
    fn scalar(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.plain_string().map(|_| ()),
            b'0'..=b'9' => self.number(),
            _ => None,
        }
    }

    /// A whole number without a sign.
    fn number(&mut self) -> Option<()> {
        let digits = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        // Bound: what fits every kind of number.
        let is_plain = matches!(digits, 1..=18) && (digits == 1 || self.peek() != Some(b'0'));
        self.at += digits;
        is_plain.then_some(())
    }

    /// A string without escapes: its inside.
    fn plain_string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        let length = plain_bytes(&self.bytes[start..])?;
        self.at = start + length + 1;
        (self.bytes[start + length] == b'"').then(|| &self.bytes[start..start + length])
    }

    /// A string of text: its inside, as written.
    fn text(&mut self) -> Option<Inside<'a>> {
        self.expect(b'"')?;
        let start = self.at;
        let mut is_escaped = false;
        loop {
            let length = plain_bytes(&self.bytes[self.at..])?;
            self.at += length + 1;
            match self.bytes[self.at - 1] {
                b'"' => {
                    let inside = &self.bytes[start..self.at - 1];
                    return match is_escaped {
                        // Words are looked at, where the check of UTF-8 looks at bytes.
                        false if inside.is_ascii() => Some(Inside::Plain(inside)),
                        false => str::from_utf8(inside).ok().map(|_| Inside::Plain(inside)),
                        true => str::from_utf8(inside).ok().map(Inside::Escaped),
                    };
                }
                b'\\' => {
                    is_escaped = true;
                    self.escape()?;
                }
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    fn null(&mut self) -> bool {
        let is_null = self.bytes[self.at..].starts_with(b"null");
        self.at += if is_null { 4 } else { 0 };
        is_null
    }

    /// One blank, as some servers put behind colons and commas.
    fn skip_space(&mut self) {
        self.at += usize::from(self.peek() == Some(b' '));
    }

    fn expect(&mut self, wanted: u8) -> Option<()> {
        (self.next()? == wanted).then_some(())
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
}

/// How many bytes of a string's inside are plain: up to a quote, a backslash, or what may not
/// stand in a string. Eight at a time: the lowest bit that is left marks the first byte that is
/// not, for a borrow goes upwards only.
fn plain_bytes(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let is_byte = |word: u64, byte: u8| {
        let zero_where_equal = word ^ (ONES * u64::from(byte));
        zero_where_equal.wrapping_sub(ONES) & !zero_where_equal
    };
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let low = word.wrapping_sub(ONES * u64::from(b' ')) & !word;
        let special = (low | is_byte(word, b'"') | is_byte(word, b'\\')) & HIGH;
        if special != 0 {
            return Some(8 * index + special.trailing_zeros() as usize / 8);
        }
    }
    let is_special = |&byte: &u8| byte < b' ' || byte == b'"' || byte == b'\\';
    Some(8 * words.len() + rest.iter().position(is_special)?)
}
