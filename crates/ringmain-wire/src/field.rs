//! Tagged fields: `tag: u16 | length: u16 | bytes`, little endian, back to back, no padding.
//!
//! Both heads are written this way, so that a later version may add fields: a reader skips a tag
//! that it does not know when its highest bit is set and refuses the record otherwise.

use thiserror::Error;

/// Bit of a tag that a reader may skip when it does not know it.
pub const OPTIONAL: u16 = 0x8000;

const PREFIX_BYTES: usize = 4;

/// Appends tagged fields to a byte vector.
#[derive(Debug)]
pub struct FieldWriter<'a> {
    out: &'a mut Vec<u8>,
    bytes_max: usize,
    start: usize,
}

/// Reads tagged fields in order.
#[derive(Clone, Debug)]
pub struct FieldReader<'a> {
    rest: &'a [u8],
}

/// Why a record of fields could not be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The record would exceed its bound.
    #[error("field {tag} does not fit: the record may take {bytes_max} bytes")]
    Full {
        /// Field that did not fit.
        tag: u16,
        /// Bound of the record.
        bytes_max: usize,
    },
    /// A length points past the end.
    #[error("field {tag} claims {length} bytes, {left} are left")]
    Truncated {
        /// Field read.
        tag: u16,
        /// Length given.
        length: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// Fewer bytes are left than a field's tag and length take.
    #[error("{0} stray bytes at the end of the record")]
    Stray(usize),
}

impl<'a> FieldWriter<'a> {
    /// Appends to `out`, at most `bytes_max` bytes in total.
    pub fn new(out: &'a mut Vec<u8>, bytes_max: usize) -> FieldWriter<'a> {
        let start = out.len();
        FieldWriter { out, bytes_max, start }
    }

    /// Appends one field.
    ///
    /// # Errors
    /// [`FieldError::Full`]; nothing of the field is written then.
    pub fn put(&mut self, tag: u16, bytes: &[u8]) -> Result<(), FieldError> {
        let total = self.out.len() - self.start + PREFIX_BYTES + bytes.len();
        let full = FieldError::Full { tag, bytes_max: self.bytes_max };
        let length = u16::try_from(bytes.len()).map_err(|_| full)?;
        if total > self.bytes_max {
            return Err(full);
        }
        let ([a, b], [c, d]) = (tag.to_le_bytes(), length.to_le_bytes());
        self.out.reserve(PREFIX_BYTES + bytes.len());
        self.out.extend_from_slice(&[a, b, c, d]);
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

impl<'a> FieldReader<'a> {
    /// Reads the fields of `bytes`.
    pub fn new(bytes: &'a [u8]) -> FieldReader<'a> {
        FieldReader { rest: bytes }
    }
}

impl<'a> Iterator for FieldReader<'a> {
    type Item = Result<(u16, &'a [u8]), FieldError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&[a, b, c, d], rest) = match self.rest.split_first_chunk::<PREFIX_BYTES>() {
            Some(split) => split,
            None if self.rest.is_empty() => return None,
            None => {
                let stray = std::mem::take(&mut self.rest).len();
                return Some(Err(FieldError::Stray(stray)));
            }
        };
        let (tag, length) = (u16::from_le_bytes([a, b]), usize::from(u16::from_le_bytes([c, d])));
        let Some((bytes, rest)) = rest.split_at_checked(length) else {
            self.rest = &[];
            return Some(Err(FieldError::Truncated { tag, length, left: rest.len() }));
        };
        self.rest = rest;
        Some(Ok((tag, bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn property_fields_come_back(fields in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 0..10)) {
            let mut out = vec![9];
            let mut writer = FieldWriter::new(&mut out, 1000);
            for (tag, bytes) in &fields {
                writer.put(*tag, bytes).unwrap();
            }
            let read: Vec<_> = FieldReader::new(&out[1..]).map(Result::unwrap).collect();
            prop_assert_eq!(read.len(), fields.len());
            for (read, put) in read.iter().zip(&fields) {
                prop_assert_eq!((read.0, read.1), (put.0, &put.1[..]));
            }
        }

        #[test]
        fn property_any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(FieldReader::new(&bytes).count() <= bytes.len());
        }
    }

    #[test]
    fn a_full_record_keeps_what_it_has() {
        let mut out = Vec::new();
        let mut writer = FieldWriter::new(&mut out, 8);
        writer.put(1, &[1, 2]).unwrap();
        assert_eq!(writer.put(2, &[]), Err(FieldError::Full { tag: 2, bytes_max: 8 }));
        assert_eq!(out.len(), 6);
    }
}
