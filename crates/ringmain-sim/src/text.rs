//! Generated text that both ends can compute.
//!
//! The provider streams it and the consumer verifies every byte of it, with nothing shared but a
//! seed. The pieces hold blanks, line breaks, characters that JSON escapes, CJK and emoji, so a
//! consumer that cuts UTF-8 or JSON at the wrong place is found out.

/// Pieces in one natural token.
const PIECES: [&str; 48] = [
    " the",
    " ring",
    " of",
    " water",
    " feeds",
    " every",
    " house",
    " and",
    " a",
    " main",
    " valve",
    " runs",
    " under",
    " streets",
    " where",
    " pressure",
    " holds",
    ",",
    ".",
    "\n",
    " \"so\"",
    "\\n",
    "\t",
    " {",
    "}",
    " é",
    " naïve",
    " Straße",
    " Ω",
    " жив",
    " 水",
    "道",
    "管",
    "東京",
    " 日本語",
    "한국",
    " 🚰",
    "🌊",
    "👩‍🚀",
    " 🇯🇵",
    " 0",
    "1",
    " 42",
    "-",
    "/",
    " end",
    " é",
    " x",
];

/// Every so many tokens the text carries the index itself, so that a gap shows at once.
const MARK_EVERY: usize = 16;

/// One round of a mixing function over 64 bits: the same input gives the same output everywhere.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The text of token `index`. `size` 0: of natural length; else exactly `size` bytes.
pub fn token_text(seed: u64, index: usize, size: usize) -> String {
    let mut out = String::with_capacity(size.max(16));
    push_token(&mut out, seed, index, size);
    out
}

/// Appends the text of token `index`; see [`token_text`].
pub fn push_token(out: &mut String, seed: u64, index: usize, size: usize) {
    let mut draw = mix(seed ^ mix(index as u64));
    if size == 0 {
        out.push_str(piece(draw));
        if index % MARK_EVERY == MARK_EVERY - 1 {
            out.push_str(" #");
            push_number(out, index);
        }
        return;
    }
    let end = out.len() + size;
    while out.len() < end {
        let next = piece(draw);
        if next.len() <= end - out.len() {
            out.push_str(next);
        } else {
            out.push('.');
        }
        draw = mix(draw);
    }
}

/// The first `n` tokens in a row: what an answer without reasoning and tools says.
pub fn expected_text(seed: u64, n: usize, size: usize) -> String {
    let mut out = String::new();
    for index in 0..n {
        push_token(&mut out, seed, index, size);
    }
    out
}

/// The seed of the reasoning that precedes an answer with this seed.
pub fn reasoning_seed(seed: u64) -> u64 {
    mix(seed ^ 0x7265_6173)
}

/// The arguments (JSON text) of tool call `call` of an answer with this seed.
pub fn tool_arguments(seed: u64, call: usize) -> String {
    let draw = mix(seed ^ mix(0x746f_6f6c + call as u64));
    format!(
        "{{\"city\":\"東京 \\\"{call}\\\"\",\"number\":{},\"deep\":{{\"ok\":true}}}}",
        draw >> 40
    )
}

/// The seed that stands for a correlation id.
pub fn seed_of(id: &str) -> u64 {
    hash_on(HASH_EMPTY, id.as_bytes())
}

/// The running hash (FNV-1a) of no bytes.
pub const HASH_EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// Carries a running hash over more bytes. How the bytes are cut does not matter, so two sides
/// that saw the same bytes in other pieces agree.
pub fn hash_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// A hash of one whole body, eight bytes a step: a body of megabytes must not cost milliseconds.
/// Against accidents only, not against an adversary.
pub fn hash_whole(bytes: &[u8]) -> u64 {
    let mut hash = mix(bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash =
            (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9fb2_1c65_1e98_df25);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash ^ u64::from_le_bytes(last))
}

/// Puts the time of sending in front of a token's text: 16 hex digits and a colon.
pub fn push_stamp(out: &mut String, time_ns: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for shift in (0..16).rev() {
        out.push(char::from(DIGITS[(time_ns >> (shift * 4)) as usize & 15]));
    }
    out.push(':');
}

/// Splits a stamped token into the time of sending and its text.
pub fn split_stamp(token: &str) -> Option<(u64, &str)> {
    let (stamp, text) = token.split_at_checked(16)?;
    Some((u64::from_str_radix(stamp, 16).ok()?, text.strip_prefix(':')?))
}

fn piece(draw: u64) -> &'static str {
    PIECES[(draw % PIECES.len() as u64) as usize]
}

fn push_number(out: &mut String, number: usize) {
    if number >= 10 {
        push_number(out, number / 10);
    }
    out.push(char::from(b'0' + (number % 10) as u8));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_exactly_its_size() {
        for size in [1, 2, 3, 4, 7, 16, 100, 4096] {
            for index in 0..50 {
                assert_eq!(token_text(9, index, size).len(), size);
            }
        }
    }

    #[test]
    fn text_is_the_same_again_and_another_with_another_seed() {
        assert_eq!(expected_text(1, 200, 0), expected_text(1, 200, 0));
        assert_ne!(expected_text(1, 200, 0), expected_text(2, 200, 0));
        assert!(!expected_text(3, 100, 0).is_ascii());
        assert!(expected_text(3, 16, 0).ends_with("#15"));
    }

    #[test]
    fn cutting_does_not_change_the_running_hash() {
        let bytes = expected_text(5, 50, 0).into_bytes();
        let whole = hash_on(HASH_EMPTY, &bytes);
        for at in 0..bytes.len() {
            assert_eq!(hash_on(hash_on(HASH_EMPTY, &bytes[..at]), &bytes[at..]), whole);
        }
    }

    #[test]
    fn a_whole_hash_sees_every_byte() {
        let mut bytes = vec![7u8; 37];
        let hash = hash_whole(&bytes);
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_ne!(hash_whole(&bytes), hash, "byte {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn a_stamp_comes_back() {
        let mut token = String::new();
        push_stamp(&mut token, 0x1234_5678_9abc);
        token.push_str("水:x");
        assert_eq!(split_stamp(&token), Some((0x1234_5678_9abc, "水:x")));
        assert_eq!(split_stamp("水水水水水水水"), None);
    }
}
