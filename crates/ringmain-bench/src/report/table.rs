//! The table on the terminal, a line at a time.

use super::text::{goal, number, verdict};
use crate::harness::row::Row;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// The names of the columns.
pub(crate) fn head(color: bool) -> String {
    let (name, value, base, ratio) = ("row", "value", "baseline", "ratio");
    let line = format!(
        "{name:<41} {value:>14} {base:>14} {:<11} {ratio:>8} {:>19} {:>10} {:<7} {:>6}",
        "unit", "min..max", "goal", "", "other"
    );
    paint(color, BOLD, line.trim_end())
}

/// The heading of a suite.
pub(crate) fn suite(name: &str, about: &str, color: bool) -> String {
    paint(color, DIM, &format!("--- {name}: {about}"))
}

/// One row.
pub(crate) fn row(row: &Row, color: bool) -> String {
    if let Some(reason) = &row.skipped {
        let line = format!("{:<41} skipped: {reason}", row.name);
        return paint(color, DIM, &line);
    }
    let cell = |value: Option<f64>| value.map(number).unwrap_or_default();
    let spread = match (row.ratio_min, row.ratio_max) {
        (Some(min), Some(max)) => format!("{}..{}", number(min), number(max)),
        _ => String::new(),
    };
    let other = row.other_cpu_share_max().map(|share| format!("{:.0} %", share * 100.0));
    let word = match row.met {
        Some(true) => paint(color, GREEN, &format!("{:<7}", verdict(row))),
        Some(false) => paint(color, RED, &format!("{:<7}", verdict(row))),
        None => " ".repeat(7),
    };
    format!(
        "{:<41} {:>14} {:>14} {:<11} {:>8} {spread:>19} {:>10} {word} {:>6}",
        row.name,
        cell(row.value),
        cell(row.baseline_value),
        row.unit,
        cell(row.ratio),
        goal(row),
        other.unwrap_or_default(),
    )
}

fn paint(color: bool, code: &str, text: &str) -> String {
    if color { format!("{code}{text}{PLAIN}") } else { text.to_owned() }
}
