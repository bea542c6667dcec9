//! The messages API, as callers and endpoints speak it.

pub(super) mod events;
pub(super) mod read;
pub(super) mod whole;
pub(super) mod write;
