//! What an upstream event costs the broker: split from the stream, and turned into a frame's worth.
//! The JSON reading that it replaces is measured beside it.
#![expect(clippy::unwrap_used, reason = "what cannot be set up has nothing to measure")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringmain_upstream::sse::SseDecoder;
use ringmain_upstream::{Decoder, DecoderConfig};
use ringmain_wire::Mode;
use serde_json::Value;

/// Events of one chunk, as a socket delivers them in a burst.
const EVENTS: usize = 64;

fn chunk() -> Bytes {
    let mut text = String::new();
    for token in 0..EVENTS {
        text.push_str("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",");
        text.push_str("\"created\":1700000000,\"model\":\"tiny\",\"choices\":[{\"index\":0,");
        text.push_str(&format!("\"delta\":{{\"content\":\" token {token}\"}},"));
        text.push_str("\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    }
    text.into()
}

fn split(criterion: &mut Criterion) {
    let chunk = chunk();
    let mut group = criterion.benchmark_group("sse_64_events");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("split", |bencher| {
        let mut decoder = SseDecoder::new(1 << 20);
        bencher.iter(|| {
            decoder.feed(chunk.clone());
            let mut events = 0;
            while decoder.advance().unwrap() {
                black_box(decoder.event());
                events += 1;
            }
            assert_eq!(events, EVENTS);
        });
    });
    for (name, mode) in [("deltas", Mode::Deltas), ("events", Mode::Events)] {
        group.bench_function(name, |bencher| {
            let path = "/chat/completions";
            let config = DecoderConfig::new(mode, path, 200, "text/event-stream");
            let mut decoder = Decoder::new(config);
            bencher.iter(|| {
                decoder.feed(chunk.clone());
                let mut pieces = 0;
                while let Some(piece) = decoder.next().unwrap() {
                    black_box(piece.payload);
                    pieces += 1;
                }
                assert_eq!(pieces, EVENTS);
            });
        });
    }
    group.bench_function("json_values", |bencher| {
        bencher.iter(|| {
            for line in chunk.split(|&byte| byte == b'\n') {
                if let Some(data) = line.strip_prefix(b"data: ") {
                    black_box(serde_json::from_slice::<Value>(data).unwrap());
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, split);
criterion_main!(benches);
