//! The streams while they progress: bars on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};

/// Shows how far each consumer of one run is.
pub struct Screen {
    is_terminal: bool,
    names: Vec<&'static str>,
    tokens: Vec<u64>,
    total: u64,
    drawn: bool,
}

const BAR: usize = 40;
/// A narrow terminal cuts the lines off meanwhile: wrapped ones could not be drawn over.
const WRAP_OFF: &str = "\x1b[?7l";
const WRAP_ON: &str = "\x1b[?7h";

impl Screen {
    /// Consumers by name, each of which will receive `total` tokens.
    pub fn new(names: Vec<&'static str>, total: u64) -> Screen {
        let tokens = vec![0; names.len()];
        Screen { is_terminal: io::stdout().is_terminal(), names, tokens, total, drawn: false }
    }

    /// A consumer received more tokens.
    pub fn advance(&mut self, consumer: usize, tokens: u64) -> io::Result<()> {
        let before = self.tokens[consumer];
        self.tokens[consumer] += tokens;
        let mut out = io::stdout().lock();
        if self.is_terminal {
            return self.draw(&mut out);
        }
        let quarter = |tokens: u64| tokens * 4 / self.total.max(1);
        if quarter(before) != quarter(self.tokens[consumer]) {
            writeln!(out, "{}", self.line(consumer))?;
        }
        Ok(())
    }

    fn draw(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.drawn {
            write!(out, "\x1b[{}A", self.names.len())?;
        }
        self.drawn = true;
        write!(out, "{WRAP_OFF}")?;
        for consumer in 0..self.names.len() {
            writeln!(out, "\x1b[2K{}", self.line(consumer))?;
        }
        write!(out, "{WRAP_ON}")?;
        out.flush()
    }

    fn line(&self, consumer: usize) -> String {
        let (tokens, total) = (self.tokens[consumer], self.total.max(1));
        let filled = (tokens.min(total) as usize * BAR) / total as usize;
        let bar = match self.is_terminal {
            true => format!("[{}{}] ", "#".repeat(filled), ".".repeat(BAR - filled)),
            false => String::new(),
        };
        format!("  {:<9} {bar}{tokens:>5} of {total} tokens", self.names[consumer])
    }
}
