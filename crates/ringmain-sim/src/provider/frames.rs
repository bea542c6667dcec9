//! Frames of HTTP/2 that no server library would write here.

const GOAWAY: u8 = 7;
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 8;

/// The highest id that a stream can have.
pub(super) const STREAM_MAX: u32 = u32::MAX >> 1;

/// GOAWAY without an error; `last` is the last stream that is answered.
pub(super) fn goaway(last: u32) -> Vec<u8> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend(0u32.to_be_bytes());
    frame(GOAWAY, 0, 8, &payload)
}

/// The head of a frame of 1 MiB, which nobody has allowed.
pub(super) fn too_big(stream: u32) -> Vec<u8> {
    frame(DATA, stream, 1 << 20, &[0; 64])
}

/// Data that belongs to no stream.
pub(super) fn no_stream() -> Vec<u8> {
    frame(DATA, 0, 4, b"data")
}

/// A window of the connection beyond 2^31 - 1.
pub(super) fn window_overflow() -> Vec<u8> {
    let most = STREAM_MAX.to_be_bytes();
    [frame(WINDOW_UPDATE, 0, 4, &most), frame(WINDOW_UPDATE, 0, 4, &most)].concat()
}

fn frame(kind: u8, stream: u32, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = length.to_be_bytes()[1..].to_vec();
    out.extend([kind, 0]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}
