//! Endpoints, connections, SSE decoder and dialects of inference providers.
//!
//! [`Endpoint::send`] turns a [`Call`] into an [`Answer`]: a head, and a body whose chunks come as
//! they arrive. [`Answer::decoder`] gives the [`Decoder`] that turns those chunks into
//! [`Piece`]s, one per frame, borrowed from where they arrived. No request has a task or a queue
//! here; who polls the body sets the pace, and back-pressure reaches the provider.
//!
//! Time limits are not applied here (except for connecting). Every future is cancel-safe in the
//! sense that matters: dropping it ends the request and leaves nothing behind.
#![forbid(unsafe_code)]

pub mod answer;
pub mod body;
pub mod call;
mod clock;
mod compress;
pub mod config;
pub mod decode;
pub mod dialect;
mod encoding;
pub mod endpoint;
pub mod error;
mod flow;
mod framing;
mod http1;
pub mod key;
pub mod memory;
mod pool;
pub mod reach;
pub mod retry_after;
pub mod splice;
pub mod sse;

pub use answer::{Answer, AnswerBody};
pub use body::Witness;
pub use call::{Call, Progress};
pub use clock::instant;
pub use config::{
    ClientCert, Dialect, EndpointConfig, Http2, KeySource, Probe, Proxy, RequestEncoding, Stored,
    UsageSplice,
};
pub use decode::{Decoder, DecoderConfig, Piece, Verdict};
pub use endpoint::{
    Endpoint, EndpointError, EndpointStats, FreshKey, Health, check_header, check_probe,
};
pub use error::UpstreamError;
pub use memory::{Account, Charge};
pub use pool::{Cause, PoolGauges};
