//! Request bodies, compressed for endpoints that take them so.

mod choice;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::HeaderValue;
use parking_lot::Mutex;

use crate::config::RequestEncoding;
use crate::memory::{Account, Room};
use choice::Choice;

/// Bodies of more bytes are compressed on a thread of their own: a task must not keep its thread
/// from others for longer than a millisecond or two.
const INLINE_BYTES_MAX: usize = 128 * 1024;
/// Fast levels: a request waits for its compression.
const DEFLATE_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 1;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Coding {
    Deflate,
    Gzip,
    Zstd,
}

/// What one endpoint takes, and what it costs.
#[derive(Debug)]
pub(crate) struct Encoder {
    above: usize,
    choice: Option<Mutex<Choice>>,
}

/// A body that was compressed.
pub(crate) struct Encoded {
    pub bytes: Bytes,
    pub coding: Coding,
}

/// What is remembered of a request until its answer has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    pub coding: Option<Coding>,
    body_bytes: usize,
    since: Instant,
}

impl Encoder {
    pub fn new(encoding: RequestEncoding, above: usize) -> Encoder {
        let choice = match encoding {
            RequestEncoding::Off => None,
            RequestEncoding::Auto => {
                Some(Choice::among(&[None, Some(Coding::Gzip), Some(Coding::Zstd)]))
            }
            RequestEncoding::Deflate => Some(Choice::among(&[Some(Coding::Deflate)])),
            RequestEncoding::Gzip => Some(Choice::among(&[Some(Coding::Gzip)])),
            RequestEncoding::Zstd => Some(Choice::among(&[Some(Coding::Zstd)])),
        };
        Encoder { above, choice: choice.map(Mutex::new) }
    }

    /// Whether bodies may be compressed at all, and so have to be looked into.
    pub fn is_on(&self) -> bool {
        self.choice.is_some()
    }

    /// Compresses a body if that is the thing to do. `plain`: it is not. One for which its caller
    /// has no memory left goes out as it is.
    pub async fn encode(
        &self,
        pieces: &[Bytes],
        plain: bool,
        account: Option<&dyn Account>,
    ) -> (Option<Encoded>, Option<Trial>) {
        let Some(choice) = &self.choice else { return (None, None) };
        let body_bytes = pieces.iter().map(Bytes::len).sum();
        if body_bytes < self.above.max(1) || plain {
            return (None, None);
        }
        let since = Instant::now();
        let coding = choice.lock().choose(body_bytes);
        let trial = Trial { coding, body_bytes, since };
        let Some(coding) = coding else { return (None, Some(trial)) };
        let Ok(room) = Room::of(account, most_bytes(body_bytes)) else { return (None, None) };
        let compressed = match body_bytes > INLINE_BYTES_MAX {
            false => compress(coding, pieces).map(|bytes| room.hold(bytes)),
            true => {
                let pieces = pieces.to_vec();
                // Whoever asked may have gone before it is done: its room goes with it.
                let work = tokio::task::spawn_blocking(move || {
                    compress(coding, &pieces).map(|bytes| room.hold(bytes))
                });
                work.await.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
        };
        match compressed {
            Ok(bytes) => (Some(Encoded { bytes, coding }), Some(trial)),
            // Writing to memory does not fail; were it to, the body goes out as it is.
            Err(_) => (None, None),
        }
    }

    /// The answer to a request has come and was no refusal of its coding.
    pub fn took(&self, trial: Trial) {
        if let Some(choice) = &self.choice {
            choice.lock().took(trial.coding, trial.body_bytes, trial.since.elapsed());
        }
    }

    /// Whether an answer of this status can be a refusal of the coding. 415 says so; 400 does of
    /// most requests that could not be read, but hardly where the coding was taken before.
    pub fn may_object(&self, coding: Coding, status: u16) -> bool {
        let was_taken = || {
            let choice = self.choice.as_ref();
            choice.is_some_and(|choice| choice.lock().was_taken(coding))
        };
        status == 415 || status == 400 && !was_taken()
    }

    /// The endpoint does not take this coding.
    pub fn refused(&self, coding: Coding) {
        if let Some(choice) = &self.choice {
            choice.lock().refused(coding);
        }
    }
}

impl Coding {
    /// As Content-Encoding names it.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Coding::Deflate => "deflate",
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        })
    }
}

/// What the compression of so many bytes takes at most: codings add next to nothing to what they
/// cannot shrink, and memory that grows may double once too often.
fn most_bytes(body_bytes: usize) -> usize {
    (body_bytes + body_bytes / 128 + 64).saturating_mul(2)
}

/// Bound: [`most_bytes`].
fn compress(coding: Coding, pieces: &[Bytes]) -> io::Result<Vec<u8>> {
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    let room = Vec::with_capacity(bytes / 3 + 64);
    match coding {
        Coding::Deflate => {
            let encoder = ZlibEncoder::new(room, Compression::new(DEFLATE_LEVEL));
            fill(encoder, pieces)?.finish()
        }
        Coding::Gzip => {
            let encoder = GzEncoder::new(room, Compression::new(DEFLATE_LEVEL));
            fill(encoder, pieces)?.finish()
        }
        Coding::Zstd => fill(zstd::Encoder::new(room, ZSTD_LEVEL)?, pieces)?.finish(),
    }
}

fn fill<W: Write>(mut encoder: W, pieces: &[Bytes]) -> io::Result<W> {
    pieces.iter().try_for_each(|piece| encoder.write_all(piece))?;
    Ok(encoder)
}

/// Time per byte, in picoseconds: small enough to tell fast endpoints apart.
fn per_byte(spent: Duration, bytes: usize) -> u64 {
    let picos = spent.as_nanos().saturating_mul(1000) / (bytes.max(1) as u128);
    u64::try_from(picos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    use crate::memory::tests::Limited;

    #[tokio::test]
    async fn what_is_compressed_comes_back() {
        let text: Vec<u8> =
            (0..300_000_u32).flat_map(|n| (n / 7).to_string().into_bytes()).collect();
        for bytes in [5_000, text.len()] {
            let pieces = [Bytes::copy_from_slice(&text[..1000]), text[1000..bytes].to_vec().into()];
            for (encoding, coding) in [
                (RequestEncoding::Gzip, Coding::Gzip),
                (RequestEncoding::Deflate, Coding::Deflate),
                (RequestEncoding::Zstd, Coding::Zstd),
            ] {
                let encoder = Encoder::new(encoding, 4096);
                let encoded = encoder.encode(&pieces, false, None).await.0.unwrap();
                assert_eq!(encoded.coding, coding);
                assert!(encoded.bytes.len() < bytes);
                let mut out = Vec::new();
                match coding {
                    Coding::Gzip => flate2::read::GzDecoder::new(&encoded.bytes[..])
                        .read_to_end(&mut out)
                        .unwrap(),
                    Coding::Deflate => flate2::read::ZlibDecoder::new(&encoded.bytes[..])
                        .read_to_end(&mut out)
                        .unwrap(),
                    Coding::Zstd => {
                        out = zstd::decode_all(&encoded.bytes[..]).unwrap();
                        out.len()
                    }
                };
                assert_eq!(out, text[..bytes]);
                assert!(encoder.encode(&pieces, true, None).await.0.is_none());
                assert!(encoder.encode(&pieces[..1], false, None).await.0.is_none(), "too small");
                encoder.refused(coding);
                assert!(encoder.encode(&pieces, false, None).await.0.is_none(), "refused");
            }
        }
    }

    /// What a compressed body takes is charged while it is made and as long as it is there, and a
    /// body for which there is no room is not compressed.
    #[tokio::test]
    async fn compressed_bodies_are_charged() {
        let next = |seed: &u64| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let noise = |bytes| -> Vec<u8> {
            std::iter::successors(Some(7), next)
                .map(|seed| (seed >> 56) as u8)
                .take(bytes)
                .collect()
        };
        for bytes in [5_000, INLINE_BYTES_MAX + 1] {
            let pieces = [Bytes::from(noise(bytes))];
            for (encoding, coding) in [
                (RequestEncoding::Gzip, Coding::Gzip),
                (RequestEncoding::Deflate, Coding::Deflate),
                (RequestEncoding::Zstd, Coding::Zstd),
            ] {
                let made = compress(coding, &pieces).unwrap();
                assert!(made.capacity() <= most_bytes(bytes), "{coding:?}: {}", made.capacity());
                let encoder = Encoder::new(encoding, 4096);
                let account = Limited::to(most_bytes(bytes) as u64);
                let (encoded, _) = encoder.encode(&pieces, false, Some(&account)).await;
                let encoded = encoded.unwrap();
                assert_eq!(account.held(), encoded.bytes.len() as u64);
                let (other, trial) = encoder.encode(&pieces, false, Some(&account)).await;
                assert!(other.is_none() && trial.is_none(), "no room for another");
                drop(encoded);
                assert_eq!(account.held(), 0);
            }
        }
    }
}
