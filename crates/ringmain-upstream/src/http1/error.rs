//! What goes wrong on a connection.

use std::io;

use thiserror::Error as ThisError;

use crate::body::GivenUp;

/// Why an answer did not come, or broke.
#[derive(Debug, ThisError)]
pub(crate) enum Error {
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ended before the head of the answer was whole.
    #[error("the connection ended before the head of the answer")]
    Headless,
    /// It ended within the body.
    #[error("the connection ended within the body")]
    Cut,
    /// What came is no head of an answer.
    #[error("{0}")]
    Head(HeadFault),
    /// What came is no chunk.
    #[error("{0}")]
    Chunk(ChunkFault),
    /// Nobody wants the answer any more, and nothing of the request was sent.
    #[error("{0}")]
    GivenUp(#[from] GivenUp),
}

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub(crate) enum HeadFault {
    #[error(transparent)]
    Syntax(#[from] httparse::Error),
    #[error("a head of more than {} bytes", super::head::HEAD_BYTES_MAX)]
    TooLong,
    #[error("a status that is none")]
    Status,
    #[error("another protocol than was asked for")]
    Switched,
    #[error("more than {} interim answers", super::connection::INTERIM_MAX)]
    Interim,
    #[error("a content-length that is no length, or several")]
    Length,
    #[error("transfer codings that were not offered")]
    Coding,
}

/// What is wrong with the frames of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub(crate) enum ChunkFault {
    #[error("a chunk whose size is none")]
    Size,
    #[error("a chunk that does not end where its size says")]
    End,
    #[error("a line of its frames that does not end with CR LF")]
    Line,
    #[error("extensions or trailers of more than {} bytes", super::body::EXTRA_BYTES_MAX)]
    Extra,
}
