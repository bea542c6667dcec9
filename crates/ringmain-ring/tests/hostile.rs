//! A caller that writes what it likes into the segment that it shares, in the short form: the
//! same sessions are what the fuzz target `hostile_session` plays without end.
#![cfg(not(loom))]

mod session;

use proptest::prelude::*;

proptest! {
    #[test]
    fn property_hostile_session_keeps_every_promise(
        data in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        session::play(&data);
    }
}
