//! What every measurement shares: processes, placements, passes, and what else the machine did.

mod apart;
pub(crate) mod bench;
pub mod child;
pub(crate) mod latency;
pub mod machine;
pub(crate) mod placement;
pub(crate) mod procfs;
pub(crate) mod progress;
pub mod row;
pub(crate) mod servers;
pub(crate) mod workdir;

pub(crate) use bench::{Bench, Sample};
pub(crate) use child::Child;
pub(crate) use latency::Latency;
pub(crate) use placement::{Cpus, Place};
pub(crate) use row::{Goal, RowSpec};
