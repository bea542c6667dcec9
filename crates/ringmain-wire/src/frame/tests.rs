use proptest::prelude::*;

use super::*;
use crate::code::{Code, Stage};
use crate::limits::TERMINAL_PAYLOAD_MAX;

fn bytes(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

#[test]
fn kinds_come_back() {
    for n in 1..=10 {
        assert_eq!(Kind::from_number(n).map(|k| k as u8), Some(n));
    }
    assert_eq!(Kind::from_number(0), None);
    assert_eq!(Kind::from_number(11), None);
}

#[test]
fn a_typical_token_takes_one_line() {
    assert_eq!(lines_of(0), 1);
    assert_eq!(lines_of(32), 1);
    assert_eq!(lines_of(33), 2);
}

#[test]
fn payloads_come_back() {
    let tool = ToolFrame { index: 3, id: "call_1", name: "f", arguments: "{\"a\"" };
    assert_eq!(ToolFrame::parse(&bytes(|o| tool.encode(o))), Ok(tool));
    let end = EndFrame {
        bytes: 9,
        finish: vec![(0, FinishReason::Stop), (1, FinishReason::Length)],
        text: "stop",
    };
    assert_eq!(EndFrame::parse(&bytes(|o| end.encode(o))), Ok(end));
    let usage = Usage { input: 1, total: 5, ..Usage::default() };
    assert_eq!(Usage::parse(usage.as_bytes()), Ok(usage));
    let mut error = ErrorFrame::new(Code::UpstreamStatus, Stage::AwaitHead, "no (rm-1)");
    error.http_status = Some(429);
    error.retry_after_ms = Some(0);
    error.provider_code = "rate_limit";
    assert_eq!(ErrorFrame::parse(&bytes(|o| error.encode(o))), Ok(error));
}

proptest! {
    #[test]
    fn property_terminal_payloads_always_fit(text in "\\PC{0,900}", choices in 0usize..100) {
        let mut error = ErrorFrame::new(Code::Internal, Stage::Relay, &text);
        error.provider_code = &text;
        let encoded = bytes(|o| error.encode(o));
        prop_assert!(encoded.len() <= TERMINAL_PAYLOAD_MAX);
        let back = ErrorFrame::parse(&encoded).unwrap();
        let kept: String = text.chars().rev().take(8).collect();
        let back_end: String = back.message.chars().rev().take(8).collect();
        prop_assert_eq!(back_end, kept);
        let finish = vec![(1, FinishReason::Other); choices];
        let end = EndFrame { bytes: 0, finish, text: &text };
        let encoded = bytes(|o| end.encode(o));
        prop_assert!(encoded.len() <= TERMINAL_PAYLOAD_MAX);
        prop_assert!(EndFrame::parse(&encoded).is_ok());
    }

    #[test]
    fn property_any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = (ToolFrame::parse(&bytes), EndFrame::parse(&bytes));
        let _ = (ErrorFrame::parse(&bytes), Usage::parse(&bytes));
    }
}
