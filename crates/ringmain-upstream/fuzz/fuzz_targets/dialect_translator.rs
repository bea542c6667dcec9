//! Any body as a request or an answer that goes into the other dialect.
//!
//! A request is refused in one sentence or becomes one JSON object. An answer ends, and what
//! comes out of it does not depend on how it was cut.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringmain_upstream::dialect::{Translator, Wish, translate};
use ringmain_upstream::{DecoderConfig, Dialect};
use ringmain_wire::{Code, Mode};

const TYPES: [&str; 4] = ["text/event-stream", "application/json", "text/html", ""];

// Two bytes choose the directions and the number of cuts, that many follow, then the body.
fuzz_target!(|data: &[u8]| {
    let Some((&[choice, more], rest)) = data.split_first_chunk() else { return };
    let Some((cuts, body)) = rest.split_at_checked(usize::from(more & 7)) else { return };
    let (endpoint, caller, path) = match choice & 1 {
        0 => (Dialect::Anthropic, Dialect::OpenAi, "/messages"),
        _ => (Dialect::OpenAi, Dialect::Anthropic, "/chat/completions"),
    };
    if choice & 2 == 0 {
        return request(endpoint, body);
    }
    let status = if more & 8 == 0 { 200 } else { 503 };
    let kind = TYPES[usize::from(choice >> 4 & 3)];
    let wish = Wish { dialect: caller, stream: choice & 4 != 0, usage: choice & 8 != 0, now_s: 1 };
    let reading = || DecoderConfig::new(Mode::Deltas, path, status, kind);
    let whole = answer(Translator::new(reading(), wish), &[body]);
    assert_eq!(answer(Translator::new(reading(), wish), &chunks(body, cuts)), whole);
});

fn request(endpoint: Dialect, body: &[u8]) {
    match translate(endpoint, body) {
        Err(refused) => assert!(refused.to_string().len() < 1024),
        Ok(translated) => {
            let written = translated.body;
            assert!(written.starts_with(b"{") && written.ends_with(b"}"));
            assert!(str::from_utf8(&written).is_ok());
        }
    }
}

/// The body in chunks, each cut that many bytes behind the last one.
fn chunks<'a>(mut body: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::with_capacity(cuts.len() + 1);
    for &cut in cuts {
        let (chunk, rest) = body.split_at(usize::from(cut).min(body.len()));
        chunks.push(chunk);
        body = rest;
    }
    chunks.push(body);
    chunks
}

/// What comes out, and how it ends.
fn answer(mut translator: Translator, chunks: &[&[u8]]) -> (Vec<u8>, Result<(), Code>) {
    let mut out = Vec::new();
    let mut chunks = chunks.iter();
    let mut is_over = false;
    // Bound: one turn per chunk, one for the end of the body, and two to take what is left.
    loop {
        match translator.take() {
            Ok(bytes) if !bytes.is_empty() => out.extend_from_slice(&bytes),
            Ok(_) if translator.is_ended() => return (out, Ok(())),
            Ok(_) => match chunks.next() {
                Some(chunk) => translator.feed(Bytes::copy_from_slice(chunk)),
                None => {
                    assert!(!is_over, "an answer that never ends");
                    translator.end_of_body();
                    is_over = true;
                }
            },
            Err(error) => return (out, Err(error.code)),
        }
    }
}
