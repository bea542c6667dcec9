//! What an event of a stream turned out to be.

use super::failure::Failure;

/// What an event turned out to be, whatever the protocol.
#[derive(Debug)]
pub(super) enum Seen {
    /// Something of the answer; `content` when the model made it.
    Part { content: bool },
    /// Usage and nothing else.
    Usage,
    /// The last event.
    Terminal { content: bool },
    /// An error in the provider's words.
    Error(Failure),
    /// The last event, cut off in its middle.
    Torn,
}

impl Seen {
    /// Whether the event holds something that the model made.
    pub fn is_content(&self) -> bool {
        matches!(self, Seen::Part { content: true } | Seen::Terminal { content: true } | Seen::Torn)
    }
}

/// What a whole plain answer turned out to be.
#[derive(Debug)]
pub(super) enum Whole {
    Answer,
    /// An error in the provider's words.
    Error(Failure),
    /// JSON that has neither.
    Nothing,
}

/// The text cannot be what was asked for.
#[derive(Debug)]
pub(super) struct Unreadable(pub String);

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Unreadable {
        // The category and place alone: the error's own text may quote the answer.
        let (what, at) = (error.classify(), error.column());
        Unreadable(format!("{what:?} error at column {at}"))
    }
}
