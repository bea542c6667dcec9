//! Numbers for people.

use crate::harness::row::{Goal, Row};

/// Three significant digits or all before the point, with thousands apart.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        small if small < 0.1 => 4,
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    let plain = format!("{value:.decimals$}");
    let (whole, rest) = match plain.split_once('.') {
        Some((whole, rest)) => (whole, format!(".{rest}")),
        None => (&plain[..], String::new()),
    };
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut spaced = String::with_capacity(whole.len() + 4);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            spaced.push(',');
        }
        spaced.push(digit);
    }
    format!("{sign}{spaced}{rest}")
}

/// A time in the unit that suits it.
pub(crate) fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{} ns", number(ns)),
        ns if ns < 1e6 => format!("{} us", number(ns / 1e3)),
        ns if ns < 1e9 => format!("{} ms", number(ns / 1e6)),
        ns => format!("{} s", number(ns / 1e9)),
    }
}

/// The goal in as few characters as possible.
pub(crate) fn goal(row: &Row) -> String {
    match row.goal {
        None => String::new(),
        Some(Goal::AtLeast(goal)) => format!(">= {}", number(goal)),
        Some(Goal::AtMost(goal)) => format!("<= {}", number(goal)),
        Some(Goal::RatioAtLeast(goal)) => format!(">= {}x", number(goal)),
        Some(Goal::RatioAtMost(goal)) => format!("<= {}x", number(goal)),
    }
}

/// Whether the goal is met, in a word.
pub(crate) fn verdict(row: &Row) -> &'static str {
    match (&row.skipped, row.met) {
        (Some(_), _) => "skipped",
        (None, Some(true)) => "met",
        (None, Some(false)) => "MISSED",
        (None, None) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let texts = [0.0, 0.01234, 0.5, 4.3, 45.67, 999.6, 43_123_456.0, -1234.0].map(number);
        let expected = ["0", "0.0123", "0.500", "4.30", "45.7", "1,000", "43,123,456", "-1,234"];
        assert_eq!(texts, expected);
        assert_eq!(
            [12.0, 4300.0, 2.5e6, 1e9].map(time),
            ["12.0 ns", "4.30 us", "2.50 ms", "1.00 s"]
        );
    }
}
