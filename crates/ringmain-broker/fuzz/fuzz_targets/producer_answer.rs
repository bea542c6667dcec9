//! What a producer writes into a lane, from the broker's copy of a frame to its verdict. Judge and
//! play are the broker's own files, so that whatever is found here is a test there.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "sentences for a log that nobody keeps here")]
#[path = "../../src/producer/judge.rs"]
mod judge;
#[path = "../../src/producer/judged.rs"]
mod judged;

fuzz_target!(|data: &[u8]| judged::play(data));
