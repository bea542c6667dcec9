//! From the body of a messages request to a request.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::dialect::model::*;
use crate::dialect::object::{NO_COUNTERPART, Object, list, text};
use crate::dialect::refused::{Path, Refused};

/// Where a cache of the provider may begin: a hint on cost.
const CACHE: [&str; 1] = ["cache_control"];

/// Up to so many tokens of thinking are low effort, and medium effort.
const BUDGET_LOW_MAX: u64 = 2048;
const BUDGET_MEDIUM_MAX: u64 = 16_384;

/// Reads the body.
pub(in crate::dialect) fn read(body: &[u8]) -> Result<Request<'_>, Refused> {
    let mut object = Object::parse(body)?;
    let mut request = Request { model: object.text("model")?, usage: true, ..Request::default() };
    read_system(&mut object, &mut request)?;
    read_messages(&mut object, &mut request)?;
    read_tools(&mut object, &mut request)?;
    read_limits(&mut object, &mut request)?;
    read_thinking(&mut object, &mut request)?;
    object.hints(&CACHE);
    object.finish()?;
    Ok(request)
}

fn read_system<'a>(object: &mut Object<'a, '_>, request: &mut Request<'a>) -> Result<(), Refused> {
    let Some(raw) = object.take("system") else { return Ok(()) };
    request.system = texts(Path::Field(&object.path, "system"), raw)?;
    Ok(())
}

/// A content that has texts only.
fn texts<'a>(path: Path<'_>, raw: &'a RawValue) -> Result<Vec<Cow<'a, str>>, Refused> {
    if raw.get().starts_with('"') {
        return Ok(vec![text(path, raw)?]);
    }
    let mut texts = Vec::new();
    for (index, raw) in list(path, raw)?.into_iter().enumerate() {
        let path = Path::Item(&path, index);
        match read_block(path, raw)? {
            Some(Block::Text(text)) => texts.push(text),
            _ => return Err(path.refused("may be a text only in this place")),
        }
    }
    Ok(texts)
}

fn read_messages<'a>(
    object: &mut Object<'a, '_>,
    request: &mut Request<'a>,
) -> Result<(), Refused> {
    let root = object.path;
    let messages = Path::Field(&root, "messages");
    for (index, raw) in list(messages, object.need("messages")?)?.into_iter().enumerate() {
        let mut message = Object::read(Path::Item(&messages, index), raw)?;
        let role = match &*message.need_text("role")? {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            _ => return Err(message.refused("role", "is neither user nor assistant")),
        };
        let blocks = content(&mut message)?;
        let fits = |block: &Block<'_>| match role {
            Role::Assistant => matches!(block, Block::Text(_) | Block::Call(_)),
            Role::User => !matches!(block, Block::Call(_)),
        };
        if !blocks.iter().all(fits) {
            return Err(message.refused("content", "holds a block that its role cannot say"));
        }
        message.finish()?;
        request.turns.push(Turn { role, blocks });
    }
    match request.turns.last() {
        Some(Turn { role: Role::Assistant, .. }) => {
            Err(messages.refused("end with one of the assistant, which an endpoint cannot go on"))
        }
        _ => Ok(()),
    }
}

fn content<'a>(message: &mut Object<'a, '_>) -> Result<Vec<Block<'a>>, Refused> {
    let raw = message.need("content")?;
    let path = Path::Field(&message.path, "content");
    if raw.get().starts_with('"') {
        return Ok(vec![Block::Text(text(path, raw)?)]);
    }
    let mut blocks = Vec::new();
    for (index, raw) in list(path, raw)?.into_iter().enumerate() {
        blocks.extend(read_block(Path::Item(&path, index), raw)?);
    }
    Ok(blocks)
}

/// Reads a block; `None` for thinking, which is sent back to no endpoint of another dialect.
fn read_block<'a>(path: Path<'_>, raw: &'a RawValue) -> Result<Option<Block<'a>>, Refused> {
    let mut block = Object::read(path, raw)?;
    block.hints(&CACHE);
    let read = match &*block.need_text("type")? {
        "text" => {
            block.neutral(&[("citations", &["[]"])])?;
            Block::Text(block.need_text("text")?)
        }
        "image" => {
            let here = Path::Field(&path, "source");
            Block::Image(read_image(here, block.need("source")?)?)
        }
        "tool_use" => {
            block.neutral(&[("caller", &["{\"type\":\"direct\"}"])])?;
            Block::Call(Call {
                id: block.need_text("id")?,
                name: block.need_text("name")?,
                input: Cow::Borrowed(block.need("input")?.get()),
            })
        }
        "tool_result" => Block::Result(read_result(&mut block)?),
        "thinking" | "redacted_thinking" => return Ok(None),
        _ => return Err(block.refused("type", NO_COUNTERPART)),
    };
    block.finish()?;
    Ok(Some(read))
}

fn read_image<'a>(path: Path<'_>, raw: &'a RawValue) -> Result<Image<'a>, Refused> {
    let mut source = Object::read(path, raw)?;
    let image = match &*source.need_text("type")? {
        "url" => Image::Url(source.need_text("url")?),
        "base64" => Image::Base64 {
            media_type: source.need_text("media_type")?,
            data: source.need_text("data")?,
        },
        _ => return Err(source.refused("type", NO_COUNTERPART)),
    };
    source.finish()?;
    Ok(image)
}

fn read_result<'a>(block: &mut Object<'a, '_>) -> Result<ToolResult<'a>, Refused> {
    let id = block.need_text("tool_use_id")?;
    let is_error = block.flag("is_error")?.unwrap_or(false);
    let texts = match block.take("content") {
        None => Vec::new(),
        Some(raw) => texts(Path::Field(&block.path, "content"), raw)?,
    };
    Ok(ToolResult { id, texts, is_error })
}

fn read_tools<'a>(object: &mut Object<'a, '_>, request: &mut Request<'a>) -> Result<(), Refused> {
    let root = object.path;
    let tools = Path::Field(&root, "tools");
    for (index, raw) in object.list("tools")?.into_iter().enumerate() {
        let mut tool = Object::read(Path::Item(&tools, index), raw)?;
        tool.hints(&CACHE);
        tool.neutral(&[("type", &["\"custom\""])])?;
        request.tools.push(Tool {
            name: tool.need_text("name")?,
            description: tool.text("description")?,
            schema: Some(tool.need("input_schema")?),
            strict: tool.flag("strict")?,
        });
        tool.finish()?;
    }
    let Some(raw) = object.take("tool_choice") else { return Ok(()) };
    let mut choice = Object::read(Path::Field(&root, "tool_choice"), raw)?;
    request.choice = match &*choice.need_text("type")? {
        "auto" => Choice::Auto,
        "any" => Choice::Some,
        "none" => Choice::Never,
        "tool" => Choice::Tool(choice.need_text("name")?),
        _ => return Err(choice.refused("type", NO_COUNTERPART)),
    };
    request.is_serial = choice.flag("disable_parallel_tool_use")?.unwrap_or(false);
    choice.finish()
}

fn read_limits<'a>(object: &mut Object<'a, '_>, request: &mut Request<'a>) -> Result<(), Refused> {
    let root = object.path;
    request.tokens_max = object.count("max_tokens")?;
    if request.tokens_max.is_none() {
        return Err(object.refused("max_tokens", "is missing"));
    }
    request.temperature = object.number("temperature")?;
    request.top_p = object.number("top_p")?;
    request.stream = object.flag("stream")?.unwrap_or(false);
    let stops = Path::Field(&root, "stop_sequences");
    for (index, raw) in object.list("stop_sequences")?.into_iter().enumerate() {
        request.stop.push(text(Path::Item(&stops, index), raw)?);
    }
    if let Some(raw) = object.take("metadata") {
        let mut metadata = Object::read(Path::Field(&root, "metadata"), raw)?;
        request.user = metadata.text("user_id")?;
        metadata.finish()?;
    }
    request.tier = match object.text("service_tier")?.as_deref() {
        None => None,
        Some("auto") => Some(Tier::Auto),
        Some("standard_only") => Some(Tier::Standard),
        Some(_) => return Err(object.refused("service_tier", NO_COUNTERPART)),
    };
    Ok(())
}

/// How much to think: said outright, or by a budget of tokens.
fn read_thinking<'a>(
    object: &mut Object<'a, '_>,
    request: &mut Request<'a>,
) -> Result<(), Refused> {
    let root = object.path;
    if let Some(raw) = object.take("thinking") {
        let mut thinking = Object::read(Path::Field(&root, "thinking"), raw)?;
        request.effort = match &*thinking.need_text("type")? {
            "enabled" => Some(effort_of(thinking.count("budget_tokens")?.unwrap_or(0))),
            "disabled" => Some(Effort::None),
            // What an endpoint does unasked.
            "adaptive" => None,
            _ => return Err(thinking.refused("type", NO_COUNTERPART)),
        };
        thinking.neutral(&[("display", &["\"summarized\""])])?;
        thinking.finish()?;
    }
    let Some(raw) = object.take("output_config") else { return Ok(()) };
    let path = Path::Field(&root, "output_config");
    let mut output = Object::read(path, raw)?;
    request.effort = match output.text("effort")?.as_deref() {
        None => request.effort,
        Some("low") => Some(Effort::Low),
        Some("medium") => Some(Effort::Medium),
        Some("high") => Some(Effort::High),
        Some("xhigh" | "max") => Some(Effort::Highest),
        Some(_) => return Err(output.refused("effort", NO_COUNTERPART)),
    };
    if let Some(raw) = output.take("format") {
        let mut format = Object::read(Path::Field(&path, "format"), raw)?;
        format.neutral(&[("type", &["\"json_schema\""])])?;
        request.schema = Some(format.need("schema")?);
        format.finish()?;
    }
    output.finish()
}

fn effort_of(budget_tokens: u64) -> Effort {
    match budget_tokens {
        low if low <= BUDGET_LOW_MAX => Effort::Low,
        medium if medium <= BUDGET_MEDIUM_MAX => Effort::Medium,
        _ => Effort::High,
    }
}
