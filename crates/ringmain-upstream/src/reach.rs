//! What a request may reach at the provider, judged by its method and path alone.
//!
//! All callers share the endpoint's account. What the provider stores for one of them is there
//! for whoever knows or lists its name, and a path can name a model that the body does not.

use ringmain_wire::RequestHead;
use ringmain_wire::head::Method;
use thiserror::Error;

/// APIs whose model is the one that the body names.
const MODEL_IN_BODY: [&str; 10] = [
    "/audio/speech",
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/images/generations",
    "/messages",
    "/messages/count_tokens",
    "/moderations",
    "/rerank",
    "/responses",
];

/// Whether the endpoint goes by the model that the body names: for these requests alone, the name
/// that is spliced into the body decides which model answers.
pub fn goes_by_body_model(method: Method, path: &str) -> bool {
    method == Method::Post && MODEL_IN_BODY.contains(&without_query(path))
}

/// Whether this reads the list of models, and nothing else.
pub fn lists_models(method: Method, path: &str) -> bool {
    method == Method::Get && without_query(path) == "/models"
}

/// Names in a path behind which lies what was stored, or the account itself.
const STORED: [&str; 14] = [
    "assistants",
    "batches",
    "containers",
    "conversations",
    "evals",
    "files",
    "fine_tuning",
    "organization",
    "organizations",
    "skills",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
];

/// What nearly all requests go to, which is nothing stored.
const COMPUTING: [&str; 5] =
    ["/chat/completions", "/completions", "/embeddings", "/responses", "/messages"];

/// Whether this POST acts on something stored: by one of the names, wherever it stands, to cancel
/// it, or on one completion. An escape could hide any of them.
fn acts_on_stored(path: &str) -> bool {
    if COMPUTING.contains(&path) {
        return false;
    }
    // By bytes: to set up a search in a text as short as this costs more than to look at each.
    let path = without_query(path).as_bytes();
    let is_name = |part: &[u8]| {
        let is = |name: &&str| part.eq_ignore_ascii_case(name.as_bytes());
        STORED.iter().any(is)
    };
    let mut parts = path.split(|&byte| byte == b'/').peekable();
    let begins = parts.next().is_some_and(|part| is_name(part) || is_cancel(part));
    // Bound: the parts of the path.
    while let Some(part) = parts.next() {
        let is_one_completion = part == b"completions" && parts.peek().is_some();
        if is_one_completion || is_name(part) || is_cancel(part) {
            return true;
        }
    }
    begins || path.iter().any(|byte| matches!(byte, b'%' | b'\\'))
}

fn is_cancel(part: &[u8]) -> bool {
    part.eq_ignore_ascii_case(b"cancel")
}

/// Whether this reads, removes or acts on something that the provider may have stored for any
/// caller: every DELETE, every GET but that of the models or of one model, and a POST to cancel
/// something or below one of a few names.
pub fn touches_stored(method: Method, path: &str) -> bool {
    match method {
        Method::Post => acts_on_stored(path),
        Method::Get => match without_query(path).strip_prefix("/models") {
            Some("") => false,
            Some(rest) => {
                let name = rest.strip_prefix('/');
                name.is_none_or(|name| name.is_empty() || name.contains('/'))
            }
            None => true,
        },
        Method::Delete => true,
    }
}

/// Why an endpoint could read another model out of a request than the one its body was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OtherReading {
    /// The body is no JSON to its reader, or other text than was judged.
    #[error("a body whose model is judged must have the content type application/json, in UTF-8")]
    ContentType,
    /// Some servers take a field of the query for one of the body.
    #[error("a request whose model is judged takes no query but beta=true and api-version=VERSION")]
    Query,
}

/// Whether what stands around the body lets the endpoint read it only as it was judged: as JSON in
/// UTF-8, with nothing of it in the query.
///
/// # Errors
/// [`OtherReading`] says what could be read otherwise. Requests without a body are good.
pub fn reads_as_judged(head: &RequestHead<'_>) -> Result<(), OtherReading> {
    if head.method != Method::Post {
        return Ok(());
    }
    if !head.content_type.is_none_or(is_json) {
        return Err(OtherReading::ContentType);
    }
    let query = head.path.split_once('?').map_or("", |(_, query)| query);
    match query.is_empty() || query.split('&').all(is_plain_field) {
        true => Ok(()),
        false => Err(OtherReading::Query),
    }
}

fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let is_utf8 = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        !name.trim().eq_ignore_ascii_case("charset")
            || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    };
    parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
        && parts.all(is_utf8)
}

/// A field of a query that stock clients send and that names nothing.
fn is_plain_field(field: &str) -> bool {
    let is_version = |value: &str| {
        let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
        value.bytes().all(part)
    };
    field == "beta=true" || field.strip_prefix("api-version=").is_some_and(is_version)
}

/// A path up to its query. Paths are short: to set up a search by words costs more than to look at
/// each byte.
pub fn without_query(path: &str) -> &str {
    let end = path.bytes().position(|byte| byte == b'?');
    end.map_or(path, |end| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_decides_for_these_paths_only() {
        for path in MODEL_IN_BODY {
            assert!(goes_by_body_model(Method::Post, path), "{path}");
            assert!(goes_by_body_model(Method::Post, &format!("{path}?a=/b")), "{path}");
            assert!(!goes_by_body_model(Method::Get, path), "{path}");
            assert!(!goes_by_body_model(Method::Delete, path), "{path}");
            assert!(!goes_by_body_model(Method::Post, &format!("{path}/resp_1/cancel")), "{path}");
            assert!(!goes_by_body_model(Method::Post, &format!("/deployments/m{path}")), "{path}");
        }
        for path in ["/", "/batches", "/files", "/messages/batches", "/models", "/x?/completions"] {
            assert!(!goes_by_body_model(Method::Post, path), "{path}");
        }
    }

    #[test]
    fn a_judged_body_is_json_to_its_reader_and_nothing_else_is_read() {
        let judge = |content_type: Option<&str>, path: &str| {
            let mut head = RequestHead::new("m", path);
            head.content_type = content_type;
            reads_as_judged(&head)
        };
        const PATH: &str = "/chat/completions";
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
        ] {
            assert_eq!(judge(Some(good), PATH), Ok(()), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "multipart/form-data; boundary=X",
            "application/x-www-form-urlencoded",
            "application/json, multipart/form-data",
            "application/json; charset=utf-7",
            "application/json; Charset = \"utf-16\"",
            "application/json; charset=utf-8; charset=utf-7",
            "application/json; charset",
        ] {
            assert_eq!(judge(Some(bad), PATH), Err(OtherReading::ContentType), "{bad}");
        }
        for good in ["", "?", "?beta=true", "?api-version=2024-10-21&beta=true"] {
            assert_eq!(judge(None, &format!("{PATH}{good}")), Ok(()), "{good}");
        }
        for bad in ["?model=x", "?beta=true&model=x", "?api-version=1;model=x", "?mod%65l=x", "?a"]
        {
            let path = format!("{PATH}{bad}");
            assert_eq!(judge(None, &path), Err(OtherReading::Query), "{bad}");
        }
    }

    #[test]
    fn models_may_be_read_and_nothing_stored() {
        for path in ["/models", "/models?limit=1", "/models/tiny", "/models/tiny?x=/a"] {
            assert!(!touches_stored(Method::Get, path), "{path}");
            assert!(touches_stored(Method::Delete, path), "{path}");
        }
        for path in
            ["/files", "/responses/resp_1", "/modelsx", "/models/", "/models/a/b", "/x?/models"]
        {
            assert!(touches_stored(Method::Get, path), "{path}");
        }
        for path in MODEL_IN_BODY.into_iter().chain(["/audio/transcriptions", "/x?/files"]) {
            assert!(!touches_stored(Method::Post, path), "{path}");
        }
        for path in [
            "/files",
            "/v1/Batches/b/cancel",
            "/responses/r/Cancel",
            "/%66iles",
            "/threads/t/runs",
            "/conversations/c/items",
            "/containers/c/x",
            "/videos/v/remix",
            "/uploads/u/complete",
            "/organizations/invites",
            "/chat/completions/c",
        ] {
            assert!(touches_stored(Method::Post, path), "{path}");
        }
        assert!(lists_models(Method::Get, "/models?x=1"));
        assert!(!lists_models(Method::Get, "/models/tiny"));
        assert!(!lists_models(Method::Post, "/models"));
    }
}
