//! What a person sees while the measurements run: each row as it is done, and on a terminal a line
//! below that says what is being measured.

use std::io::{IsTerminal, Write, stderr, stdout};

use super::row::{Row, RowSpec};
use crate::report::table;

/// Where progress goes.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
}

const CLEAR_LINE: &str = "\r\x1b[K";

impl Progress {
    /// Prints the head of the table.
    pub(crate) fn begin() -> Progress {
        let progress = Progress { is_terminal: stderr().is_terminal() && stdout().is_terminal() };
        say(&table::head(progress.is_terminal));
        progress
    }

    pub(crate) fn suite(&self, name: &str, about: &str) {
        self.clear();
        say(&table::suite(name, about, self.is_terminal));
    }

    /// Says what is under way; only a terminal can take it back.
    pub(crate) fn pass(&self, specs: &[RowSpec], index: usize, passes: usize) {
        if self.is_terminal
            && let Some(first) = specs.first()
        {
            let more = specs.len() - 1;
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            eprint!("{CLEAR_LINE}  pass {} of {passes}: {}{more}", index + 1, first.name);
        }
    }

    pub(crate) fn row(&self, row: &Row) {
        self.clear();
        say(&table::row(row, self.is_terminal));
    }

    pub(crate) fn clear(&self) {
        if self.is_terminal {
            eprint!("{CLEAR_LINE}");
        }
    }
}

/// Whoever closed the pipe does not want to know; the files are written all the same.
fn say(text: &str) {
    let _ = writeln!(stdout(), "{text}");
}
