//! From a request to the body of a chat completion.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::dialect::model::*;

/// The name that a JSON schema must have and that a messages request does not give.
const SCHEMA_NAME: &str = "answer";

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop: &'a [Cow<'a, str>],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Function<'a, Declared<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Format<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: Url<'a> },
}

#[derive(Serialize)]
struct Url<'a> {
    url: Cow<'a, str>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    id: &'a str,
    #[serde(flatten)]
    function: Function<'a, Called<'a>>,
}

#[derive(Serialize)]
struct Called<'a> {
    name: &'a str,
    arguments: &'a str,
}

#[derive(Serialize)]
struct Declared<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(Serialize)]
struct Function<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    function: T,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ToolChoice<'a> {
    Word(&'static str),
    Named(Function<'a, Named<'a>>),
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Format<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    json_schema: Schema<'a>,
}

#[derive(Serialize)]
struct Schema<'a> {
    name: &'static str,
    schema: &'a RawValue,
    strict: bool,
}

/// Writes the body.
pub(in crate::dialect) fn write(request: &Request<'_>) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Body {
        model: request.model.as_deref(),
        messages: messages(request),
        max_completion_tokens: request.tokens_max,
        temperature: request.temperature,
        top_p: request.top_p,
        stop: &request.stop,
        stream: request.stream,
        tools: request.tools.iter().map(declared).collect(),
        tool_choice: tool_choice(&request.choice),
        parallel_tool_calls: request.is_serial.then_some(false),
        reasoning_effort: request.effort.map(effort),
        response_format: request.schema.map(format),
        service_tier: request.tier.map(|tier| match tier {
            Tier::Auto => "auto",
            Tier::Standard => "default",
        }),
        user: request.user.as_deref(),
    })
}

fn messages<'a>(request: &'a Request<'a>) -> Vec<Message<'a>> {
    let mut messages = Vec::with_capacity(request.turns.len() + 1);
    if !request.system.is_empty() {
        // One message: many servers take a system message in the first place alone.
        let text = match request.system.as_slice() {
            [text] => Cow::Borrowed(&**text),
            several => Cow::Owned(several.join("\n\n")),
        };
        messages.push(message("system", Some(Content::Text(text))));
    }
    for turn in &request.turns {
        match turn.role {
            Role::Assistant => messages.push(assistant(&turn.blocks)),
            Role::User => push_user(&turn.blocks, &mut messages),
        }
    }
    messages
}

fn message<'a>(role: &'static str, content: Option<Content<'a>>) -> Message<'a> {
    Message { role, tool_call_id: None, content, tool_calls: Vec::new() }
}

/// The texts of a turn are one text that the calls interrupted.
fn assistant<'a>(blocks: &'a [Block<'a>]) -> Message<'a> {
    let texts: Vec<&str> = blocks.iter().filter_map(text).collect();
    let content = match texts.as_slice() {
        [] => None,
        [text] => Some(Cow::Borrowed(*text)),
        several => Some(Cow::Owned(several.concat())),
    };
    let tool_calls = blocks.iter().filter_map(|block| match block {
        Block::Call(Call { id, name, input }) => {
            let called = Called { name, arguments: input };
            Some(ToolCall { id, function: Function { kind: "function", function: called } })
        }
        _ => None,
    });
    let message = message("assistant", content.map(Content::Text));
    Message { tool_calls: tool_calls.collect(), ..message }
}

/// Results are messages of their own, and come first: they answer the message before.
fn push_user<'a>(blocks: &'a [Block<'a>], messages: &mut Vec<Message<'a>>) {
    for block in blocks {
        if let Block::Result(result) = block {
            let message = message("tool", Some(Content::Text(result_text(result))));
            messages.push(Message { tool_call_id: Some(&result.id), ..message });
        }
    }
    let parts: Vec<Part<'_>> = blocks.iter().filter_map(part).collect();
    let content = match parts.as_slice() {
        [] if blocks.is_empty() => Content::Text(Cow::Borrowed("")),
        [] => return,
        [Part::Text { text }] => Content::Text(Cow::Borrowed(*text)),
        _ => Content::Parts(parts),
    };
    messages.push(message("user", Some(content)));
}

/// A result has no place for its failure but its text.
fn result_text<'a>(result: &'a ToolResult<'a>) -> Cow<'a, str> {
    match (result.texts.as_slice(), result.is_error) {
        ([], false) => Cow::Borrowed(""),
        ([text], false) => Cow::Borrowed(text),
        (texts, false) => Cow::Owned(texts.concat()),
        (texts, true) => Cow::Owned(format!("error: {}", texts.concat())),
    }
}

fn text<'a>(block: &'a Block<'a>) -> Option<&'a str> {
    match block {
        Block::Text(text) => Some(text),
        _ => None,
    }
}

fn part<'a>(block: &'a Block<'a>) -> Option<Part<'a>> {
    match block {
        Block::Text(text) => Some(Part::Text { text }),
        Block::Image(Image::Url(url)) => {
            Some(Part::ImageUrl { image_url: Url { url: Cow::Borrowed(url) } })
        }
        Block::Image(Image::Base64 { media_type, data }) => {
            let url = Cow::Owned(format!("data:{media_type};base64,{data}"));
            Some(Part::ImageUrl { image_url: Url { url } })
        }
        Block::Call(_) | Block::Result(_) => None,
    }
}

fn declared<'a>(tool: &'a Tool<'a>) -> Function<'a, Declared<'a>> {
    let function = Declared {
        name: &tool.name,
        description: tool.description.as_deref(),
        parameters: tool.schema,
        strict: tool.strict,
    };
    Function { kind: "function", function }
}

fn tool_choice<'a>(choice: &'a Choice<'a>) -> Option<ToolChoice<'a>> {
    Some(match choice {
        Choice::Unsaid => return None,
        Choice::Auto => ToolChoice::Word("auto"),
        Choice::Never => ToolChoice::Word("none"),
        Choice::Some => ToolChoice::Word("required"),
        Choice::Tool(name) => {
            ToolChoice::Named(Function { kind: "function", function: Named { name } })
        }
    })
}

fn effort(effort: Effort) -> &'static str {
    match effort {
        Effort::None => "none",
        Effort::Low => "low",
        Effort::Medium => "medium",
        Effort::High => "high",
        Effort::Highest => "xhigh",
    }
}

fn format(schema: &RawValue) -> Format<'_> {
    let json_schema = Schema { name: SCHEMA_NAME, schema, strict: true };
    Format { kind: "json_schema", json_schema }
}
