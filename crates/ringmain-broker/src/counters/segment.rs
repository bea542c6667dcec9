//! The named segment: made by `shared_memory`, written whole, removed when it is still ours.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::PathBuf;

use shared_memory::{ShmemConf, ShmemError};

use super::layout::{SEGMENT_BYTES, SEQUENCE_OFFSET, Snapshot};

/// The counters segment of a serving broker.
///
/// Snapshots are written through the segment's file and not through the mapping: the bytes are
/// the same pages, and no unsafe code is needed for a few writes per second.
#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    path: PathBuf,
    sequence: u64,
}

impl Segment {
    /// Makes the segment. One that is there already was left by a dead broker, or belongs to one
    /// that has released the socket and drains: whoever holds the socket owns the name.
    pub fn create(name: &str, gid: Option<u32>) -> io::Result<Segment> {
        let path = PathBuf::from("/dev/shm").join(name);
        match make(name) {
            Err(ShmemError::MappingIdExists) => {
                fs::remove_file(&path)?;
                make(name)
            }
            made => made,
        }
        .map_err(io::Error::other)?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        if let Some(gid) = gid {
            fchown(&file, None, Some(gid))?;
            file.set_permissions(Permissions::from_mode(0o640))?;
        }
        Ok(Segment { file, path, sequence: 0 })
    }

    /// Replaces the snapshot. Each write is a system call, so the three come in order for a
    /// reader on any core.
    pub fn write(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let (busy, done) = (self.sequence + 1, self.sequence + 2);
        self.file.write_all_at(&busy.to_ne_bytes(), SEQUENCE_OFFSET as u64)?;
        self.file.write_all_at(&snapshot.encode(busy), 0)?;
        self.file.write_all_at(&done.to_ne_bytes(), SEQUENCE_OFFSET as u64)?;
        self.sequence = done;
        Ok(())
    }

    fn is_still_named(&self) -> io::Result<bool> {
        let (named, ours) = (fs::symlink_metadata(&self.path)?, self.file.metadata()?);
        Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino()))
    }
}

impl Drop for Segment {
    /// Removes the name unless a successor has taken it.
    fn drop(&mut self) {
        if self.is_still_named().unwrap_or(false) {
            // Nobody is left to tell; a successor replaces what remains.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn make(name: &str) -> Result<(), ShmemError> {
    let mut made = ShmemConf::new().size(SEGMENT_BYTES).os_id(name).create()?;
    // The name outlives this mapping; `Segment` removes it.
    made.set_owner(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(test: &str) -> String {
        format!("ringmain-test-{}-{test}", std::process::id())
    }

    #[test]
    fn a_written_snapshot_can_be_read_and_goes_with_its_segment() {
        let name = name("read");
        let mut segment = Segment::create(&name, None).unwrap();
        for sessions in 1..4 {
            let snapshot = Snapshot { sessions, ..Snapshot::default() };
            segment.write(&snapshot).unwrap();
            assert_eq!(Snapshot::read(&name).unwrap(), snapshot);
        }
        let mode = segment.file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(segment);
        assert!(Snapshot::read(&name).is_err());
    }

    #[test]
    fn a_successor_takes_the_name_and_keeps_it() {
        let name = name("successor");
        let mut old = Segment::create(&name, None).unwrap();
        let mut new = Segment::create(&name, None).unwrap();
        old.write(&Snapshot { pid: 1, ..Snapshot::default() }).unwrap();
        new.write(&Snapshot { pid: 2, ..Snapshot::default() }).unwrap();
        drop(old);
        assert_eq!(Snapshot::read(&name).unwrap().pid, 2);
    }
}
