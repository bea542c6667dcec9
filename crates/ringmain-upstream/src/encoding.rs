//! Content encodings of answers, undone as the bytes come.
//!
//! Every byte that can be had is given at once: a provider that flushes its compressor behind
//! each token is not held back here. A bomb is bounded twice, by an absolute size and by the
//! ratio of what comes out to what came in.

use std::io;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::{Buf, Bytes};
use flate2::{Crc, Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use ringmain_wire::Code;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

use crate::error::UpstreamError;

/// What is offered to providers.
pub(crate) const ACCEPTED: &str = "gzip, deflate, zstd, br";

/// Most bytes given at once.
const STEP_BYTES: usize = 32 * 1024;
/// Most bytes out per byte in, beyond the first [`FREE_BYTES`].
const RATIO_MAX: u64 = 200;
const FREE_BYTES: u64 = 4 << 20;
/// Most bytes of a gzip header.
const GZIP_HEADER_BYTES_MAX: usize = 4096;
/// The window that RFC 8878 asks decoders for: 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Undoes the content encoding of one answer.
pub(crate) struct Expander {
    codec: Codec,
    input: Bytes,
    output: Vec<u8>,
    taken: u64,
    given: u64,
    bytes_max: u64,
}

impl Expander {
    /// For the encoding that the headers name; `None` when there is none.
    pub fn for_answer(
        headers: &HeaderMap,
        bytes_max: u64,
    ) -> Result<Option<Expander>, UpstreamError> {
        let mut names = headers.get_all(CONTENT_ENCODING).iter();
        let name = match (names.next(), names.next()) {
            (None, _) => return Ok(None),
            (Some(name), None) => name.to_str().unwrap_or("?").trim().to_ascii_lowercase(),
            (Some(_), Some(_)) => "several".to_owned(),
        };
        let codec = match name.as_str() {
            "" | "identity" => return Ok(None),
            "gzip" | "x-gzip" => Codec::Gzip(Gzip::Header(Vec::new())),
            "deflate" => Codec::Deflate(Deflate::Probe(Vec::new())),
            "br" => Codec::Brotli(Brotli::new()),
            "zstd" => Codec::Zstd { decoder: zstd_decoder().map_err(faulty)?, between: true },
            other => {
                let other: String = other.chars().take(40).collect();
                let message = format!("the endpoint answered in the content encoding {other:?}");
                return Err(UpstreamError::answered(Code::UpstreamEncoding, message));
            }
        };
        let output = vec![0; STEP_BYTES];
        Ok(Some(Expander { codec, input: Bytes::new(), output, taken: 0, given: 0, bytes_max }))
    }

    /// Takes the next chunk. Call it when [`next`](Expander::next) has given `None`.
    pub fn feed(&mut self, chunk: Bytes) {
        debug_assert!(self.input.is_empty());
        self.taken += chunk.len() as u64;
        self.input = chunk;
    }

    /// The next bytes; `None` when more are needed.
    pub fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let (read, written) = self.codec.step(&self.input, &mut self.output).map_err(faulty)?;
            self.input.advance(read);
            self.given += written as u64;
            if self.given > self.bytes_max || self.given > FREE_BYTES.max(self.taken * RATIO_MAX) {
                let message = format!(
                    "the answer expands from {} to more than {} bytes",
                    self.taken, self.given
                );
                return Err(UpstreamError::answered(Code::UpstreamTooLarge, message));
            }
            if written > 0 {
                return Ok(Some(Bytes::copy_from_slice(&self.output[..written])));
            }
            if read == 0 {
                return Ok(None);
            }
        }
    }

    /// Judges the end of the body.
    pub fn end(&self) -> Result<(), UpstreamError> {
        if self.taken == 0 || self.input.is_empty() && self.codec.is_complete() {
            return Ok(());
        }
        let message = "the compressed answer ended in its middle";
        Err(UpstreamError::answered(Code::UpstreamTruncated, message))
    }
}

fn faulty(error: io::Error) -> UpstreamError {
    let message = format!("the compressed answer cannot be read: {error}");
    UpstreamError::answered(Code::UpstreamEncoding, message)
}

fn zstd_decoder() -> io::Result<ZstdDecoder<'static>> {
    let mut decoder = ZstdDecoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
    Ok(decoder)
}

enum Codec {
    Brotli(Brotli),
    Gzip(Gzip),
    Deflate(Deflate),
    Zstd {
        decoder: ZstdDecoder<'static>,
        /// Whether the decoder stands between two frames.
        between: bool,
    },
}

impl Codec {
    /// Bytes read and written; both 0 when more input is needed.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize)> {
        match self {
            Codec::Brotli(brotli) => brotli.step(input, output),
            Codec::Gzip(gzip) => gzip.step(input, output),
            Codec::Deflate(deflate) => deflate.step(input, output),
            Codec::Zstd { between: true, .. } if input.is_empty() => Ok((0, 0)),
            Codec::Zstd { decoder, between } => {
                let status = decoder.run_on_buffers(input, output)?;
                *between = status.remaining == 0;
                Ok((status.bytes_read, status.bytes_written))
            }
        }
    }

    fn is_complete(&self) -> bool {
        match self {
            Codec::Brotli(brotli) => brotli.is_ended,
            Codec::Gzip(gzip) => matches!(gzip, Gzip::Header(seen) if seen.is_empty()),
            Codec::Deflate(deflate) => matches!(deflate, Deflate::Done),
            Codec::Zstd { between, .. } => *between,
        }
    }
}

/// RFC 7932, one stream.
struct Brotli {
    /// Without the large windows that are not part of the standard: at most 16 MiB.
    state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
    is_ended: bool,
}

impl Brotli {
    fn new() -> Brotli {
        let alloc = StandardAlloc::default;
        let state = Box::new(BrotliState::new_strict(alloc(), alloc(), alloc()));
        Brotli { state, is_ended: false }
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize)> {
        if self.is_ended {
            return match input.is_empty() {
                true => Ok((0, 0)),
                false => Err(io::Error::other("bytes behind the end of the brotli stream")),
            };
        }
        let (mut left, mut read) = (input.len(), 0);
        let (mut room, mut written, mut total) = (output.len(), 0, 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut read,
            input,
            &mut room,
            &mut written,
            output,
            &mut total,
            &mut self.state,
        );
        match result {
            BrotliResult::ResultFailure => Err(io::Error::other("not a brotli stream")),
            BrotliResult::ResultSuccess => {
                self.is_ended = true;
                Ok((read, written))
            }
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok((read, written)),
        }
    }
}

/// Runs the decompressor once. Also tells whether its stream ended.
fn inflate(
    inflater: &mut Decompress,
    input: &[u8],
    output: &mut [u8],
) -> io::Result<(usize, usize, bool)> {
    let (taken, given) = (inflater.total_in(), inflater.total_out());
    let status = inflater.decompress(input, output, FlushDecompress::None)?;
    let read = (inflater.total_in() - taken) as usize;
    let written = (inflater.total_out() - given) as usize;
    Ok((read, written, status == Status::StreamEnd))
}

/// RFC 1952: one or more members of header, deflated data, checksum and length.
enum Gzip {
    Header(Vec<u8>),
    Data(Box<Decompress>, Crc),
    Trailer(Vec<u8>, Crc),
}

impl Gzip {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize)> {
        match self {
            Gzip::Header(seen) => {
                let before = seen.len();
                let room = GZIP_HEADER_BYTES_MAX - before;
                seen.extend_from_slice(&input[..input.len().min(room)]);
                match gzip_header(seen)? {
                    Some(bytes) => {
                        *self = Gzip::Data(Box::new(Decompress::new(false)), Crc::new());
                        Ok((bytes - before, 0))
                    }
                    None if seen.len() == GZIP_HEADER_BYTES_MAX => {
                        Err(io::Error::other("a gzip header of more than 4096 bytes"))
                    }
                    None => Ok((seen.len() - before, 0)),
                }
            }
            Gzip::Data(inflater, crc) => {
                let (read, written, ended) = inflate(inflater, input, output)?;
                crc.update(&output[..written]);
                if ended {
                    *self = Gzip::Trailer(Vec::new(), std::mem::take(crc));
                }
                Ok((read, written))
            }
            Gzip::Trailer(seen, crc) => {
                let read = input.len().min(8 - seen.len());
                seen.extend_from_slice(&input[..read]);
                if seen.len() == 8 {
                    let told = [crc.sum().to_le_bytes(), crc.amount().to_le_bytes()].concat();
                    if *seen != told {
                        return Err(io::Error::other("the checksum is wrong"));
                    }
                    *self = Gzip::Header(Vec::new());
                }
                Ok((read, 0))
            }
        }
    }
}

const GZIP_HEADER_CRC: u8 = 1 << 1;
const GZIP_EXTRA: u8 = 1 << 2;
const GZIP_NAME: u8 = 1 << 3;
const GZIP_COMMENT: u8 = 1 << 4;

/// Bytes of the gzip header that `seen` begins with; `None` while it is incomplete.
fn gzip_header(seen: &[u8]) -> io::Result<Option<usize>> {
    let magic = [0x1f, 0x8b, 8];
    if !seen.iter().zip(magic).all(|(seen, wanted)| *seen == wanted) {
        return Err(io::Error::other("no gzip header"));
    }
    let Some(&flags) = seen.get(3) else { return Ok(None) };
    let mut end = 10;
    if flags & GZIP_EXTRA != 0 {
        let Some(&[low, high]) = seen.get(end..end + 2) else { return Ok(None) };
        end += 2 + usize::from(u16::from_le_bytes([low, high]));
    }
    for text in [GZIP_NAME, GZIP_COMMENT] {
        if flags & text != 0 {
            let zero = seen.get(end..).and_then(|rest| memchr::memchr(0, rest));
            let Some(zero) = zero else { return Ok(None) };
            end += zero + 1;
        }
    }
    if flags & GZIP_HEADER_CRC != 0 {
        end += 2;
    }
    Ok((end <= seen.len()).then_some(end))
}

/// Deflated data, with the zlib wrapper that the standard asks for or, as many send it, without.
enum Deflate {
    /// The first two bytes tell which.
    Probe(Vec<u8>),
    Data(Box<Decompress>),
    Done,
}

impl Deflate {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize)> {
        match self {
            Deflate::Probe(seen) => {
                let read = input.len().min(2 - seen.len());
                seen.extend_from_slice(&input[..read]);
                let &mut [first, second] = &mut seen[..] else { return Ok((read, 0)) };
                let check = u16::from_be_bytes([first, second]).is_multiple_of(31);
                let mut inflater = Box::new(Decompress::new(first & 0x0f == 8 && check));
                // Two bytes alone can stand for a few bytes of data.
                let (_, written, ended) = inflate(&mut inflater, &[first, second], output)?;
                *self = if ended { Deflate::Done } else { Deflate::Data(inflater) };
                Ok((read, written))
            }
            Deflate::Data(inflater) => {
                let (read, written, ended) = inflate(inflater, input, output)?;
                if ended {
                    *self = Deflate::Done;
                }
                Ok((read, written))
            }
            Deflate::Done if input.is_empty() => Ok((0, 0)),
            Deflate::Done => Err(io::Error::other("something follows the compressed data")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;

    fn expand(name: &str, chunks: &[&[u8]], bytes_max: u64) -> Result<Vec<u8>, Code> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_str(name).unwrap());
        let expander = Expander::for_answer(&headers, bytes_max).map_err(|e| e.code)?;
        let mut expander = expander.unwrap();
        let mut out = Vec::new();
        for chunk in chunks {
            expander.feed(Bytes::copy_from_slice(chunk));
            while let Some(bytes) = expander.next().map_err(|e| e.code)? {
                out.extend_from_slice(&bytes);
            }
        }
        expander.end().map_err(|e| e.code)?;
        Ok(out)
    }

    /// Compressed with a flush behind each part: where each part ends.
    fn compressed(name: &str, parts: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
        fn run<W: Write>(mut w: W, parts: &[&[u8]], len: impl Fn(&W) -> usize) -> (W, Vec<usize>) {
            let mut ends = Vec::new();
            for part in parts {
                w.write_all(part).unwrap();
                w.flush().unwrap();
                ends.push(len(&w));
            }
            (w, ends)
        }
        let level = Compression::default();
        match name {
            "gzip" => {
                let (w, ends) = run(GzEncoder::new(vec![], level), parts, |w| w.get_ref().len());
                (w.finish().unwrap(), ends)
            }
            "br" => {
                let encoder = brotli::CompressorWriter::new(vec![], 4096, 5, 22);
                let (w, ends) = run(encoder, parts, |w| w.get_ref().len());
                (w.into_inner(), ends)
            }
            "deflate" => {
                let (w, ends) = run(ZlibEncoder::new(vec![], level), parts, |w| w.get_ref().len());
                (w.finish().unwrap(), ends)
            }
            "raw" => {
                let encoder = DeflateEncoder::new(vec![], level);
                let (w, ends) = run(encoder, parts, |w| w.get_ref().len());
                (w.finish().unwrap(), ends)
            }
            _ => {
                let encoder = zstd::Encoder::new(vec![], 3).unwrap();
                let (w, ends) = run(encoder, parts, |w| w.get_ref().len());
                (w.finish().unwrap(), ends)
            }
        }
    }

    const CODINGS: [(&str, &str); 5] = [
        ("br", "br"),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("raw", "deflate"),
        ("zstd", "zstd"),
    ];

    #[test]
    fn every_coding_comes_back_however_it_is_cut() {
        let text: Vec<u8> = (0..100_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        for (made, named) in CODINGS {
            let (bytes, _) = compressed(made, &[&text]);
            assert_eq!(expand(named, &[&bytes], 1 << 30).as_ref(), Ok(&text), "{made}");
            let small: Vec<&[u8]> = bytes.chunks(7).collect();
            assert_eq!(expand(named, &small, 1 << 30).as_ref(), Ok(&text), "{made}");
            let short = &bytes[..bytes.len() - 3];
            assert_eq!(expand(named, &[short], 1 << 30), Err(Code::UpstreamTruncated), "{made}");
        }
        assert_eq!(expand("gzip", &[], 10), Ok(vec![]));
    }

    #[test]
    fn a_flushed_part_is_given_before_the_next_one_comes() {
        for (made, named) in CODINGS {
            let parts: Vec<&[u8]> = vec![b"data: one\n\n", b"data: two\n\n", b"data: three\n\n"];
            let (bytes, ends) = compressed(made, &parts);
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(named));
            let mut expander = Expander::for_answer(&headers, 1 << 20).unwrap().unwrap();
            let mut from = 0;
            for (part, end) in parts.iter().zip(ends) {
                expander.feed(Bytes::copy_from_slice(&bytes[from..end]));
                from = end;
                let mut out = Vec::new();
                while let Some(bytes) = expander.next().unwrap() {
                    out.extend_from_slice(&bytes);
                }
                assert_eq!(out, *part, "{made}");
            }
        }
    }

    #[test]
    fn bombs_and_nonsense_are_refused() {
        let zeros = vec![0; 32 << 20];
        for (made, named) in CODINGS {
            let (bomb, _) = compressed(made, &[&zeros]);
            assert!(bomb.len() < 64 << 10);
            assert_eq!(expand(named, &[&bomb], 1 << 30), Err(Code::UpstreamTooLarge), "{made}");
            let (small, _) = compressed(made, &[&zeros[..2000]]);
            assert_eq!(expand(named, &[&small], 1999), Err(Code::UpstreamTooLarge), "{made}");
            assert_eq!(expand(named, &[&small], 2000).unwrap().len(), 2000, "{made}");
        }
        for name in ["br", "gzip", "zstd", "deflate"] {
            let nonsense = expand(name, &[b"data: {}\n\ndata: {}\n\n"], 1 << 20);
            assert_eq!(nonsense, Err(Code::UpstreamEncoding), "{name}");
        }
        let (mut bytes, _) = compressed("gzip", &[b"hello"]);
        let at = bytes.len() - 5;
        bytes[at] ^= 1;
        assert_eq!(expand("gzip", &[&bytes], 100), Err(Code::UpstreamEncoding));
        assert_eq!(expand("compress", &[], 100), Err(Code::UpstreamEncoding));
    }

    #[test]
    fn gzip_headers_may_hold_fields_and_members_follow() {
        let (plain, _) = compressed("gzip", &[b"one"]);
        let mut bytes = plain.clone();
        let fields = b"\x03\x00abcname\0comment\0\x12\x34";
        bytes[3] = GZIP_EXTRA | GZIP_NAME | GZIP_COMMENT | GZIP_HEADER_CRC;
        bytes.splice(10..10, fields.iter().copied());
        bytes.extend_from_slice(&plain);
        let cut: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(expand("gzip", &cut, 100).unwrap(), b"oneone");
    }
}
