//! Counters that anybody permitted may read, without the broker's help.
//!
//! The broker counts in private memory. Whenever something changed, and at most four times a
//! second, it writes a snapshot to a named segment: an idle broker writes nothing, and no peer's
//! process is on the path of a counter. A reader copies the segment and checks that no write fell
//! into the copy ([`Snapshot::read`]); what a killed broker left behind still tells its last
//! state.

mod health;
mod layout;
mod limits;
mod live;
mod publish;
mod segment;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use health::EndpointHealth;
pub use layout::{CountersError, EndpointRow, SessionRow, Snapshot, State};
pub use limits::LimitRow;
pub(crate) use live::Live;
pub(crate) use segment::Segment;

/// Name of the counters segment of the broker at this socket.
///
/// ```
/// use ringmain_broker::counters::segment_name;
/// let name = segment_name("/run/ringmain/broker.sock".as_ref());
/// assert!(name.starts_with("ringmain-") && name.len() == "ringmain-".len() + 16);
/// ```
pub fn segment_name(socket: &Path) -> String {
    // An absolute path, so that client and broker agree whatever their working directories.
    let absolute = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    format!("ringmain-{:016x}", fnv1a(absolute.as_os_str().as_bytes()))
}

/// Fowler, Noll and Vo's hash: the same in every version of the program, which the standard
/// library does not promise of its own.
fn fnv1a(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_differ_by_path() {
        assert_eq!(segment_name("/a/b.sock".as_ref()), segment_name("/a/b.sock".as_ref()));
        assert_ne!(segment_name("/a/b.sock".as_ref()), segment_name("/a/c.sock".as_ref()));
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
