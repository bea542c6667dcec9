//! Keys: read once, checked, never shown.

use std::path::PathBuf;

use thiserror::Error;

/// Why a key cannot be used. No variant holds a part of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Others can read or replace the file.
    #[error("{}: mode {mode:04o} lets others in; run: chmod 600 {}", path.display(), path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to somebody else.
    #[error("{}: owned by uid {uid}; it must belong to uid {own} or to root", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// The uid of this process.
        own: u32,
    },
    /// The variable is not set.
    #[error("the variable {0} is not set")]
    Unset(String),
    /// The content cannot be a key.
    #[error("{origin}: {reason}")]
    Content {
        /// The file or variable.
        origin: String,
        /// What is wrong.
        reason: &'static str,
    },
}
