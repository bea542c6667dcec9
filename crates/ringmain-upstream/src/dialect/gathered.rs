//! A whole answer, gathered from its pieces.

use ringmain_wire::Kind;
use ringmain_wire::frame::{ToolFrame, Usage};

use crate::decode::Origin;

/// What a whole answer is made of. Bound: the translator counts what it passes on.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub origin: Origin,
    pub text: String,
    pub reasoning: String,
    pub tools: Vec<Called>,
    pub usage: Usage,
}

/// A call of a tool, its arguments put together.
#[derive(Debug, Default)]
pub(super) struct Called {
    index: u32,
    pub id: String,
    pub name: String,
    /// Empty where the model gave none.
    pub arguments: String,
}

impl Gathered {
    /// Adds one piece.
    pub fn add(&mut self, kind: Kind, payload: &[u8]) {
        match kind {
            Kind::Delta => self.text.push_str(&String::from_utf8_lossy(payload)),
            Kind::Reasoning => self.reasoning.push_str(&String::from_utf8_lossy(payload)),
            Kind::Usage => self.usage = Usage::parse(payload).unwrap_or_default(),
            Kind::Tool => {
                if let Ok(piece) = ToolFrame::parse(payload) {
                    self.add_tool(&piece);
                }
            }
            _ => {}
        }
    }

    fn add_tool(&mut self, piece: &ToolFrame<'_>) {
        let at = self.tools.iter().rposition(|tool| tool.index == piece.index);
        let at = at.unwrap_or_else(|| {
            self.tools.push(Called { index: piece.index, ..Called::default() });
            self.tools.len() - 1
        });
        let tool = &mut self.tools[at];
        for (known, told) in [(&mut tool.id, piece.id), (&mut tool.name, piece.name)] {
            if known.is_empty() {
                told.clone_into(known);
            }
        }
        tool.arguments.push_str(piece.arguments);
    }
}
