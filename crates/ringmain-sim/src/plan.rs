//! What one answer consists of, and its exact bytes.
//!
//! A [`Plan`] is small, holds no secret and says everything about an answer: the provider streams
//! from it, and the checker, which gets it out of the provider's log, renders the same bytes again
//! to compare them with what a caller received.

use serde::{Deserialize, Serialize};

use crate::script::Script;

/// Which API was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Api {
    /// `/chat/completions`.
    #[default]
    Chat,
    /// `/completions`.
    Completions,
    /// `/embeddings`.
    Embeddings,
}

/// What one answer consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The API called.
    pub api: Api,
    /// Whether the answer is a stream of events.
    pub stream: bool,
    /// Whether a stream tells its usage.
    pub usage: bool,
    /// The model asked for.
    pub model: String,
    /// Tokens that the prompt is said to have.
    pub prompt_tokens: u64,
    /// Seed of the text.
    pub seed: u64,
    /// What the prompt asked for.
    pub script: Script,
}

/// One step of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Piece {
    /// The first event: who speaks.
    Role,
    /// A reasoning token.
    Reasoning(u64),
    /// A text token.
    Text(u64),
    /// A fragment of a tool call's arguments; fragment 0 carries id and name and no argument.
    Tool {
        /// Index of the call.
        call: u64,
        /// Index of the fragment.
        fragment: u64,
    },
    /// The finish reason.
    Finish,
    /// Tokens used.
    Usage,
    /// `[DONE]`.
    Done,
}

impl Piece {
    /// Whether it is content, which counts and is paced.
    pub fn is_content(self) -> bool {
        matches!(self, Piece::Reasoning(_) | Piece::Text(_) | Piece::Tool { .. })
    }
}
