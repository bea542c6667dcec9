//! Bodies, written once, where the broker reads them.

use std::io::{self, Write};

use ringmain_shm::WriteMap;

/// Writes a request body straight into the loaned chunk of the session's arena: no buffer lies
/// between. It takes as many bytes as the chunk has and fails beyond them.
#[derive(Debug)]
pub struct BodyWriter<'a> {
    memory: &'a WriteMap,
    offset: usize,
    bytes_max: usize,
    written: usize,
    overflowed: bool,
}

/// Something that can be written as a request body.
///
/// Implemented for `()` (no body), byte slices and strings, [`ChatBody`](crate::ChatBody), and
/// [`Fill`] for a closure.
pub trait Body {
    /// The most bytes that it will write. A chunk of this size is loaned; what is left over goes
    /// back before the request is sent.
    fn bytes_max(&self) -> u64;

    /// Writes it.
    ///
    /// # Errors
    /// Whatever keeps it from being written; nothing is sent then.
    fn write_to(self, out: &mut BodyWriter<'_>) -> io::Result<()>;
}

/// A body that a closure writes in place.
#[derive(Clone, Copy, Debug)]
pub struct Fill<F> {
    bytes_max: u64,
    write: F,
}

impl<F: FnOnce(&mut BodyWriter<'_>) -> io::Result<()>> Fill<F> {
    /// At most `bytes_max` bytes, written by `write`.
    pub fn new(bytes_max: u64, write: F) -> Fill<F> {
        Fill { bytes_max, write }
    }
}

impl<'a> BodyWriter<'a> {
    pub(crate) fn new(memory: &'a WriteMap, offset: usize, bytes_max: usize) -> BodyWriter<'a> {
        BodyWriter { memory, offset, bytes_max, written: 0, overflowed: false }
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.bytes_max - self.written
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.written
    }

    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.room() {
            self.overflowed = true;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.memory.copy_in(self.offset + self.written, bytes);
        self.written += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<F: FnOnce(&mut BodyWriter<'_>) -> io::Result<()>> Body for Fill<F> {
    fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    fn write_to(self, out: &mut BodyWriter<'_>) -> io::Result<()> {
        (self.write)(out)
    }
}

impl Body for () {
    fn bytes_max(&self) -> u64 {
        0
    }

    fn write_to(self, _: &mut BodyWriter<'_>) -> io::Result<()> {
        Ok(())
    }
}

impl Body for &[u8] {
    fn bytes_max(&self) -> u64 {
        self.len() as u64
    }

    fn write_to(self, out: &mut BodyWriter<'_>) -> io::Result<()> {
        out.write_all(self)
    }
}

impl Body for &str {
    fn bytes_max(&self) -> u64 {
        self.len() as u64
    }

    fn write_to(self, out: &mut BodyWriter<'_>) -> io::Result<()> {
        out.write_all(self.as_bytes())
    }
}
