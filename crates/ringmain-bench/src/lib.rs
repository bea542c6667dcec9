//! The bundled low-latency harness.
#![forbid(unsafe_code)]
