//! What applications and producers link to reach the broker of their host.
#![forbid(unsafe_code)]
