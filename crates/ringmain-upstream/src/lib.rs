//! Endpoints, connections, SSE decoder and dialects of inference providers.
#![forbid(unsafe_code)]
