//! What can go wrong with the harness itself. That a goal is missed is a result, not an error.

use std::io;

use thiserror::Error;

/// Why a measurement did not take place.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A call of the client library failed.
    #[error("client: {0}")]
    Client(#[from] ringmain_client::Error),
    /// An HTTP call of a baseline failed.
    #[error("http: {0}")]
    Http(#[from] reqwest::Error),
    /// A system call or a file failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// What came back is not what was sent.
    #[error("{0}")]
    NotIntact(String),
    /// The machine lacks what the measurement needs: not a failure, the row says so.
    #[error("{0}")]
    Skip(String),
    /// A child process did not play its role.
    #[error("child process {role}: {text}")]
    Role {
        /// Its role.
        role: String,
        /// What it said or did.
        text: String,
    },
    /// No suite has this name.
    #[error("there is no suite {name:?}; the suites are {known}")]
    Suite {
        /// The name given.
        name: String,
        /// All names.
        known: String,
    },
}

/// Shorthand for results of this crate.
pub type Result<T, E = BenchError> = std::result::Result<T, E>;

/// Says what was tried when a call fails.
pub(crate) trait Tried<T> {
    fn tried(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| BenchError::Io { what: what.into(), source: source.into() })
    }
}
