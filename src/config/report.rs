//! Faults of a configuration file: every one, each with its line and key.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

/// One thing that is wrong, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line in the file, from 1.
    pub line: usize,
    /// The key, with the section that it stands in; empty when the file is not TOML.
    pub key: String,
    /// What is wrong and what would be right.
    pub sentence: String,
}

impl Fault {
    fn is_syntax(&self) -> bool {
        self.key.is_empty()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "line {}: {}", self.line, self.sentence),
            key => write!(f, "line {}: {key}: {}", self.line, self.sentence),
        }
    }
}

/// Collects the faults of one file and knows where its lines begin.
pub struct Report {
    line_starts: Vec<usize>,
    faults: RefCell<Vec<Fault>>,
}

impl Report {
    /// A report without faults about this text.
    pub fn new(source: &str) -> Report {
        let breaks = source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Report { line_starts, faults: RefCell::default() }
    }

    /// Notes a fault at a place of the text.
    pub fn fault(&self, span: Range<usize>, key: impl Into<String>, sentence: impl Into<String>) {
        let line = self.line(&span);
        let fault = Fault { line, key: key.into(), sentence: sentence.into() };
        self.faults.borrow_mut().push(fault);
    }

    /// The line on which a place of the text stands, from 1.
    pub fn line(&self, span: &Range<usize>) -> usize {
        self.line_starts.partition_point(|start| *start <= span.start)
    }

    /// All faults, in the order of their lines. Where the text is not even TOML they are that
    /// alone: what its keys would be is a guess.
    pub fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        if faults.iter().any(Fault::is_syntax) {
            faults.retain(Fault::is_syntax);
        }
        faults.sort_by_key(|fault| fault.line);
        faults
    }
}

/// `; did you mean "x"?` with the nearest of the known names, or nothing when none is near.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(word, name), name));
    match scored.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, name)) if score > 0.6 => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_knows_its_line() {
        let report = Report::new("a\nb\n\nc");
        for at in [5, 0, 2] {
            report.fault(at..at + 1, "k", "wrong");
        }
        let lines: Vec<_> = report.into_faults().iter().map(|f| f.line).collect();
        assert_eq!(lines, [1, 2, 4]);
    }

    #[test]
    fn the_nearest_name_is_offered_and_a_stranger_is_not() {
        assert_eq!(did_you_mean("sokcet", ["drain", "socket"]), "; did you mean `socket`?");
        assert_eq!(did_you_mean("zzz", ["drain", "socket"]), "");
    }
}
