//! A hostile session: writes to the shared segment interleaved with the responder's steps. The
//! session is that of the crate's own tests, so that whatever is found here is a test there.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/session/mod.rs"]
mod session;

fuzz_target!(|data: &[u8]| session::play(data));
