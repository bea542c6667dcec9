//! The heads of requests and of answers.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};

use super::error::HeadFault;

/// Most bytes of the head of an answer.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most fields of one.
const FIELDS_MAX: usize = 100;

/// Most bytes of empty lines before one (RFC 9112, 2.2, has servers pass over them).
const BLANK_BYTES_MAX: usize = 8;
/// Most digits of a length.
const LENGTH_DIGITS: usize = 20;

/// The head of an answer.
pub(super) struct Head {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
}

/// Writes the head of a request. Its address says what stands in the first line.
pub(super) fn write<B>(out: &mut Vec<u8>, request: &Request<B>, length: Option<u64>) {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let uri = request.uri();
    if let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) {
        // To a proxy.
        for part in [scheme.as_str(), "://", authority.as_str()] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    for part in [path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in request.headers() {
        field(out, name.as_str(), value.as_bytes());
    }
    if let Some(length) = length {
        let mut digits = [0; LENGTH_DIGITS];
        field(out, "content-length", decimal(length, &mut digits));
    }
    out.extend_from_slice(b"\r\n");
}

/// A number in words, in memory that is at hand.
fn decimal(mut number: u64, digits: &mut [u8; LENGTH_DIGITS]) -> &[u8] {
    let mut at = digits.len();
    // Bound: the digits that a number can have.
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Reads the head at the front of `buffer`; `None` before it is whole. `searched` remembers how far
/// its end was looked for.
pub(super) fn read(buffer: &mut BytesMut, searched: &mut usize) -> Result<Option<Head>, HeadFault> {
    let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    if blank > BLANK_BYTES_MAX || !may_begin(&buffer[blank..]) {
        // Not waited for: no line may ever come.
        return Err(HeadFault::Syntax(httparse::Error::Version));
    }
    let end = end_of(buffer, blank.max(*searched));
    if end.unwrap_or(buffer.len()) > HEAD_BYTES_MAX {
        return Err(HeadFault::TooLong);
    }
    let Some(end) = end else {
        *searched = buffer.len().saturating_sub(2);
        return Ok(None);
    };
    *searched = 0;
    parse(buffer.split_to(end)).map(Some)
}

/// Whether this may become the head of an answer.
fn may_begin(text: &[u8]) -> bool {
    const BEGIN: &[u8] = b"HTTP/1.";
    text.starts_with(BEGIN) || BEGIN.starts_with(text)
}

/// Whether the connection takes no request behind this answer (RFC 9112, 9.3 and 9.6). A field in
/// several lines is one list.
pub(crate) fn is_last<B>(answer: &Response<B>) -> bool {
    let says = |word: &[u8]| {
        let values = answer.headers().get_all(CONNECTION).into_iter();
        let mut members = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
        members.any(|member| member.trim_ascii().eq_ignore_ascii_case(word))
    };
    says(b"close") || answer.version() < Version::HTTP_11 && !says(b"keep-alive")
}

/// Where the head ends that has no end before `from`.
fn end_of(text: &[u8], from: usize) -> Option<usize> {
    let lines = memchr::memchr_iter(b'\n', &text[from..]).map(|at| from + at + 1);
    lines.into_iter().find_map(|line| match text[line..] {
        [b'\n', ..] => Some(line + 1),
        [b'\r', b'\n', ..] => Some(line + 2),
        _ => None,
    })
}

fn parse(head: BytesMut) -> Result<Head, HeadFault> {
    let head = head.freeze();
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut []);
    let config = ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut answer, &head, &mut fields)? {
        Status::Complete(bytes) if bytes == head.len() => {}
        _ => return Err(HeadFault::Syntax(httparse::Error::HeaderName)),
    }
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let mut headers = HeaderMap::with_capacity(answer.headers.len());
    for field in &*answer.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        // Uncopied: the head lives as long as its fields.
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(HeadFault::Syntax(httparse::Error::HeaderValue));
        };
        headers.append(name, value);
    }
    let version = if answer.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    Ok(Head { status: status.ok_or(HeadFault::Status)?, version, headers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_it_is_the_last() {
        for (version, values, last) in [
            (Version::HTTP_11, &[][..], false),
            (Version::HTTP_11, &["keep-alive"], false),
            (Version::HTTP_11, &["x-hop, Close"], true),
            (Version::HTTP_11, &["x-hop", "close"], true),
            (Version::HTTP_11, &["keep-alive", "close"], true),
            (Version::HTTP_11, &["x-\u{e9}, close"], true),
            (Version::HTTP_11, &["closed"], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_10, &["x-hop", "Keep-Alive"], false),
            (Version::HTTP_10, &["keep-alive, close"], true),
        ] {
            let mut answer = Response::new(());
            *answer.version_mut() = version;
            for value in values {
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                answer.headers_mut().append(CONNECTION, value);
            }
            assert_eq!(is_last(&answer), last, "{version:?} {values:?}");
        }
    }

    #[test]
    fn lengths_are_written_as_they_are_said() {
        for number in [0, 7, 10, 65_536, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; LENGTH_DIGITS]), number.to_string().as_bytes());
        }
    }
}
