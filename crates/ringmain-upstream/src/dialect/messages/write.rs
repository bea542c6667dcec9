//! From a request to the body of a messages request.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::dialect::model::*;

/// The limit of an answer whose caller set none: the messages API demands one.
const TOKENS_MAX_DEFAULT: u64 = 8192;

/// The schema of a tool that takes no arguments and whose caller gave none.
const NO_ARGUMENTS: Empty = Empty { kind: "object", properties: Nothing {} };

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Part<'a>>,
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop_sequences: &'a [Cow<'a, str>],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Declared<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ToolChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Typed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<Output<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Blocks(Vec<Part<'a>>),
    Text(&'a str),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Image {
        source: Source<'a>,
    },
    Text {
        text: &'a str,
    },
    ToolResult {
        tool_use_id: &'a str,
        content: Content<'a>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        input: &'a RawValue,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Source<'a> {
    Base64 { media_type: &'a str, data: &'a str },
    Url { url: &'a str },
}

#[derive(Serialize)]
struct Declared<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    input_schema: Schema<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Schema<'a> {
    Given(&'a RawValue),
    Nothing(Empty),
}

#[derive(Serialize)]
struct Empty {
    #[serde(rename = "type")]
    kind: &'static str,
    properties: Nothing,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct ToolChoice<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disable_parallel_tool_use: bool,
}

#[derive(Serialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Output<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format<'a>>,
}

#[derive(Serialize)]
struct Format<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    schema: &'a RawValue,
}

#[derive(Serialize)]
struct Metadata<'a> {
    user_id: &'a str,
}

/// Writes the body.
pub(in crate::dialect) fn write(request: &Request<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let messages = request.turns.iter().map(message).collect::<Result<_, _>>()?;
    serde_json::to_vec(&Body {
        model: request.model.as_deref(),
        max_tokens: request.tokens_max.unwrap_or(TOKENS_MAX_DEFAULT),
        system: request.system.iter().map(|text| Part::Text { text }).collect(),
        messages,
        temperature: request.temperature,
        top_p: request.top_p,
        stop_sequences: &request.stop,
        stream: request.stream,
        tools: request.tools.iter().map(declared).collect(),
        tool_choice: tool_choice(request),
        thinking: request.effort.map(thinking),
        output_config: output(request),
        service_tier: request.tier.map(|tier| match tier {
            Tier::Auto => "auto",
            Tier::Standard => "standard_only",
        }),
        metadata: request.user.as_deref().map(|user_id| Metadata { user_id }),
    })
}

fn message<'a>(turn: &'a Turn<'a>) -> Result<Message<'a>, serde_json::Error> {
    let role = match turn.role {
        Role::Assistant => "assistant",
        Role::User => "user",
    };
    let content = match turn.blocks.as_slice() {
        [Block::Text(text)] => Content::Text(text),
        blocks => Content::Blocks(blocks.iter().map(part).collect::<Result<_, _>>()?),
    };
    Ok(Message { role, content })
}

fn part<'a>(block: &'a Block<'a>) -> Result<Part<'a>, serde_json::Error> {
    Ok(match block {
        Block::Text(text) => Part::Text { text },
        Block::Image(Image::Url(url)) => Part::Image { source: Source::Url { url } },
        Block::Image(Image::Base64 { media_type, data }) => {
            Part::Image { source: Source::Base64 { media_type, data } }
        }
        Block::Call(Call { id, name, input }) => {
            Part::ToolUse { id, name, input: serde_json::from_str(input)? }
        }
        Block::Result(ToolResult { id, texts, is_error }) => {
            let content = match texts.as_slice() {
                [text] => Content::Text(text),
                texts => Content::Blocks(texts.iter().map(|text| Part::Text { text }).collect()),
            };
            Part::ToolResult { tool_use_id: id, content, is_error: *is_error }
        }
    })
}

fn declared<'a>(tool: &'a Tool<'a>) -> Declared<'a> {
    Declared {
        name: &tool.name,
        description: tool.description.as_deref(),
        input_schema: tool.schema.map_or(Schema::Nothing(NO_ARGUMENTS), Schema::Given),
        strict: tool.strict,
    }
}

/// A choice stands only beside tools; without any there is nothing to choose.
fn tool_choice<'a>(request: &'a Request<'a>) -> Option<ToolChoice<'a>> {
    let (kind, name) = match &request.choice {
        _ if request.tools.is_empty() => return None,
        Choice::Unsaid if !request.is_serial => return None,
        Choice::Unsaid | Choice::Auto => ("auto", None),
        Choice::Never => ("none", None),
        Choice::Some => ("any", None),
        Choice::Tool(name) => ("tool", Some(&**name)),
    };
    let disable_parallel_tool_use = request.is_serial && kind != "none";
    Some(ToolChoice { kind, name, disable_parallel_tool_use })
}

fn thinking(effort: Effort) -> Typed {
    Typed { kind: if effort == Effort::None { "disabled" } else { "adaptive" } }
}

fn output<'a>(request: &Request<'a>) -> Option<Output<'a>> {
    let effort = match request.effort {
        None | Some(Effort::None) => None,
        Some(Effort::Low) => Some("low"),
        Some(Effort::Medium) => Some("medium"),
        Some(Effort::High) => Some("high"),
        Some(Effort::Highest) => Some("xhigh"),
    };
    let format = request.schema.map(|schema| Format { kind: "json_schema", schema });
    (effort.is_some() || format.is_some()).then_some(Output { effort, format })
}
