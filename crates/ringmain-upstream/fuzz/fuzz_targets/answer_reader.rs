//! Any bytes as an HTTP/1.1 answer, whole and cut anywhere. What reads and plays them are the
//! crate's own files, so that whatever is found here is a test there.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// What an error of the reader can hold beside its own.
mod body {
    #[derive(Debug, thiserror::Error)]
    #[error("given up")]
    pub struct GivenUp;
}

#[allow(dead_code, reason = "what only a connection needs")]
#[path = "../../src/http1"]
mod http1 {
    mod body;
    mod error;
    mod head;
    pub mod play;

    mod connection {
        pub const INTERIM_MAX: u32 = 16;
    }
}

fuzz_target!(|data: &[u8]| http1::play::play(data));
