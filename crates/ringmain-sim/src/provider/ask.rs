//! Understanding a request: its API, its prompt and the script in it.

use http::{Method, Uri};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::plan::{Api, Plan};
use crate::script::{Script, ScriptError};

/// Most inputs of one embeddings request.
const INPUTS_MAX: usize = 2048;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Api(Api),
    Log,
    Model(&'a str),
    Models,
    /// The API of Anthropic.
    Messages,
    /// An API of which only recordings are known.
    Recorded,
    Reset,
}

/// A request as understood.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) plan: Plan,
    pub(super) embeddings: Option<Embeddings>,
}

/// The inputs of an embeddings request.
#[derive(Debug)]
pub(super) struct Embeddings {
    pub(super) inputs: Vec<String>,
    pub(super) dims: usize,
    pub(super) is_base64: bool,
}

/// Why a request was not understood.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum AskError {
    #[error("the body is not the JSON that this API takes: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0} inputs in one request, 1 to {INPUTS_MAX} are possible")]
    Inputs(usize),
    #[error("{0} dimensions, 1 to 8192 are possible")]
    Dims(u64),
    #[error(transparent)]
    Script(#[from] ScriptError),
}

/// The members of a body that matter here. Texts stay in the body until one is looked at: a
/// prompt of megabytes is walked over, not copied.
#[derive(Deserialize)]
struct RawRequest<'a> {
    #[serde(default)]
    model: String,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(borrow, default)]
    messages: Vec<Message<'a>>,
    #[serde(borrow, default)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(default)]
    encoding_format: Option<String>,
    #[serde(default)]
    dimensions: Option<u64>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(default)]
    role: String,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

/// What this method and path ask for; `None`: nothing that exists.
pub(super) fn target<'a>(method: &Method, uri: &'a Uri) -> Option<Target<'a>> {
    let path = uri.path();
    let path = path.strip_prefix("/v1").unwrap_or(path);
    match (method, path) {
        (&Method::POST, "/chat/completions") => Some(Target::Api(Api::Chat)),
        (&Method::POST, "/completions") => Some(Target::Api(Api::Completions)),
        (&Method::POST, "/embeddings") => Some(Target::Api(Api::Embeddings)),
        (&Method::POST, "/messages") => Some(Target::Messages),
        (&Method::POST, "/responses" | "/api/chat" | "/api/generate") => Some(Target::Recorded),
        (&Method::POST, "/sim/reset") => Some(Target::Reset),
        (&Method::GET, "/sim/log") => Some(Target::Log),
        (&Method::GET, "/models") => Some(Target::Models),
        (&Method::GET, path) => path.strip_prefix("/models/").map(Target::Model),
        _ => None,
    }
}

impl Asked {
    /// Understands the body of a request to this API.
    pub(super) fn parse(api: Api, body: &[u8], provider_seed: u64) -> Result<Asked, AskError> {
        let raw: RawRequest<'_> = serde_json::from_slice(body)?;
        let is_user = |message: &&Message<'_>| message.role == "user";
        let prompt = match api {
            Api::Chat => raw.messages.iter().rfind(is_user).and_then(|message| message.content),
            Api::Completions => raw.prompt,
            Api::Embeddings => raw.input,
        };
        let script = find_script(prompt)?;
        let embeddings = match api {
            Api::Embeddings => Some(Embeddings::parse(&raw, &script)?),
            _ => None,
        };
        let usage = raw.stream_options.and_then(|options| options.include_usage);
        let plan = Plan {
            api,
            stream: raw.stream.unwrap_or(false) && api != Api::Embeddings,
            usage: usage.unwrap_or(false),
            model: raw.model,
            prompt_tokens: prompt.map_or(0, |prompt| prompt.get().len() as u64).div_ceil(4),
            seed: script.text_seed(provider_seed),
            script,
        };
        Ok(Asked { plan, embeddings })
    }

    /// The same with the script that the head of the request carried.
    pub(super) fn told(mut self, script: Option<Script>) -> Asked {
        if let Some(script) = script {
            self.plan.seed = script.text_seed(self.plan.seed);
            self.plan.script = script;
        }
        self
    }
}

impl Embeddings {
    fn parse(raw: &RawRequest<'_>, script: &Script) -> Result<Embeddings, AskError> {
        let inputs = match raw.input {
            Some(input) => inputs(input)?,
            None => Vec::new(),
        };
        if inputs.is_empty() || inputs.len() > INPUTS_MAX {
            return Err(AskError::Inputs(inputs.len()));
        }
        let dims = raw.dimensions.unwrap_or(script.dims);
        if !(1..=8192).contains(&dims) {
            return Err(AskError::Dims(dims));
        }
        let is_base64 = raw.encoding_format.as_deref() == Some("base64");
        Ok(Embeddings { inputs, dims: dims as usize, is_base64 })
    }
}

/// The inputs of an embeddings request: a text, several, one list of token numbers, or several.
fn inputs(raw: &RawValue) -> Result<Vec<String>, serde_json::Error> {
    if raw.get().starts_with('"') {
        return Ok(vec![serde_json::from_str(raw.get())?]);
    }
    let items: Vec<&RawValue> = serde_json::from_str(raw.get())?;
    let text = |item: &&RawValue| match item.get() {
        text if text.starts_with('"') => serde_json::from_str(text),
        numbers => Ok(numbers.to_owned()),
    };
    let is_number = |item: &&RawValue| item.get().starts_with(|c: char| c.is_ascii_digit());
    match items.first() {
        Some(first) if is_number(first) => Ok(vec![raw.get().to_owned()]),
        _ => items.iter().map(text).collect(),
    }
}

/// The script in a prompt: a text, a list of texts, or a list of parts with texts.
fn find_script(prompt: Option<&RawValue>) -> Result<Script, AskError> {
    let Some(raw) = prompt.map(RawValue::get).filter(|raw| raw.contains("[[sim")) else {
        return Ok(Script::default());
    };
    let text = if raw.starts_with('"') {
        serde_json::from_str(raw)?
    } else if let Ok(texts) = serde_json::from_str::<Vec<String>>(raw) {
        texts.concat()
    } else {
        let parts: Vec<Part> = serde_json::from_str(raw)?;
        parts.into_iter().map(|part| part.text).collect()
    };
    Ok(Script::find(&text)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(content: &str) -> Plan {
        let body = format!(
            r#"{{"model":"m","stream":true,"stream_options":{{"include_usage":true}},"messages":[
            {{"role":"user","content":"[[sim n=1]]"}},{{"role":"user","content":{content}}},
            {{"role":"assistant","content":"[[sim n=9]]"}}]}}"#
        );
        Asked::parse(Api::Chat, body.as_bytes(), 5).unwrap().plan
    }

    #[test]
    fn the_last_user_message_steers() {
        let plan = chat(r#""x \n [[sim n=7]]""#);
        assert_eq!((plan.script.n, plan.stream, plan.usage, plan.seed), (7, true, true, 5));
        let plan =
            chat(r#"[{"type":"text","text":"a [[sim id=q "},{"type":"text","text":"n=8]]"}]"#);
        assert_eq!((plan.script.n, plan.script.id.as_deref()), (8, Some("q")));
        assert_eq!(plan.seed, crate::text::seed_of("q"));
        assert_eq!(chat("\"plain\"").script, Script::default());
    }

    #[test]
    fn inputs_come_in_four_forms() {
        let inputs = |input: &str| {
            let body = format!(r#"{{"model":"m","input":{input}}}"#);
            let asked = Asked::parse(Api::Embeddings, body.as_bytes(), 0).unwrap();
            asked.embeddings.unwrap().inputs
        };
        assert_eq!(inputs(r#""a\n""#), ["a\n"]);
        assert_eq!(inputs(r#"["a","b"]"#), ["a", "b"]);
        assert_eq!(inputs("[1,2]"), ["[1,2]"]);
        assert_eq!(inputs("[[1,2],[3]]"), ["[1,2]", "[3]"]);
    }

    #[test]
    fn bad_requests_are_told() {
        let error =
            |api, body: &str| Asked::parse(api, body.as_bytes(), 0).unwrap_err().to_string();
        assert!(error(Api::Chat, "{").contains("not the JSON"));
        assert!(error(Api::Embeddings, "{}").contains("0 inputs"));
        assert!(error(Api::Completions, r#"{"prompt":"[[sim x=1]]"}"#).contains("\"x\""));
    }

    #[test]
    fn paths_stand_with_and_without_version() {
        let target = |method: Method, path: &'static str| {
            let uri = Box::leak(Box::new(Uri::from_static(path)));
            target(&method, uri)
        };
        assert_eq!(target(Method::POST, "/v1/embeddings"), Some(Target::Api(Api::Embeddings)));
        assert_eq!(target(Method::POST, "/chat/completions"), Some(Target::Api(Api::Chat)));
        assert_eq!(target(Method::GET, "/v1/models/a"), Some(Target::Model("a")));
        assert_eq!(target(Method::GET, "/v1/embeddings"), None);
    }
}
