//! Any bytes as the head of a request, the head of a response and the payload of each frame kind.
//!
//! A request head that is accepted keeps every promise that the HTTP client relies on, and is
//! written back as the same head. A response head that is accepted is written back within a
//! frame, and what was written is a response head again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmain_wire::frame::{EndFrame, ErrorFrame, ToolFrame, Usage};
use ringmain_wire::limits::{
    HEAD_BYTES_MAX, HEADERS_MAX, RESPONSE_HEAD_BYTES_MAX, TERMINAL_PAYLOAD_MAX,
};
use ringmain_wire::{RequestHead, ResponseHead};

fuzz_target!(|data: &[u8]| {
    if let Ok(head) = RequestHead::parse(data) {
        check_request(&head, data.len());
    }
    if let Ok(head) = ResponseHead::parse(data) {
        check_response(&head);
    }
    check_payloads(data);
});

fn check_request(head: &RequestHead<'_>, bytes: usize) {
    assert!(head.path.bytes().all(|b| b.is_ascii_graphic()));
    let plain = head.path.split('?').next().unwrap_or_default();
    let segments = plain.strip_prefix('/').expect("a path begins with a slash");
    assert!(!segments.starts_with('/') && !plain.contains('%'));
    assert!(segments.split('/').all(|part| part != "." && part != ".."));
    assert!(!head.route.is_empty() && !head.route.contains(char::is_control));
    assert!(head.headers.len() <= HEADERS_MAX);
    let values = head.headers.iter().map(|(_, value)| *value);
    for value in values.chain(head.content_type).chain(head.idempotency_key) {
        assert!(value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)));
    }
    for (name, _) in &head.headers {
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
        assert!(!["authorization", "host", "content-length", "cookie"].contains(name));
    }
    let mut out = Vec::new();
    let encoded = head.encode(&mut out);
    // The broker reads at most so much; without unknown fields it only gets shorter.
    if bytes <= HEAD_BYTES_MAX {
        encoded.expect("a valid head can be written");
        assert_eq!(RequestHead::parse(&out).as_ref(), Ok(head));
    }
}

fn check_response(head: &ResponseHead<'_>) {
    let mut out = Vec::new();
    head.encode(&mut out);
    assert!(out.len() <= RESPONSE_HEAD_BYTES_MAX);
    let again = ResponseHead::parse(&out).expect("what was encoded is valid");
    assert_eq!((again.status, again.attempt), (head.status, head.attempt));
    assert!(again.headers.len() <= HEADERS_MAX && head.headers.starts_with(&again.headers));
    assert!(head.route.starts_with(again.route) && head.log_id.starts_with(again.log_id));
}

fn check_payloads(data: &[u8]) {
    let mut out = Vec::new();
    if let Ok(end) = EndFrame::parse(data) {
        end.encode(&mut out);
        assert!(out.len() <= TERMINAL_PAYLOAD_MAX);
        assert_eq!(EndFrame::parse(&out).map(|again| again.finish), Ok(end.finish));
    }
    if let Ok(error) = ErrorFrame::parse(data) {
        out.clear();
        error.encode(&mut out);
        assert!(out.len() <= TERMINAL_PAYLOAD_MAX);
        assert_eq!(ErrorFrame::parse(&out).map(|again| again.code), Ok(error.code));
    }
    if let Ok(tool) = ToolFrame::parse(data) {
        out.clear();
        tool.encode(&mut out);
        assert_eq!(ToolFrame::parse(&out).map(|again| again.arguments), Ok(tool.arguments));
    }
    if let Ok(usage) = Usage::parse(data) {
        assert!(data.starts_with(usage.as_bytes()));
    }
}
