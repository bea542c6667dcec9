//! The results as a table, as JSON and as one HTML page.

mod html;
mod svg;
pub(crate) mod table;
mod text;

use serde::Serialize;

use self::text::time;
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

    /// What to say last: how many goals were met, and whether the machine stayed the same.
    pub fn closing_sentence(&self) -> String {
        let count = |met| self.rows.iter().filter(|row| row.met == Some(met)).count();
        let skipped = self.rows.iter().filter(|row| row.skipped.is_some()).count();
        let (met, missed) = (count(true), count(false));
        let apart = self.apart().unwrap_or_default();
        format!("{met} goals met, {missed} missed, {skipped} rows skipped{apart}")
    }

    /// How far the two CPUs were apart. The host of a virtual machine may move them meanwhile,
    /// which is seen in the spread of every row of two CPUs.
    fn apart(&self) -> Option<String> {
        let all = || self.rows.iter().flat_map(|row| row.cpus_apart_ns.iter().flatten().copied());
        let (least, most) = (all().reduce(f64::min)?, all().reduce(f64::max)?);
        let (least, most) = (time(least), time(most));
        Some(format!("; a cache line went from CPU to CPU and back in {least} to {most}"))
    }
}
