//! The broker: listen, session, intake, pipeline, egress, counters.
#![forbid(unsafe_code)]
