//! One table of the file, read key by key; what was not asked for is unknown.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Report, did_you_mean};

/// A table that is being read.
pub struct Section<'a> {
    report: &'a Report,
    name: String,
    span: Range<usize>,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

/// A value with the place where it stands.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands in the file.
    pub span: Range<usize>,
}

/// Where the keys of a table stand, for faults that are found later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    table: usize,
    keys: Vec<(&'static str, usize)>,
}

impl Lines {
    /// The line of a key; that of the table for one that is not there.
    pub fn of(&self, key: &str) -> usize {
        let line = self.keys.iter().find(|(known, _)| *known == key);
        line.map_or(self.table, |(_, line)| *line)
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|(known, _)| *known == key)
    }
}

impl<'a> Section<'a> {
    /// Reads `value` as a table; anything else is a fault.
    pub fn of_value(
        report: &'a Report,
        name: impl Into<String>,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Option<Section<'a>> {
        let name = name.into();
        match value.get_ref().as_table() {
            Some(table) => Some(Section::new(report, name, value.span(), table)),
            None => {
                report.fault(value.span(), name, wrong_type("a table", value));
                None
            }
        }
    }

    /// Reads this table.
    pub fn new(
        report: &'a Report,
        name: impl Into<String>,
        span: Range<usize>,
        table: &'a DeTable<'a>,
    ) -> Section<'a> {
        Section { report, name: name.into(), span, table, known: Vec::new() }
    }

    /// The full name of a key, as faults show it.
    pub fn key(&self, key: &str) -> String {
        match self.name.as_str() {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        }
    }

    /// Notes a fault of this table's key.
    pub fn fault(&self, span: Range<usize>, key: &str, sentence: impl Into<String>) {
        self.report.fault(span, self.key(key), sentence);
    }

    /// Notes a fault of the value of this table's key, which is there.
    pub fn fault_at(&self, key: &str, sentence: &str) {
        let span = self.table.get(key).map_or(self.span(), Spanned::span);
        self.fault(span, key, sentence);
    }

    /// The line on which a place of the file stands.
    pub fn line(&self, span: &Range<usize>) -> usize {
        self.report.line(span)
    }

    /// The lines of the keys that are there and were asked for.
    pub fn lines(&self) -> Lines {
        let line = |key: &&'static str| Some((*key, self.line(&self.table.get(*key)?.span())));
        Lines { table: self.line(&self.span), keys: self.known.iter().filter_map(line).collect() }
    }

    /// Where the table stands.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The value of a key, if it is there; the key is known from now on.
    pub fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// A key that holds text.
    pub fn text(&mut self, key: &'static str) -> Option<At<String>> {
        self.parsed(key, |text| Ok(text.to_owned()))
    }

    /// A key that must be there and holds text.
    pub fn required_text(&mut self, key: &'static str) -> Option<At<String>> {
        let text = self.text(key);
        if !self.has(key) {
            self.fault(self.span(), key, "is required and missing");
        }
        text
    }

    /// A key whose text `parse` understands; its error is the sentence of the fault.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let value = self.take(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.fault(value.span(), key, wrong_type("text in quotes", value));
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(At { value: parsed, span: value.span() }),
            Err(sentence) => {
                self.fault(value.span(), key, sentence);
                None
            }
        }
    }

    /// A key that holds a duration such as `"120s"`.
    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.parsed(key, parse_duration).map(|at| at.value)
    }

    /// A key that holds a size such as `"32MiB"`, of this range of bytes.
    pub fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let size = self.parsed(key, parse_size)?;
        if range.contains(&size.value) {
            return Some(size.value);
        }
        let (least, most) = (shown_size(*range.start()), shown_size(*range.end()));
        self.fault(size.span, key, format!("is not between {least} and {most}"));
        None
    }

    /// A key that holds a whole number of this range.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.fault(value.span(), key, wrong_type("a whole number", value));
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let (least, most) = (range.start(), range.end());
                let sentence = format!("is {integer}, which is not between {least} and {most}");
                self.fault(value.span(), key, sentence);
                None
            }
        }
    }

    /// A key that holds true or false.
    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.fault(value.span(), key, wrong_type("true or false", value));
        }
        boolean
    }

    /// The elements of a key that holds a list.
    pub fn list(&mut self, key: &'static str) -> Option<Vec<&'a Spanned<DeValue<'a>>>> {
        let value = self.take(key)?;
        match value.get_ref().as_array() {
            Some(array) => Some(array.iter().collect()),
            None => {
                self.fault(value.span(), key, wrong_type("a list", value));
                None
            }
        }
    }

    /// A key that holds a table.
    pub fn table(&mut self, key: &'static str) -> Option<Section<'a>> {
        let value = self.take(key)?;
        Section::of_value(self.report, self.key(key), value)
    }

    /// The tables of a key that stands in double brackets, each with its own name.
    pub fn tables(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let report = self.report;
        let Some(elements) = self.list(key) else { return Vec::new() };
        let name = |n: usize| format!("{}[{}]", self.key(key), n + 1);
        let numbered = elements.into_iter().enumerate();
        numbered.filter_map(|(n, value)| Section::of_value(report, name(n), value)).collect()
    }

    /// Whether the key is there, of whatever type.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reads an inline table that stands in a list of this table.
    pub fn inner(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Option<Section<'a>> {
        Section::of_value(self.report, self.key(key), value)
    }

    /// Renames the table once its own name is known, so that faults speak of `endpoint "x"`.
    pub fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// Ends the reading: every key that nobody asked for is a fault.
    pub fn finish(self) {
        for key in self.table.keys() {
            let word: &str = key.get_ref();
            if !self.known.contains(&word) {
                let near = did_you_mean(word, self.known.iter().copied());
                self.fault(key.span(), word, format!("is not a key that Ringmain knows{near}"));
            }
        }
    }
}

/// The sentence for a value of another type than expected.
pub fn wrong_type(expected: &str, value: &Spanned<DeValue<'_>>) -> String {
    format!("must be {expected}, not {}", with_article(value.get_ref().type_str()))
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// `"120s"`, `"250ms"`, `"2m"`, `"1h"`: a whole number and its unit.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let sentence = || format!("{text:?} is not a duration such as \"120s\", \"250ms\" or \"2m\"");
    let number: u64 = digits.parse().map_err(|_| sentence())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(sentence()),
    };
    // Bound: a year. Longer ones overflow clocks further down and are surely typing errors.
    match millis {
        Some(ms) if ms <= 365 * 86_400_000 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{text:?} is longer than a year")),
    }
}

/// Units of a size, largest first.
const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// `"256MiB"`, `"64KiB"`, `"1GiB"`: a whole number and its unit.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let sentence = || format!("{text:?} is not a size such as \"32MiB\", \"64KiB\" or \"1GiB\"");
    let parse = |(unit, bytes): (&str, u64)| Some((text.strip_suffix(unit)?, bytes));
    let (digits, unit) = SIZES.into_iter().find_map(parse).ok_or_else(sentence)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(sentence());
    }
    let number: u64 = digits.parse().map_err(|_| sentence())?;
    number.checked_mul(unit).ok_or_else(sentence)
}

/// A size in its largest whole unit.
fn shown_size(bytes: u64) -> String {
    let whole = SIZES.into_iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    whole.map_or(format!("{bytes} bytes"), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("120s"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "s", "120", "-1s", "1.5s", "1 s", "1d", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        assert!(parse_duration("18446744073709551615h").unwrap_err().contains("year"));
    }
    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("32MiB"), Ok(32 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("64KiB"), Ok(64 << 10));
        for bad in ["", "MiB", "32", "32MB", "+1KiB", "1.5GiB", "1 GiB", "18446744073709551615KiB"]
        {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
        assert_eq!([1 << 30, 1536 << 20, 7].map(shown_size), ["1GiB", "1536MiB", "7 bytes"]);
    }
}
