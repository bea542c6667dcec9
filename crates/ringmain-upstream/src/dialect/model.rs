//! A request to a chat model in no dialect: what both can say.
//!
//! Texts and nested JSON are borrowed from the body that was read, wherever they hold no escape.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// A request.
#[derive(Debug, Default)]
pub(super) struct Request<'a> {
    /// May be absent where the route puts in the endpoint's own name.
    pub model: Option<Cow<'a, str>>,
    pub system: Vec<Cow<'a, str>>,
    pub turns: Vec<Turn<'a>>,
    pub tools: Vec<Tool<'a>>,
    pub choice: Choice<'a>,
    /// At most one tool call in the answer.
    pub is_serial: bool,
    pub tokens_max: Option<u64>,
    pub temperature: Option<&'a RawValue>,
    pub top_p: Option<&'a RawValue>,
    pub stop: Vec<Cow<'a, str>>,
    pub stream: bool,
    /// Whether the stream is to tell its usage.
    pub usage: bool,
    /// The end user on whose behalf this is asked.
    pub user: Option<Cow<'a, str>>,
    pub effort: Option<Effort>,
    /// JSON schema that the answer must keep to.
    pub schema: Option<&'a RawValue>,
    pub tier: Option<Tier>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Assistant,
    User,
}

#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub role: Role,
    pub blocks: Vec<Block<'a>>,
}

#[derive(Debug)]
pub(super) enum Block<'a> {
    Call(Call<'a>),
    Image(Image<'a>),
    Result(ToolResult<'a>),
    Text(Cow<'a, str>),
}

/// A call of a tool by the model.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub id: Cow<'a, str>,
    pub name: Cow<'a, str>,
    /// The text of a JSON object.
    pub input: Cow<'a, str>,
}

#[derive(Debug)]
pub(super) enum Image<'a> {
    Base64 { media_type: Cow<'a, str>, data: Cow<'a, str> },
    Url(Cow<'a, str>),
}

/// What a tool gave.
#[derive(Debug)]
pub(super) struct ToolResult<'a> {
    /// The call that it answers.
    pub id: Cow<'a, str>,
    pub texts: Vec<Cow<'a, str>>,
    pub is_error: bool,
}

/// A tool that the model may call.
#[derive(Debug)]
pub(super) struct Tool<'a> {
    pub name: Cow<'a, str>,
    pub description: Option<Cow<'a, str>>,
    /// JSON schema of its arguments.
    pub schema: Option<&'a RawValue>,
    pub strict: Option<bool>,
}

/// Whether and which tool is to be called.
#[derive(Debug, Default)]
pub(super) enum Choice<'a> {
    #[default]
    Unsaid,
    Auto,
    Never,
    Some,
    Tool(Cow<'a, str>),
}

/// How much the model is to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    None,
    Low,
    Medium,
    High,
    Highest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Auto,
    Standard,
}

impl<'a> Request<'a> {
    /// Adds to the turns. What a user says right behind the results of tools belongs to the same
    /// turn.
    pub fn push(&mut self, role: Role, blocks: Vec<Block<'a>>) {
        let follows_result = |turn: &Turn<'_>| {
            turn.role == Role::User && matches!(turn.blocks.last(), Some(Block::Result(_)))
        };
        match self.turns.last_mut() {
            Some(last) if role == Role::User && follows_result(last) => last.blocks.extend(blocks),
            _ => self.turns.push(Turn { role, blocks }),
        }
    }
}
