//! The one clock of all records.

/// Nanoseconds of the clock that all processes of a host share.
pub(crate) fn now_ns() -> u64 {
    ringmain_shm::monotonic_ns()
}
