//! A read-only look at the counters that a broker keeps under a name in `/dev/shm`.
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

use memmap2::{MmapMut, MmapRaw};

use crate::map::ReadMap;

/// Most bytes of a counters object.
/// Bound: whoever may write `/dev/shm` can put any file under any name.
pub const COUNTERS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Opens the object `name` (one path component, a leading slash is allowed) and returns what it
/// holds at this moment. Call again for a later moment.
///
/// The object carries no seals, so a mapping of it could be cut short by its owner, and the next
/// load would kill the reader. The result is therefore a private copy, made by `read`. A counter
/// is a word and words are copied whole; counters of one copy may be a moment apart.
pub fn open_shared_counters(name: &str) -> io::Result<ReadMap> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path(name)?)?;
    let meta = file.metadata()?;
    let is_odd = meta.file_type().is_fifo() || !meta.is_file();
    if is_odd || meta.len() == 0 || meta.len() > COUNTERS_BYTES_MAX {
        let text = format!("counters {name:?} is no file of 1 to {COUNTERS_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    copy(file, meta.len())
}

fn path(name: &str) -> io::Result<PathBuf> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let is_component = !bare.is_empty() && bare != "." && bare != ".." && !bare.contains('/');
    if !is_component {
        let text = format!("counters name {name:?} is not one path component");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(PathBuf::from("/dev/shm").join(bare))
}

fn copy(mut file: File, bytes: u64) -> io::Result<ReadMap> {
    // At most `COUNTERS_BYTES_MAX`, so it fits; rounded to words, the rest stays zero.
    let bytes = bytes as usize;
    let mut page = MmapMut::map_anon(bytes.next_multiple_of(size_of::<u64>()))?;
    file.read_exact(&mut page[..bytes])?;
    ReadMap::from_private(MmapRaw::from(page.make_read_only()?))
}
