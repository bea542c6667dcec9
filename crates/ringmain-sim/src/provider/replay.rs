//! Recordings, streamed in chunks of random size.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use thiserror::Error;

use crate::text::mix;

/// Largest recording.
const REPLAY_BYTES_MAX: u64 = 64 << 20;

/// Why a recording cannot be streamed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The provider has no folder of recordings.
    #[error("this provider was started without a folder of recordings")]
    NoFolder,
    /// The path leads out of the folder.
    #[error("{0:?} does not stay inside the folder of recordings")]
    Outside(String),
    /// It cannot be read.
    #[error("{path:?} cannot be read")]
    Read {
        /// The path inside the folder.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It is too large.
    #[error("{path:?} has {bytes} bytes, at most {REPLAY_BYTES_MAX} are streamed")]
    TooLarge {
        /// The path inside the folder.
        path: String,
        /// Its size.
        bytes: u64,
    },
}

/// A recording on its way.
#[derive(Debug)]
pub(super) struct Replay {
    rest: Bytes,
    chunk_max: u64,
    draw: u64,
    taken: u64,
}

impl Replay {
    pub(super) fn new(bytes: Bytes, chunk_max: u64, seed: u64) -> Replay {
        Replay { rest: bytes, chunk_max: chunk_max.max(1), draw: mix(seed), taken: 0 }
    }

    /// Chunks given out.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn next(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            return None;
        }
        self.draw = mix(self.draw);
        let bytes = (self.draw % self.chunk_max + 1) as usize;
        self.taken += 1;
        Some(self.rest.split_to(bytes.min(self.rest.len())))
    }
}

/// Reads a recording inside `folder`; a path from a prompt leads nowhere else, links included.
///
/// # Errors
/// [`ReplayError`].
pub(crate) fn read(folder: Option<&Path>, path: &str) -> Result<Bytes, ReplayError> {
    let folder = folder.ok_or(ReplayError::NoFolder)?;
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if path.is_empty() || !Path::new(path).components().all(is_plain) {
        return Err(ReplayError::Outside(path.to_owned()));
    }
    let read = |source| ReplayError::Read { path: path.to_owned(), source };
    let (folder, file) = resolve(folder, path).map_err(read)?;
    if !file.starts_with(&folder) {
        return Err(ReplayError::Outside(path.to_owned()));
    }
    let bytes = fs::metadata(&file).map_err(read)?.len();
    if bytes > REPLAY_BYTES_MAX {
        return Err(ReplayError::TooLarge { path: path.to_owned(), bytes });
    }
    fs::read(&file).map(Bytes::from).map_err(read)
}

fn resolve(folder: &Path, path: &str) -> io::Result<(PathBuf, PathBuf)> {
    let folder = folder.canonicalize()?;
    let file = folder.join(path).canonicalize()?;
    Ok((folder, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_make_up_the_recording_and_repeat_by_seed() {
        let bytes = Bytes::from((0..=255u8).collect::<Vec<_>>());
        let chunks = |seed| {
            let mut replay = Replay::new(bytes.clone(), 16, seed);
            std::iter::from_fn(move || replay.next()).collect::<Vec<_>>()
        };
        assert_eq!(chunks(1).concat(), bytes);
        assert_eq!(chunks(1), chunks(1));
        assert_ne!(chunks(1), chunks(2));
        assert!(chunks(3).iter().all(|chunk| (1..=16).contains(&chunk.len())));
    }

    #[test]
    fn a_path_stays_inside_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::write(folder.path().join("secret"), "s").unwrap();
        fs::write(folder.path().join("in/a"), "ok").unwrap();
        std::os::unix::fs::symlink("../secret", folder.path().join("in/link")).unwrap();
        let inside = folder.path().join("in");
        assert_eq!(read(Some(&inside), "a").unwrap(), "ok");
        for path in ["../secret", "/etc/passwd", "", "./../secret", "link"] {
            let error = read(Some(&inside), path).unwrap_err();
            assert!(matches!(error, ReplayError::Outside(_)), "{path}: {error}");
        }
        assert!(matches!(read(Some(&inside), "none"), Err(ReplayError::Read { .. })));
        assert!(matches!(read(None, "a"), Err(ReplayError::NoFolder)));
    }
}
