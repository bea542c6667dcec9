//! A whole answer, collected.

use ringmain_wire::FinishReason;
use ringmain_wire::frame::{ToolFrame, Usage};

use crate::item::{Head, Item, ToolCall};

/// A whole answer: what [`send`](crate::Chat::send) returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// Status and origin.
    pub head: Head,
    /// The choices, in the order of their numbers (mode deltas).
    pub choices: Vec<Choice>,
    /// The bytes of the answer (mode body), or all its events one after the other (mode events).
    pub body: Vec<u8>,
    /// Tokens used, where the provider says.
    pub usage: Option<Usage>,
}

/// One choice of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Choice {
    /// The text.
    pub text: String,
    /// The model's reasoning.
    pub reasoning: String,
    /// The tools that the model calls.
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub finish: FinishReason,
}

impl Reply {
    /// Text of the first choice.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| &choice.text)
    }

    /// HTTP status of the provider.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// Adds the next piece.
    pub fn add(&mut self, item: Item<'_>) {
        match item {
            Item::Head(head) => self.head = Head::from(&head),
            Item::Delta { choice, text } => self.choice(choice).text.push_str(text),
            Item::Reasoning { choice, text } => self.choice(choice).reasoning.push_str(text),
            Item::Tool { choice, call } => self.choice(choice).add_call(&call),
            Item::Event(bytes) | Item::Body(bytes) => self.body.extend_from_slice(bytes),
            Item::Usage(usage) => self.usage = Some(usage),
            Item::End(end) => {
                for (choice, reason) in end.finish {
                    self.choice(choice).finish = reason;
                }
            }
        }
    }

    /// Bound: a choice is two bytes on the wire, so at most 65,536 of them, and each takes a
    /// frame of the trusted broker to appear.
    fn choice(&mut self, number: u16) -> &mut Choice {
        let index = usize::from(number);
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Choice::default);
        }
        &mut self.choices[index]
    }
}

impl Choice {
    fn add_call(&mut self, piece: &ToolFrame<'_>) {
        let known = self.tool_calls.iter_mut().rfind(|call| call.index == piece.index);
        let Some(call) = known else {
            self.tool_calls.push(ToolCall::from(piece));
            return;
        };
        call.id.push_str(piece.id);
        call.name.push_str(piece.name);
        call.arguments.push_str(piece.arguments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_by_choice_and_call() {
        let mut reply = Reply::default();
        let call = |index, id, arguments| ToolFrame { index, id, name: "", arguments };
        reply.add(Item::Delta { choice: 1, text: "b" });
        reply.add(Item::Delta { choice: 0, text: "a" });
        reply.add(Item::Delta { choice: 1, text: "c" });
        reply.add(Item::Tool { choice: 0, call: call(0, "x", "{") });
        reply.add(Item::Tool { choice: 0, call: call(1, "y", "[") });
        reply.add(Item::Tool { choice: 0, call: call(0, "", "}") });
        assert_eq!((reply.text(), &reply.choices[1].text[..]), ("a", "bc"));
        let calls = &reply.choices[0].tool_calls;
        assert_eq!((&calls[0].arguments[..], &calls[1].arguments[..]), ("{}", "["));
        assert_eq!(calls[0].id, "x");
    }
}
