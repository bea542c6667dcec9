//! A file of faults: which requests and connections meet what, whatever their prompts say.
//!
//! ```text
//! # request 3, and requests 5 to 7
//! 3              status=503 retry_after=1
//! 5-7            fault=reset at=2
//! # every tenth, and all others
//! */10           fault=stall
//! *              ttft_us=2000
//! # the second connection
//! connection 2   fault=accept_silent
//! ```
//!
//! Each line says when and what. Requests and connections are counted from 1; the first line that
//! fits counts, and its keys (those of a [`Script`]) stand over those of the prompt.

use std::str::FromStr;

use thiserror::Error;

use crate::fault::{Fault, Place};
use crate::script::{Script, ScriptError};

/// Most rules of a file.
const RULES_MAX: usize = 10_000;

/// The rules of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    when: When,
    what: What,
}

/// Which numbers a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Every(u64),
    Range(u64, u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Connection(Fault),
    Request(Vec<(String, String)>),
}

/// Why a file of rules could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct RuleError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl Rules {
    /// The fault of the connection with this number.
    pub(super) fn connection(&self, number: u64) -> Option<Fault> {
        self.0.iter().find_map(|rule| match &rule.what {
            What::Connection(fault) if rule.when.is_for(number) => Some(*fault),
            _ => None,
        })
    }

    /// Lays the rule of the request with this number over its script.
    pub(super) fn apply(&self, number: u64, script: &mut Script) {
        let keys = self.0.iter().find_map(|rule| match &rule.what {
            What::Request(keys) if rule.when.is_for(number) => Some(keys),
            _ => None,
        });
        for (key, value) in keys.into_iter().flatten() {
            // They were set once already, when the file was read.
            let _ = script.set(key, value);
        }
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Rules {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Rules, RuleError> {
        let mut rules = Vec::new();
        for (line, words) in (1..).zip(text.lines()) {
            let words = words.split_once('#').map_or(words, |(words, _)| words).trim();
            if words.is_empty() {
                continue;
            }
            let fault = |reason: String| RuleError { line, reason };
            rules.push(Rule::parse(words).map_err(fault)?);
            if rules.len() > RULES_MAX {
                return Err(fault(format!("more than {RULES_MAX} rules")));
            }
        }
        Ok(Rules(rules))
    }
}

impl Rule {
    fn parse(words: &str) -> Result<Rule, String> {
        let (is_connection, words) = match words.strip_prefix("connection ") {
            Some(rest) => (true, rest.trim_start()),
            None => (false, words),
        };
        let (when, keys) = words.split_once(char::is_whitespace).ok_or("it says when, not what")?;
        let when = When::parse(when)
            .ok_or_else(|| format!("{when:?} is neither a number, nor N-M, nor * or */N"))?;
        let keys = pairs(keys).map_err(|error| error.to_string())?;
        let mut script = Script::default();
        for (key, value) in &keys {
            script.set(key, value).map_err(|error| error.to_string())?;
        }
        script.bound().map_err(|error| error.to_string())?;
        let of_connection = script.fault.filter(|fault| fault.place() == Place::Connection);
        let what = match (is_connection, of_connection) {
            (true, Some(fault)) if keys.len() == 1 => What::Connection(fault),
            (true, _) => return Err("a connection takes one fault that connections have".into()),
            (false, Some(fault)) => {
                return Err(format!("{fault} is a fault of connections, not of requests"));
            }
            (false, None) => What::Request(keys),
        };
        Ok(Rule { when, what })
    }
}

impl When {
    fn parse(word: &str) -> Option<When> {
        if word == "*" {
            return Some(When::Every(1));
        }
        if let Some(every) = word.strip_prefix("*/") {
            return every.parse().ok().filter(|&every| every > 0).map(When::Every);
        }
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some(When::Range(first.parse().ok()?, last.parse().ok()?))
    }

    fn is_for(self, number: u64) -> bool {
        match self {
            When::Every(every) => number.is_multiple_of(every),
            When::Range(first, last) => (first..=last).contains(&number),
        }
    }
}

fn pairs(words: &str) -> Result<Vec<(String, String)>, ScriptError> {
    let pair = |word: &str| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    let words = words.split_ascii_whitespace();
    words.map(|word| pair(word).ok_or_else(|| ScriptError::NoValue(word.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules: Rules = "# nothing\n\n3 status=503 retry_after=1\n2-4 fault=reset at=2 # why\n\
                            */10 n=1\nconnection 2 fault=accept_silent\n"
            .parse()
            .unwrap();
        let applied = |number| {
            let mut script = Script::tokens(7).with_id("a");
            rules.apply(number, &mut script);
            script
        };
        assert_eq!(applied(1), Script::tokens(7).with_id("a"));
        assert_eq!((applied(3).status, applied(3).fault), (503, None));
        assert_eq!((applied(4).fault, applied(4).at), (Some(Fault::Reset), Some(2)));
        assert_eq!((applied(20).n, applied(20).id.as_deref()), (1, Some("a")));
        assert_eq!(rules.connection(2), Some(Fault::AcceptSilent));
        assert_eq!(rules.connection(3), None);
        assert!(Rules::default().is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_by_line() {
        let error = |text: &str| text.parse::<Rules>().unwrap_err().to_string();
        assert!(error("\n3").starts_with("line 2: it says when"));
        assert!(error("x n=1").contains("\"x\" is neither"));
        assert!(error("*/0 n=1").contains("\"*/0\" is neither"));
        assert!(error("1 n").contains("\"n\" has no value"));
        assert!(error("1 tokens=1").contains("\"tokens\" does not exist"));
        assert!(error("1 fault=accept_close").contains("a fault of connections"));
        assert!(error("connection 1 fault=reset").contains("a connection takes"));
        assert!(error("1 status=99").contains("status"));
    }
}
