//! The results as a table, as JSON and as one HTML page.

mod html;
mod svg;
pub(crate) mod table;
mod text;

use serde::Serialize;

use crate::harness::machine::Machine;
use crate::harness::row::Row;

/// The results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What they were measured on.
    pub machine: Machine,
    /// In the order in which they were measured.
    pub rows: Vec<Row>,
    /// Groups whose measurement failed. Not counted: rows that the machine could not run, and
    /// goals that were missed.
    #[serde(skip)]
    pub failures: usize,
}

impl Report {
    /// The results for other programs.
    pub fn to_json(&self) -> String {
        // Plain structs with text keys: there is nothing in them that JSON cannot say.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The results as one page that needs nothing else.
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// What to say last: how many goals were met.
    pub fn closing_sentence(&self) -> String {
        let count = |met| self.rows.iter().filter(|row| row.met == Some(met)).count();
        let skipped = self.rows.iter().filter(|row| row.skipped.is_some()).count();
        let (met, missed) = (count(true), count(false));
        format!("{met} goals met, {missed} missed, {skipped} rows skipped")
    }
}
