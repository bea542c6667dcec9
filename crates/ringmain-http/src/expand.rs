//! Undoing the encoding of a body. What it takes is known only while it expands, so it is charged
//! step by step, each before its memory is taken; few bodies expand at once; and whoever waits for
//! one drives it, so that nothing is done for a caller that is gone.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use ringmain_broker::face::{Charged, Exchange};
use ringmain_wire::Code;
use tokio::sync::Semaphore;

use crate::refusal::Refusal;
use crate::upload::{Upload, charge, too_large};

/// Bodies that expand on threads of their own at once. Bound of the memory that nobody is charged
/// for: a window each, and the copy when a body moves as it grows.
const AT_ONCE: usize = 4;
/// Bodies of at most this many bytes, packed and expanded, are expanded where they are.
const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes that are expanded at a time.
const STEP_BYTES: usize = 256 * 1024;
/// A window beyond this is refused, as RFC 8878 advises: it is memory that the sender chooses.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Zstd,
}

/// The places for bodies that expand.
pub(crate) struct Expansions(Semaphore);

/// A body that expands.
struct Expansion {
    decoder: Box<dyn Read + Send>,
    out: Vec<u8>,
}

impl Default for Expansions {
    fn default() -> Self {
        Expansions(Semaphore::new(AT_ONCE))
    }
}

impl Expansions {
    /// Expands a body. Bound of the wait for a place: the time limit of the caller.
    pub async fn expand(
        &self,
        packing: Packing,
        packed: Bytes,
        bytes_max: u64,
        exchange: &Exchange,
    ) -> Result<Upload, Refusal> {
        let mut charged = Vec::new();
        if packed.len() <= INLINE_BYTES_MAX {
            charged.push(charge(exchange, INLINE_BYTES_MAX as u64)?);
            let mut expansion = Expansion::new(packing, packed.clone()).map_err(bad)?;
            if !expansion.step(INLINE_BYTES_MAX).map_err(bad)? {
                return expansion.end(bytes_max, charged);
            }
            // It is begun again in its turn, so that nothing uncharged is kept until then.
        }
        let Ok(_place) = self.0.acquire().await else { return Err(bad("the broker ends")) };
        let mut expansion = Expansion::new(packing, packed).map_err(bad)?;
        // Bound: the limit of a body, in steps.
        while expansion.out.len() as u64 <= bytes_max {
            charged.push(charge(exchange, STEP_BYTES as u64)?);
            let stepped = tokio::task::spawn_blocking(move || {
                let goes_on = expansion.step(STEP_BYTES)?;
                Ok::<_, io::Error>((expansion, goes_on))
            });
            let goes_on;
            (expansion, goes_on) = stepped.await.map_err(bad)?.map_err(bad)?;
            if !goes_on {
                break;
            }
        }
        expansion.end(bytes_max, charged)
    }
}

impl Expansion {
    fn new(packing: Packing, packed: Bytes) -> io::Result<Expansion> {
        let decoder: Box<dyn Read + Send> = match packing {
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed.reader())),
            Packing::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed.reader())?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        };
        Ok(Expansion { decoder, out: Vec::new() })
    }

    /// Expands at most this many bytes more. True: there may be further ones.
    fn step(&mut self, bytes: usize) -> io::Result<bool> {
        let start = self.out.len();
        // No more than what is charged for.
        self.out.reserve_exact(bytes);
        self.out.resize(start + bytes, 0);
        let mut filled = start;
        while filled < start + bytes {
            match self.decoder.read(&mut self.out[filled..]) {
                Ok(0) => {
                    self.out.truncate(filled);
                    return Ok(false);
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn end(self, bytes_max: u64, charged: Vec<Charged>) -> Result<Upload, Refusal> {
        match self.out.len() as u64 > bytes_max {
            true => Err(too_large(bytes_max)),
            false => Ok(Upload { bytes: self.out.into(), charged }),
        }
    }
}

fn bad(error: impl std::fmt::Display) -> Refusal {
    let text = format!("the body of the request cannot be expanded: {error}");
    Refusal::new(Code::InvalidRequest, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// In steps of this many bytes, to the end or to the first step beyond a limit.
    fn expand(packing: Packing, packed: &[u8], step: usize, max: usize) -> io::Result<Vec<u8>> {
        let mut expansion = Expansion::new(packing, Bytes::copy_from_slice(packed))?;
        while expansion.out.len() <= max && expansion.step(step)? {
            assert!(expansion.out.capacity() <= max + step, "no more than was charged");
        }
        Ok(expansion.out)
    }

    #[test]
    fn encodings_come_back_in_steps_and_bombs_stop_at_the_limit() {
        let text = b"abc".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        for (packing, packed) in [(Packing::Gzip, gzip), (Packing::Zstd, zstd)] {
            for step in [1, 7, 3000, 4096] {
                assert_eq!(expand(packing, &packed, step, 3000).unwrap(), text, "{step}");
            }
            assert_eq!(expand(packing, &packed, 8, 100).unwrap().len(), 104);
            assert!(expand(packing, &packed[..packed.len() - 2], 64, 3000).is_err());
        }
    }
}
