//! A private folder for sockets and generated configurations.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, Tried};

/// Removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Workdir {
    path: PathBuf,
    /// Number of the next name.
    next: std::cell::Cell<u32>,
}

impl Workdir {
    pub(crate) fn create() -> Result<Workdir> {
        let path = std::env::temp_dir().join(format!("ringmain-bench-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.tried(format!("making {}", path.display()))?;
        Ok(Workdir { path, next: std::cell::Cell::new(0) })
    }

    /// A path that nothing has used yet.
    pub(crate) fn fresh(&self, suffix: &str) -> PathBuf {
        let number = self.next.replace(self.next.get() + 1);
        self.path.join(format!("{number}{suffix}"))
    }

    pub(crate) fn write(&self, suffix: &str, text: &str) -> Result<PathBuf> {
        let path = self.fresh(suffix);
        fs::write(&path, text).tried(format!("writing {}", path.display()))?;
        Ok(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        // What is left behind is a few small files in the folder for such files.
        let _ = fs::remove_dir_all(&self.path);
    }
}
