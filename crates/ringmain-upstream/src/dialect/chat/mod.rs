//! Chat completions, as callers and endpoints speak them.

pub(super) mod events;
pub(super) mod read;
pub(super) mod whole;
pub(super) mod write;
