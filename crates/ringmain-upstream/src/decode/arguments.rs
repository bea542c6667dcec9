//! Whether the arguments of a tool call, which come in pieces, are a whole object or array by now.

/// What the brackets and quotes of the pieces so far say. The pieces are not judged otherwise.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    depth: u32,
    in_text: bool,
    is_escaped: bool,
    is_closed: bool,
}

impl Arguments {
    /// The next piece.
    pub fn add(&mut self, piece: &str) {
        for byte in piece.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_text => self.is_escaped = true,
                b'"' => self.in_text = !self.in_text,
                _ if self.in_text => {}
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_closed = self.depth == 0;
                }
                _ => {}
            }
        }
    }

    /// Whether nothing of it is to come.
    pub fn is_whole(&self) -> bool {
        self.is_closed && self.depth == 0 && !self.in_text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_whole_when_their_last_bracket_came() {
        let pieces = ["{\"a", "\\", "\"}\", \"b\":[", "1]", "}", " "];
        let mut arguments = Arguments::default();
        let whole = pieces.map(|piece| {
            arguments.add(piece);
            arguments.is_whole()
        });
        assert_eq!(whole, [false, false, false, false, true, true]);
        let mut empty = Arguments::default();
        empty.add(" \"}\" ]");
        assert!(!Arguments::default().is_whole() && empty.is_whole());
    }
}
