//! Any body as an answer, in every mode and dialect, whole and cut anywhere; and the same bytes as
//! a request that something is spliced into.
//!
//! An answer always ends: with END or with one error, the same however it was cut, and after the
//! same payloads.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ringmain_upstream::splice::{Wanted, splice};
use ringmain_upstream::{Decoder, DecoderConfig, Verdict};
use ringmain_wire::frame::{FinishReason, ToolFrame, Usage};
use ringmain_wire::{Code, Kind, Mode};

const MODES: [Mode; 3] = [Mode::Deltas, Mode::Events, Mode::Body];
const PATHS: [&str; 4] = ["/chat/completions", "/completions", "/responses", "/embeddings"];
const TYPES: [&str; 4] = ["text/event-stream", "application/json", "text/html", ""];

#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Kind, choice and payload of each piece; those of one kind in a row are one, for kinds that
    /// are cut as they come.
    pieces: Vec<(Kind, u16, Vec<u8>)>,
    end: Option<Result<Vec<(u16, FinishReason)>, Code>>,
}

// Two bytes choose the kind of answer and the number of cuts, that many follow, then the body.
fuzz_target!(|data: &[u8]| {
    let Some((&[choice, more], rest)) = data.split_first_chunk() else { return };
    let Some((cuts, body)) = rest.split_at_checked(usize::from(more & 7)) else { return };
    let config = || {
        let mode = MODES[usize::from(choice & 3) % MODES.len()];
        let path = match choice & 64 {
            0 => PATHS[usize::from(choice >> 2 & 3)],
            _ => "/messages",
        };
        let status = if more & 8 == 0 { 200 } else { 503 };
        let mut config =
            DecoderConfig::new(mode, path, status, TYPES[usize::from(choice >> 4 & 3)]);
        config.withhold_usage = more & 16 != 0;
        config
    };
    let whole = answer(Decoder::new(config()), &[body]);
    let cut = answer(Decoder::new(config()), &chunks(body, cuts));
    assert_eq!(whole, cut);
    splice_into(body, more & 32 != 0);
});

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

/// Feeds an answer to its end.
fn answer(mut decoder: Decoder, chunks: &[&[u8]]) -> Told {
    let mut told = Told::default();
    let mut chunks = chunks.iter();
    let mut is_over = false;
    // Bound: one turn per chunk, one for the end of the body, and one behind it.
    while !told.drain(&mut decoder) {
        assert!(!is_over, "an answer that never ends");
        match chunks.next() {
            Some(chunk) => decoder.feed(Bytes::copy_from_slice(chunk)),
            None => {
                decoder.end_of_body();
                is_over = true;
            }
        }
    }
    told.trim();
    told
}

impl Told {
    /// Takes what there is; true at the end of the answer.
    fn drain(&mut self, decoder: &mut Decoder) -> bool {
        loop {
            match decoder.next() {
                Ok(Some(piece)) => self.note(piece.kind, piece.choice, piece.payload),
                Ok(None) => break,
                Err(error) => {
                    self.end = Some(Err(error.code));
                    return true;
                }
            }
        }
        let Verdict::Ended(end) = decoder.verdict() else { return false };
        self.end = Some(Ok(end.finish));
        true
    }

    fn note(&mut self, kind: Kind, choice: u16, payload: &[u8]) {
        match kind {
            Kind::Tool => assert!(ToolFrame::parse(payload).is_ok()),
            Kind::Usage => assert!(Usage::parse(payload).is_ok()),
            Kind::Delta | Kind::Reasoning => assert!(str::from_utf8(payload).is_ok()),
            Kind::Event | Kind::Body => {}
            kind => panic!("a piece of kind {kind:?}"),
        }
        let is_cut = matches!(kind, Kind::Event | Kind::Body);
        match self.pieces.last_mut() {
            Some(last) if is_cut && last.0 == kind => last.2.extend_from_slice(payload),
            _ => self.pieces.push((kind, choice, payload.to_vec())),
        }
    }

    /// A cut between the CR and the LF of the last blank line leaves the LF behind the terminal
    /// marker, where nothing is delivered.
    fn trim(&mut self) {
        for (_, _, payload) in self.pieces.iter_mut().filter(|piece| piece.0 == Kind::Event) {
            if payload.ends_with(b"\r\n") {
                payload.pop();
            }
        }
        self.pieces.retain(|(kind, _, payload)| *kind != Kind::Event || !payload.is_empty());
    }
}

/// Whatever is spliced in, splicing again finds nothing more to do.
fn splice_into(body: &[u8], usage: bool) {
    let wanted = Wanted { model: Some("m\"1"), usage };
    let Ok(once) = splice(&Bytes::copy_from_slice(body), wanted) else { return };
    let once = Bytes::from(once.pieces.concat());
    let twice = splice(&once, wanted).expect("what was spliced is an object");
    assert!(!twice.usage_injected && twice.pieces.concat() == once);
}
