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
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "text/event-stream" => Media::Events,
            "text/html" | "application/xhtml+xml" => Media::Html,
            json if json == "application/json" || json.ends_with("+json") => Media::Json,
            _ => Media::Unknown,
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
