//! Which route a request is for: what a header says, else the `model` of its body, else the default
//! of the configuration. A header and a body that name different ones are refused.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use ringmain_wire::Code;
use serde::Deserialize;

use crate::names;
use crate::refusal::Refusal;

/// Names the route, for bodies without a `model`.
pub(crate) const ROUTE_HEADER: &str = "x-ringmain-route";

/// Bodies above this are looked into on a thread of their own: others run meanwhile.
const INLINE_BYTES_MAX: usize = 1 << 20;
/// Most parts of a form that are looked at.
const PARTS_MAX: usize = 64;
/// Most bytes of the head of a part.
const PART_HEAD_BYTES_MAX: usize = 4096;

/// The members of a body that decide where it goes.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
}

/// Finds the route.
pub(crate) async fn route(
    headers: &HeaderMap,
    body: &Bytes,
    default: Option<&str>,
) -> Result<String, Refusal> {
    if let Some(value) = headers.get(&names::ROUTE) {
        let text = value.to_str().map(str::trim).map(str::to_owned);
        let bad = |_| Refusal::new(Code::InvalidRequest, format!("{ROUTE_HEADER} is not text"));
        let route = text.map_err(bad)?;
        return agreed(route, headers, body).await;
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let model = look(content_type.unwrap_or("application/json"), body).await?;
    model.or_else(|| default.map(str::to_owned)).ok_or_else(|| {
        let text = format!(
            "the request names no model: give its body a \"model\", or send the header \
             {ROUTE_HEADER}"
        );
        Refusal::new(Code::InvalidRequest, text)
    })
}

/// The route that a header names, if the body names no other model: what was judged is what the
/// provider reads.
async fn agreed(route: String, headers: &HeaderMap, body: &Bytes) -> Result<String, Refusal> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = match body.trim_ascii_start().first() {
        // Whatever it is called.
        Some(b'{') => "application/json",
        Some(_) => content_type.filter(|text| is_form(text)).unwrap_or_default(),
        None => return Ok(route),
    };
    match look(content_type, body).await? {
        Some(model) if model != route => {
            let text = format!(
                "{ROUTE_HEADER} is {route:?} and the \"model\" of the body is {model:?}: send one \
                 of them, or the same twice"
            );
            Err(Refusal::new(Code::InvalidRequest, text))
        }
        _ => Ok(route),
    }
}

async fn look(content_type: &str, body: &Bytes) -> Result<Option<String>, Refusal> {
    let found = match body.len() {
        // Some requests say all in their path.
        _ if body.trim_ascii_start().is_empty() => Ok(None),
        small if small <= INLINE_BYTES_MAX => model(content_type, body),
        _ => {
            let (content_type, body) = (content_type.to_owned(), body.clone());
            let task = tokio::task::spawn_blocking(move || model(&content_type, &body));
            task.await.unwrap_or_else(|error| Err(error.to_string()))
        }
    };
    found.map_err(|text| Refusal::new(Code::InvalidRequest, text))
}

/// The model that a body names.
fn model(content_type: &str, body: &[u8]) -> Result<Option<String>, String> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let is_json = essence.eq_ignore_ascii_case("application/json") || has_suffix(essence, "+json");
    match essence {
        form if form.eq_ignore_ascii_case("multipart/form-data") => {
            let boundary = boundary(content_type);
            let boundary = boundary.ok_or("the form has no boundary".to_owned())?;
            Ok(form_field(body, boundary, "model"))
        }
        _ if is_json => {
            let named: Named<'_> = serde_json::from_slice(body)
                .map_err(|error| format!("the body is not the JSON of a request: {error}"))?;
            Ok(named.model.map(Cow::into_owned))
        }
        // Callers forget to say that it is JSON.
        _ if body.trim_ascii_start().starts_with(b"{") => Ok(serde_json::from_slice(body)
            .ok()
            .and_then(|named: Named<'_>| named.model.map(Cow::into_owned))),
        _ => Ok(None),
    }
}

fn has_suffix(essence: &str, suffix: &str) -> bool {
    let at = essence.len().checked_sub(suffix.len());
    at.and_then(|at| essence.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

fn is_form(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("multipart/form-data")
}

fn boundary(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1);
    let named = parameters.filter_map(|parameter| parameter.trim().split_once('='));
    let mut found = named.filter(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"));
    let value = found.next()?.1.trim().trim_matches('"');
    // RFC 2046, 5.1.1.
    (1..=70).contains(&value.len()).then_some(value)
}

/// The text of a form's field: the first part of this name that is not a file.
fn form_field(body: &[u8], boundary: &str, name: &str) -> Option<String> {
    let delimiter = format!("--{boundary}");
    let finder = memchr::memmem::Finder::new(delimiter.as_bytes());
    let mut rest = &body[finder.find(body)? + delimiter.len()..];
    for _ in 0..PARTS_MAX {
        let part = rest.strip_prefix(b"\r\n")?;
        let end = finder.find(part)?;
        let (part, behind) = (&part[..end], &part[end + delimiter.len()..]);
        let head_end = memchr::memmem::find(part, b"\r\n\r\n")?;
        if head_end <= PART_HEAD_BYTES_MAX && is_field(&part[..head_end], name) {
            let value = part[head_end + 4..].strip_suffix(b"\r\n")?;
            return std::str::from_utf8(value).ok().map(str::to_owned);
        }
        rest = behind;
    }
    None
}

fn is_field(head: &[u8], name: &str) -> bool {
    let Ok(head) = std::str::from_utf8(head) else { return false };
    let disposition = head.split("\r\n").find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    });
    let Some(disposition) = disposition else { return false };
    let mut parameters = disposition.split(';').map(str::trim);
    let quoted = format!("name=\"{name}\"");
    let is_named = parameters.clone().any(|it| it == quoted || it == format!("name={name}"));
    is_named && !parameters.any(|it| it.starts_with("filename"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn form(boundary: &str) -> Vec<u8> {
        let text = "--B\r\ncontent-disposition: form-data; name=\"file\"; filename=\"name=\"\r\n\
            \r\nmodel\r\n--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-é\r\n\
            --B--\r\n";
        text.replace("--B", &format!("--{boundary}")).into_bytes()
    }

    #[test]
    fn the_model_is_found_in_json_and_in_forms() {
        let json = br#"{"messages":[{"model":"inner"}],"model":"ti\u006ey"}"#;
        assert_eq!(model("application/json; charset=utf-8", json), Ok(Some("tiny".into())));
        assert_eq!(model("application/json", b"{}"), Ok(None));
        assert!(model("application/json", b"{").is_err());
        assert!(model("application/json", br#"{"model":7}"#).is_err());
        let typed = "multipart/form-data; boundary=\"x.y\"";
        assert_eq!(model(typed, &form("x.y")), Ok(Some("whisper-é".into())));
        assert_eq!(model("multipart/form-data; boundary=other", &form("x.y")), Ok(None));
        assert!(model("multipart/form-data", &form("x.y")).is_err());
        assert_eq!(model("text/plain", b"model"), Ok(None));
        assert_eq!(model("text/plain", b"{"), Ok(None));
        assert_eq!(model("text/plain", br#" {"model":"a"}"#), Ok(Some("a".into())));
    }

    #[test]
    fn two_models_are_no_model() {
        assert!(model("application/json", br#"{"model":"a","model":"b"}"#).is_err());
    }

    #[tokio::test]
    async fn a_header_wins_and_the_default_comes_last() {
        let mut headers = HeaderMap::new();
        let body = Bytes::from_static(br#"{"x":1}"#);
        assert_eq!(route(&headers, &body, None).await.unwrap_err().status, 400);
        assert_eq!(route(&headers, &body, Some("d")).await.unwrap(), "d");
        let nothing = Bytes::from_static(b"\r\n");
        assert_eq!(route(&headers, &nothing, Some("d")).await.unwrap(), "d");
        let refusal = route(&headers, &Bytes::new(), None).await.unwrap_err();
        assert!(refusal.failure.message.contains(ROUTE_HEADER), "{refusal:?}");
        headers.insert(ROUTE_HEADER, "h".parse().unwrap());
        assert_eq!(route(&headers, &body, Some("d")).await.unwrap(), "h");
        for (json, status) in [
            ("not JSON", None),
            (r#"{"model":"h"}"#, None),
            (r#"{"model":"other"}"#, Some(400)),
            (r#"{"model":"h","model":"other"}"#, Some(400)),
        ] {
            let judged = route(&headers, &Bytes::from_static(json.as_bytes()), None).await;
            assert_eq!(judged.err().map(|refusal| refusal.status), status, "{json}");
        }
    }

    proptest! {
        #[test]
        fn property_any_form_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = form_field(&bytes, "x", "model");
            let mut cut = form("x");
            cut.truncate(bytes.len());
            cut.extend_from_slice(&bytes);
            let _ = form_field(&cut, "x", "model");
        }
    }
}
