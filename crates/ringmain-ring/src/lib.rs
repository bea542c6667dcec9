//! Submission ring, lane, arena and doorbell protocol, generic over memory.
#![forbid(unsafe_code)]
