//! Sessions that do nothing.

use std::path::PathBuf;

use ringmain_client::{Config, Session};
use ringmain_shm::raise_nofile;
use serde::{Deserialize, Serialize};

use super::{ready, wait_for_parent};
use crate::error::{BenchError, Result, Tried};

/// How many, at which broker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Idle {
    pub socket: PathBuf,
    pub sessions: u32,
}

/// Descriptors of one session and a few of the process.
const FDS_PER_SESSION: u64 = 8;

/// Attaches, says so, and holds the sessions until the parent says otherwise.
pub(crate) fn idle(told: &Idle) -> Result<()> {
    let (soft, _) = raise_nofile().tried("raising the limit of descriptors")?;
    let needed = u64::from(told.sessions) * FDS_PER_SESSION + 64;
    if soft < needed {
        let text = format!("{soft} descriptors are allowed, {needed} are needed");
        return Err(BenchError::Skip(text));
    }
    let mut sessions = Vec::with_capacity(told.sessions as usize);
    for _ in 0..told.sessions {
        // The client itself waits when the broker asks for patience.
        sessions.push(Session::attach(Config::at(&told.socket))?);
    }
    ready()?;
    wait_for_parent()
}
