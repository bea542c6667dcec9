//! What a body is made of, by its content type or, where that does not tell, by its first byte.

/// Most blanks before the first byte that tells what a body is.
pub(super) const BLANKS_MAX: usize = 4096;

/// What a body is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    Events,
    Json,
    Html,
    Unknown,
    Nothing,
}

impl Media {
    pub fn of(content_type: &str) -> Media {
        // Most say no more than that.
        match content_type {
            "text/event-stream" => return Media::Events,
            "application/json" => return Media::Json,
            _ => {}
        }
        let essence = content_type.bytes().position(|byte| byte == b';');
        let essence = essence.map_or(content_type, |end| &content_type[..end]).trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let suffix = essence.len().checked_sub("+json".len()).and_then(|at| essence.get(at..));
        match () {
            () if is("text/event-stream") => Media::Events,
            () if is("text/html") || is("application/xhtml+xml") => Media::Html,
            () if is("application/json") => Media::Json,
            () if suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json")) => Media::Json,
            () => Media::Unknown,
        }
    }

    /// What a body of no known type is, by its first byte: servers forget the type, or call
    /// everything plain text.
    pub fn sniff(first: Option<u8>) -> Media {
        match first {
            Some(b'{' | b'[') => Media::Json,
            Some(b'd' | b'e' | b'i' | b'r' | b':') => Media::Events,
            _ => Media::Unknown,
        }
    }
}
