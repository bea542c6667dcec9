use proptest::prelude::*;

use super::*;
use crate::limits::*;

fn encoded(head: &RequestHead<'_>) -> Result<Vec<u8>, HeadError> {
    let mut out = Vec::new();
    head.encode(&mut out).map(|()| out)
}

#[test]
fn a_full_request_head_comes_back() {
    let mut head = RequestHead::new("claude-*", "/chat/completions?x=%20");
    head.method = Method::Delete;
    head.content_type = Some("multipart/form-data; boundary=x");
    head.idempotency_key = Some("k-1");
    head.headers = vec![("openai-beta", "a:b"), ("x-trace", "")];
    assert_eq!(RequestHead::parse(&encoded(&head).unwrap()).unwrap(), head);
}

#[test]
fn bad_heads_are_refused_by_name() {
    let with = |name, value| {
        let mut head = RequestHead::new("tiny", "/x");
        head.headers = vec![(name, value)];
        encoded(&head).unwrap_err().to_string()
    };
    assert!(with("x", "a\r\nb: c").contains("header value"));
    for name in ["authorization", "openai-project", "x-goog-user-project", "x-original-url"] {
        assert!(with(name, "x").contains(name), "{name}");
    }
    assert!(with("X-Upper", "x").contains("header name"));
    for (route, path) in [
        ("", "/x"),
        ("a\nb", "/x"),
        ("a", "x"),
        ("a", "/../x"),
        ("a", "/a//b"),
        ("a", "/%2e%2e/x"),
        ("a", "/a b"),
        ("a", "//host/x"),
    ] {
        assert!(encoded(&RequestHead::new(route, path)).is_err(), "{route:?} {path:?}");
    }
    let long = "r".repeat(257);
    assert!(encoded(&RequestHead::new(&long, "/x")).is_err());
}

#[test]
fn bytes_that_are_not_utf_8_are_refused() {
    let mut bytes = encoded(&RequestHead::new("tiny", "/x")).unwrap();
    bytes[4] = 0xff;
    let error = RequestHead::parse(&bytes).unwrap_err();
    assert_eq!(error, HeadError::Bad { field: "route", reason: "not UTF-8" });
}

#[test]
fn a_response_head_comes_back_and_always_fits() {
    let long = "é".repeat(400);
    let value = "v".repeat(300);
    let head = ResponseHead {
        status: 200,
        attempt: 2,
        cached: true,
        log_id: "rm-1",
        route: &long,
        endpoint: "local",
        content_type: "text/event-stream",
        upstream_request_id: Some("req_1"),
        headers: vec![("a", "1"), ("b", &value), ("c", &value), ("d", &value)],
    };
    let mut out = Vec::new();
    head.encode(&mut out);
    assert!(out.len() <= RESPONSE_HEAD_BYTES_MAX);
    let back = ResponseHead::parse(&out).unwrap();
    assert_eq!((back.status, back.attempt, back.cached), (200, 2, true));
    assert_eq!(back.route, "é".repeat(64));
    assert_eq!(back.headers[0], ("a", "1"));
    assert!(back.headers.len() < 4);
    // Many short headers are left out as well: a reader takes no more than that.
    let headers = vec![("a", "1"); HEADERS_MAX + 1];
    out.clear();
    ResponseHead { headers, ..ResponseHead::default() }.encode(&mut out);
    assert_eq!(ResponseHead::parse(&out).unwrap().headers.len(), HEADERS_MAX);
    out.extend_from_slice(b"\x06\x00\x01\x00:");
    let error = ResponseHead::parse(&out).unwrap_err();
    assert_eq!(error, HeadError::Bad { field: "headers", reason: "more than 32" });
}

proptest! {
    #[test]
    fn property_any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(head) = RequestHead::parse(&bytes) {
            prop_assert!(head.path.starts_with('/'));
        }
        let _ = ResponseHead::parse(&bytes);
    }
}
