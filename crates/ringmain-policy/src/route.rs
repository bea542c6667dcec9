//! Which route serves a model name: exact, then the longest prefix, then everything.

use std::collections::HashMap;

use thiserror::Error;

/// The patterns of a routing table; an index is the position of the pattern it was given.
///
/// ```
/// use ringmain_policy::RouteMatch;
/// let routes = RouteMatch::new(&["tiny", "tiny-*", "*"])?;
/// assert_eq!(routes.find("tiny"), Some(0));
/// assert_eq!(routes.find("tiny-2"), Some(1));
/// assert_eq!(routes.find("huge"), Some(2));
/// # Ok::<(), ringmain_policy::PatternError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RouteMatch {
    exact: HashMap<String, usize>,
    /// Longest first.
    prefixes: Vec<(String, usize)>,
    any: Option<usize>,
    patterns: Vec<String>,
}

/// Why a table of patterns was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Two routes have the same pattern.
    #[error("two routes serve {0:?}")]
    Double(String),
    /// A pattern without a character.
    #[error("a route has an empty model name")]
    Empty,
    /// A star that is not the last character.
    #[error("the model name {0:?} has a star before its end")]
    Star(String),
}

/// Patterns that are looked at for the nearest name. Bound: an unknown name costs at most
/// this many distances of [`NEAREST_CHARS`] squared steps.
const NEAREST_PATTERNS: usize = 64;
/// Characters of a name that a distance looks at.
const NEAREST_CHARS: usize = 64;

impl RouteMatch {
    /// Sorts the patterns: `name`, `prefix*` or `*`.
    ///
    /// # Errors
    /// [`PatternError`] names the pattern.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<RouteMatch, PatternError> {
        let mut table = RouteMatch::default();
        for (index, pattern) in patterns.iter().enumerate() {
            table.add(pattern.as_ref(), index)?;
        }
        table.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(table)
    }

    /// The route of a model name.
    pub fn find(&self, model: &str) -> Option<usize> {
        let prefixed =
            || self.prefixes.iter().find(|(p, _)| model.starts_with(p)).map(|(_, index)| *index);
        self.exact.get(model).copied().or_else(prefixed).or(self.any)
    }

    /// The pattern that looks most like this name, among those whose index may be shown.
    pub fn nearest(&self, model: &str, may_show: impl Fn(usize) -> bool) -> Option<&str> {
        let name: String = model.chars().take(NEAREST_CHARS).collect();
        let distance = |pattern: &str| {
            let pattern: String = pattern.chars().take(NEAREST_CHARS).collect();
            strsim::osa_distance(&name, &pattern)
        };
        let shown = self.patterns.iter().enumerate().filter(|(index, _)| may_show(*index));
        let looked_at = shown.take(NEAREST_PATTERNS).map(|(_, pattern)| pattern.as_str());
        looked_at.min_by_key(|pattern| distance(pattern))
    }

    /// Number of patterns.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    fn add(&mut self, pattern: &str, index: usize) -> Result<(), PatternError> {
        let double = || PatternError::Double(pattern.to_owned());
        if self.patterns.iter().any(|known| known == pattern) {
            return Err(double());
        }
        match pattern.split_once('*') {
            None if pattern.is_empty() => return Err(PatternError::Empty),
            None => {
                self.exact.insert(pattern.to_owned(), index);
            }
            Some(("", "")) => self.any = Some(index),
            Some((prefix, "")) => self.prefixes.push((prefix.to_owned(), index)),
            Some(_) => return Err(PatternError::Star(pattern.to_owned())),
        }
        self.patterns.push(pattern.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the definition: no other pattern that matches is more precise.
        #[test]
        fn property_the_most_precise_pattern_wins(
            patterns in prop::collection::hash_set("[ab]{0,3}\\*?", 0..8),
            model in "[ab]{1,4}",
        ) {
            let patterns: Vec<String> = patterns.into_iter().filter(|p| !p.is_empty()).collect();
            let table = RouteMatch::new(&patterns).unwrap();
            let precision = |pattern: &String| match pattern.strip_suffix('*') {
                None => (*pattern == model).then_some(usize::MAX),
                Some(prefix) => model.starts_with(prefix).then_some(prefix.len()),
            };
            let best = patterns.iter().filter_map(precision).max();
            let found = table.find(&model).map(|index| precision(&patterns[index]));
            prop_assert_eq!(found, best.map(Some));
        }

        #[test]
        fn property_the_nearest_is_always_there(model in "\\PC{0,300}") {
            let table = RouteMatch::new(&["tiny", "é*", "*"]).unwrap();
            prop_assert!(table.nearest(&model, |_| true).is_some());
        }
    }

    #[test]
    fn nearest_names_the_likely_typo() {
        let table = RouteMatch::new(&["gpt-large", "tiny", "claude-*"]).unwrap();
        assert_eq!(table.nearest("tny", |_| true), Some("tiny"));
        assert_eq!(table.nearest("gpt-lagre", |_| true), Some("gpt-large"));
        assert_eq!(RouteMatch::default().nearest("x", |_| true), None);
        assert_ne!(table.nearest("tny", |index| index != 1), Some("tiny"));
    }

    #[test]
    fn faulty_patterns_are_named() {
        let error = |patterns: &[&str]| RouteMatch::new(patterns).unwrap_err();
        assert_eq!(error(&["a", "a"]), PatternError::Double("a".into()));
        assert_eq!(error(&[""]), PatternError::Empty);
        assert_eq!(error(&["a*b"]), PatternError::Star("a*b".into()));
        assert_eq!(error(&["**"]), PatternError::Star("**".into()));
    }
}
