//! Decisions without I/O or clock: now and randomness are arguments.
#![forbid(unsafe_code)]
