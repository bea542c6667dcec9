//! A private folder for sockets and generated configurations.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Result, Tried};

/// Removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Workdir {
    folder: TempDir,
    /// Number of the next name.
    next: std::cell::Cell<u32>,
}

impl Workdir {
    pub(crate) fn create() -> Result<Workdir> {
        let own = Permissions::from_mode(0o700);
        let made = tempfile::Builder::new().prefix("ringmain-bench-").permissions(own).tempdir();
        let folder = made.tried("making a temporary folder")?;
        Ok(Workdir { folder, next: std::cell::Cell::new(0) })
    }

    /// A path that nothing has used yet.
    pub(crate) fn fresh(&self, suffix: &str) -> PathBuf {
        let number = self.next.replace(self.next.get() + 1);
        self.folder.path().join(format!("{number}{suffix}"))
    }

    pub(crate) fn write(&self, suffix: &str, text: &str) -> Result<PathBuf> {
        let path = self.fresh(suffix);
        fs::write(&path, text).tried(format!("writing {}", path.display()))?;
        Ok(path)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}
