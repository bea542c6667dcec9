//! The other end of everything: a simulated provider, hostile peers and the contract checker.
//!
//! | module | what it holds |
//! |---|---|
//! | [`provider`] | an OpenAI-compatible provider over real HTTP on loopback, steered by prompts |
//! | [`script`] | what a prompt may ask of it: `[[sim n=200 gap_us=5000]]` |
//! | [`fault`] | what it can do wrong, by name |
//! | [`plan`] | what one answer consists of, and its exact bytes |
//! | [`text`] | generated text that both ends can compute |
//! | [`contract`] | what callers and providers recorded, and the checker of the delivery contract |
//! | [`hostile`] | peers that attach and then break the rules |
//! | [`lag`] | how late a busy host lets its processes run |
#![forbid(unsafe_code)]

pub mod contract;
pub mod fault;
pub mod hostile;
pub mod lag;
pub mod plan;
pub mod provider;
pub mod script;
pub mod text;

mod clock;
mod render;

pub use contract::{CallerRecord, History, Recorder, Violation, check};
pub use fault::Fault;
pub use lag::Lag;
pub use plan::Plan;
pub use provider::{Provider, ProviderConfig, ProviderRecord, Rules};
pub use script::Script;
