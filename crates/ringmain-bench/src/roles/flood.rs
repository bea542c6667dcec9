//! A peer that attaches and then rings for nothing as fast as it can, and its harmless twin.

use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::unistd::write;
use ringmain_shm::{Control, bell_pair, monotonic_ns};
use ringmain_wire::Geometry;
use ringmain_wire::control::{Hello, Message};
use serde::{Deserialize, Serialize};

use super::meet::receive;
use super::ready;
use crate::error::{Result, Tried};

/// Whom it rings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Flood {
    /// The broker; `None`: nobody, at the same cost to this process.
    pub socket: Option<PathBuf>,
}

/// Rings until its parent ends it.
pub(crate) fn flood(told: &Flood) -> Result<()> {
    let one = 1u64.to_ne_bytes();
    match &told.socket {
        None => {
            let (bell, ring) = bell_pair().tried("eventfd")?;
            ready()?;
            // Bound: the life of the parent. A counter that is full refuses, at the same cost.
            loop {
                let _ = write(&ring, &one);
                std::hint::black_box(bell.as_fd());
            }
        }
        Some(path) => {
            let control = Control::connect(path).tried("connecting to the broker")?;
            let hello = Hello::caller(Geometry::default(), monotonic_ns());
            control.send(&Message::Hello(hello).encode(), &[]).tried("saying hello")?;
            let [_caller, _responder, bell, _own_bell] = receive(&control)?;
            ready()?;
            // Bound: the life of the parent. The broker never reads the counter.
            loop {
                let _ = write(&bell, &one);
            }
        }
    }
}
