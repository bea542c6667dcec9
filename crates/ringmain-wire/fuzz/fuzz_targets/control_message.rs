//! Any datagram of the control socket. What is accepted is written back as the same message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmain_wire::control::Message;
use ringmain_wire::limits::CONTROL_BYTES_MAX;

/// Texts up to here are written back whole; longer ones are cut.
const WHOLE_BYTES_MAX: usize = 2048;

fuzz_target!(|data: &[u8]| {
    let Ok(message) = Message::parse(data) else { return };
    assert!(data.len() <= CONTROL_BYTES_MAX);
    let bytes = message.encode();
    assert!(bytes.len() <= CONTROL_BYTES_MAX);
    let again = Message::parse(&bytes).expect("what was encoded is valid");
    if data.len() <= WHOLE_BYTES_MAX {
        assert_eq!(again, message);
    }
});
