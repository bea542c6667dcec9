//! From the body of a chat completion to a request.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::dialect::model::*;
use crate::dialect::object::{NO_COUNTERPART, Object, list, text};
use crate::dialect::refused::{Path, Refused};

/// Fields that are taken with the one value that changes nothing.
const NEUTRAL: [(&str, &[&str]); 11] = [
    ("frequency_penalty", &["0", "0.0"]),
    ("functions", &["[]"]),
    ("logit_bias", &["{}"]),
    ("logprobs", &["false"]),
    ("metadata", &["{}"]),
    ("modalities", &["[\"text\"]"]),
    ("n", &["1"]),
    ("presence_penalty", &["0", "0.0"]),
    ("store", &["false"]),
    ("top_logprobs", &["0"]),
    ("verbosity", &["\"medium\""]),
];

/// Reads the body.
pub(in crate::dialect) fn read(body: &[u8]) -> Result<Request<'_>, Refused> {
    let mut object = Object::parse(body)?;
    let mut request = Request { model: object.text("model")?, ..Request::default() };
    read_messages(&mut object, &mut request)?;
    read_tools(&mut object, &mut request)?;
    read_limits(&mut object, &mut request)?;
    read_output(&mut object, &mut request)?;
    object.neutral(&NEUTRAL)?;
    object.hints(&["prompt_cache_key", "prompt_cache_retention"]);
    object.finish()?;
    Ok(request)
}

fn read_messages<'a>(
    object: &mut Object<'a, '_>,
    request: &mut Request<'a>,
) -> Result<(), Refused> {
    let root = object.path;
    let messages = Path::Field(&root, "messages");
    for (index, raw) in list(messages, object.need("messages")?)?.into_iter().enumerate() {
        let mut message = Object::read(Path::Item(&messages, index), raw)?;
        match &*message.need_text("role")? {
            "system" | "developer" if request.turns.is_empty() => {
                request.system.extend(texts(&mut message)?);
            }
            "system" | "developer" => {
                return Err(message.refused("role", "may be system only before all others"));
            }
            "user" => {
                let blocks = user_blocks(&mut message)?;
                request.push(Role::User, blocks);
            }
            "assistant" => {
                let blocks = assistant_blocks(&mut message)?;
                request.push(Role::Assistant, blocks);
            }
            "tool" => {
                let id = message.need_text("tool_call_id")?;
                let texts = texts(&mut message)?;
                let result = ToolResult { id, texts, is_error: false };
                request.push(Role::User, vec![Block::Result(result)]);
            }
            _ => return Err(message.refused("role", NO_COUNTERPART)),
        }
        message.finish()?;
    }
    Ok(())
}

/// The content of a message that has texts only.
fn texts<'a>(message: &mut Object<'a, '_>) -> Result<Vec<Cow<'a, str>>, Refused> {
    let mut texts = Vec::new();
    for block in content(message)? {
        match block {
            Block::Text(text) => texts.push(text),
            _ => return Err(message.refused("content", "may hold texts only in this role")),
        }
    }
    Ok(texts)
}

fn user_blocks<'a>(message: &mut Object<'a, '_>) -> Result<Vec<Block<'a>>, Refused> {
    let blocks = content(message)?;
    if blocks.is_empty() { Err(message.refused("content", "is empty")) } else { Ok(blocks) }
}

fn assistant_blocks<'a>(message: &mut Object<'a, '_>) -> Result<Vec<Block<'a>>, Refused> {
    let mut blocks = content(message)?;
    blocks.extend(message.text("refusal")?.map(Block::Text));
    // Beside a tool call the content is often there and empty.
    blocks.retain(|block| !matches!(block, Block::Text(text) if text.is_empty()));
    let here = message.path;
    let calls = Path::Field(&here, "tool_calls");
    for (index, raw) in message.list("tool_calls")?.into_iter().enumerate() {
        blocks.push(Block::Call(read_call(Path::Item(&calls, index), raw)?));
    }
    // Reasoning that some servers tell is not sent back to any of them; annotations are empty in
    // what a client library repeats.
    message.hints(&["reasoning", "reasoning_content"]);
    message.neutral(&[("annotations", &["[]"])])?;
    if blocks.is_empty() { Err(message.refused("content", "is empty")) } else { Ok(blocks) }
}

fn read_call<'a>(path: Path<'_>, raw: &'a RawValue) -> Result<Call<'a>, Refused> {
    let mut call = Object::read(path, raw)?;
    call.neutral(&[("type", &["\"function\""])])?;
    // A client library that puts a stream together repeats the index.
    call.hints(&["index"]);
    let id = call.need_text("id")?;
    let mut function = Object::read(Path::Field(&path, "function"), call.need("function")?)?;
    let name = function.need_text("name")?;
    let input = match function.need_text("arguments")? {
        blank if blank.trim_ascii().is_empty() => Cow::Borrowed("{}"),
        text => text,
    };
    let is_object = input.trim_ascii_start().starts_with('{')
        && serde_json::from_str::<serde::de::IgnoredAny>(&input).is_ok();
    if !is_object {
        return Err(function.refused("arguments", "is not the text of a JSON object"));
    }
    function.finish()?;
    call.finish()?;
    Ok(Call { id, name, input })
}

/// The content of a message: a text, or a list of parts.
fn content<'a>(message: &mut Object<'a, '_>) -> Result<Vec<Block<'a>>, Refused> {
    let Some(raw) = message.take("content") else { return Ok(Vec::new()) };
    let path = Path::Field(&message.path, "content");
    if raw.get().starts_with('"') {
        return Ok(vec![Block::Text(text(path, raw)?)]);
    }
    let parts = list(path, raw)?.into_iter().enumerate();
    parts.map(|(index, raw)| read_part(Path::Item(&path, index), raw)).collect()
}

fn read_part<'a>(path: Path<'_>, raw: &'a RawValue) -> Result<Block<'a>, Refused> {
    let mut part = Object::read(path, raw)?;
    let block = match &*part.need_text("type")? {
        "text" => Block::Text(part.need_text("text")?),
        "refusal" => Block::Text(part.need_text("refusal")?),
        "image_url" => {
            let here = Path::Field(&path, "image_url");
            Block::Image(read_image(here, part.need("image_url")?)?)
        }
        _ => return Err(part.refused("type", NO_COUNTERPART)),
    };
    part.finish()?;
    Ok(block)
}

fn read_image<'a>(path: Path<'_>, raw: &'a RawValue) -> Result<Image<'a>, Refused> {
    let mut image = Object::read(path, raw)?;
    let url = image.need_text("url")?;
    image.neutral(&[("detail", &["\"auto\"", "\"high\""])])?;
    let refuse = || image.refused("url", "is neither http(s) nor a data URL in base64");
    if url.starts_with("http://") || url.starts_with("https://") {
        image.finish()?;
        return Ok(Image::Url(url));
    }
    let comma = url.find(',').ok_or_else(refuse)?;
    let header = url[..comma].strip_prefix("data:").and_then(|h| h.strip_suffix(";base64"));
    let media_type = Cow::Owned(header.ok_or_else(refuse)?.to_owned());
    let data = match url {
        Cow::Borrowed(url) => Cow::Borrowed(&url[comma + 1..]),
        Cow::Owned(url) => Cow::Owned(url[comma + 1..].to_owned()),
    };
    image.finish()?;
    Ok(Image::Base64 { media_type, data })
}

fn read_tools<'a>(object: &mut Object<'a, '_>, request: &mut Request<'a>) -> Result<(), Refused> {
    let root = object.path;
    let tools = Path::Field(&root, "tools");
    for (index, raw) in object.list("tools")?.into_iter().enumerate() {
        let path = Path::Item(&tools, index);
        let mut tool = Object::read(path, raw)?;
        tool.neutral(&[("type", &["\"function\""])])?;
        let mut function = Object::read(Path::Field(&path, "function"), tool.need("function")?)?;
        request.tools.push(Tool {
            name: function.need_text("name")?,
            description: function.text("description")?,
            schema: function.take("parameters"),
            strict: function.flag("strict")?,
        });
        function.finish()?;
        tool.finish()?;
    }
    if let Some(raw) = object.take("tool_choice") {
        request.choice = read_choice(Path::Field(&root, "tool_choice"), raw)?;
    }
    request.is_serial = object.flag("parallel_tool_calls")? == Some(false);
    Ok(())
}

fn read_choice<'a>(path: Path<'_>, raw: &'a RawValue) -> Result<Choice<'a>, Refused> {
    match raw.get() {
        "\"auto\"" => return Ok(Choice::Auto),
        "\"none\"" => return Ok(Choice::Never),
        "\"required\"" => return Ok(Choice::Some),
        object if object.starts_with('{') => {}
        _ => return Err(path.refused(NO_COUNTERPART)),
    }
    let mut choice = Object::read(path, raw)?;
    choice.neutral(&[("type", &["\"function\""])])?;
    let mut function = Object::read(Path::Field(&path, "function"), choice.need("function")?)?;
    let name = function.need_text("name")?;
    function.finish()?;
    choice.finish()?;
    Ok(Choice::Tool(name))
}

fn read_limits<'a>(object: &mut Object<'a, '_>, request: &mut Request<'a>) -> Result<(), Refused> {
    // The older name says the same.
    let older = object.count("max_tokens")?;
    request.tokens_max = object.count("max_completion_tokens")?.or(older);
    request.temperature = object.number("temperature")?;
    let too_hot = |raw: &&RawValue| raw.get().parse::<f64>().is_ok_and(|value| value > 1.0);
    if request.temperature.as_ref().is_some_and(too_hot) {
        return Err(object.refused("temperature", "is above 1, the most that the endpoint takes"));
    }
    request.top_p = object.number("top_p")?;
    let root = object.path;
    let path = Path::Field(&root, "stop");
    request.stop = match object.take("stop") {
        None => Vec::new(),
        Some(raw) if raw.get().starts_with('"') => vec![text(path, raw)?],
        Some(raw) => {
            let items = list(path, raw)?.into_iter().enumerate();
            items
                .map(|(index, raw)| text(Path::Item(&path, index), raw))
                .collect::<Result<_, _>>()?
        }
    };
    request.effort = match object.text("reasoning_effort")?.as_deref() {
        None => None,
        Some("none") => Some(Effort::None),
        Some("minimal" | "low") => Some(Effort::Low),
        Some("medium") => Some(Effort::Medium),
        Some("high") => Some(Effort::High),
        Some("xhigh") => Some(Effort::Highest),
        Some(_) => return Err(object.refused("reasoning_effort", NO_COUNTERPART)),
    };
    Ok(())
}

fn read_output<'a>(object: &mut Object<'a, '_>, request: &mut Request<'a>) -> Result<(), Refused> {
    let root = object.path;
    request.stream = object.flag("stream")?.unwrap_or(false);
    if let Some(raw) = object.take("stream_options") {
        let mut options = Object::read(Path::Field(&root, "stream_options"), raw)?;
        request.usage = options.flag("include_usage")?.unwrap_or(false);
        options.hints(&["include_obfuscation"]);
        options.finish()?;
    }
    if let Some(raw) = object.take("response_format") {
        request.schema = read_format(Path::Field(&root, "response_format"), raw)?;
    }
    request.tier = match object.text("service_tier")?.as_deref() {
        None => None,
        Some("auto") => Some(Tier::Auto),
        Some("default") => Some(Tier::Standard),
        Some(_) => return Err(object.refused("service_tier", NO_COUNTERPART)),
    };
    let newer = object.text("safety_identifier")?;
    request.user = object.text("user")?;
    if newer.is_some() && request.user.is_some() && newer != request.user {
        return Err(object.refused("safety_identifier", "names another user than user does"));
    }
    request.user = newer.or(request.user.take());
    Ok(())
}

fn read_format<'a>(path: Path<'_>, raw: &'a RawValue) -> Result<Option<&'a RawValue>, Refused> {
    let mut format = Object::read(path, raw)?;
    let schema = match &*format.need_text("type")? {
        "text" => None,
        "json_schema" => {
            let here = Path::Field(&path, "json_schema");
            let mut named = Object::read(here, format.need("json_schema")?)?;
            // The name is a label, and the endpoint keeps strictly to every schema.
            named.hints(&["name", "strict"]);
            let schema = named.need("schema")?;
            named.finish()?;
            Some(schema)
        }
        _ => return Err(format.refused("type", NO_COUNTERPART)),
    };
    format.finish()?;
    Ok(schema)
}
