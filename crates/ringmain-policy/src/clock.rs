//! Units of time.

/// Nanoseconds of a second.
pub(crate) const NS_PER_S: u64 = 1_000_000_000;
