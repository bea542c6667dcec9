//! Where a payload that is too long for one frame is cut.

use ringmain_wire::Kind;

/// Most bytes of one character in UTF-8.
const CHARACTER_BYTES_MAX: usize = 4;

/// Bytes of the first piece: at most `bytes_max`, and for text not inside a character.
///
/// Bytes that are no UTF-8 at all are cut at the bound, so that every piece makes progress.
pub(super) fn first_piece(kind: Kind, payload: &[u8], bytes_max: usize) -> usize {
    if payload.len() <= bytes_max || !kind.is_text() {
        return payload.len().min(bytes_max);
    }
    let lowest = bytes_max.saturating_sub(CHARACTER_BYTES_MAX - 1).max(1);
    (lowest..=bytes_max).rev().find(|&at| starts_character(payload[at])).unwrap_or(bytes_max)
}

fn starts_character(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn property_text_is_cut_between_characters(text in "\\PC{0,40}", bytes_max in 4usize..40) {
            let cut = first_piece(Kind::Delta, text.as_bytes(), bytes_max);
            prop_assert!(text.is_char_boundary(cut));
            prop_assert!(cut <= bytes_max && (cut > 0 || text.is_empty()));
        }

        #[test]
        fn property_any_bytes_make_progress(
            bytes in prop::collection::vec(any::<u8>(), 1..60),
            bytes_max in 1usize..40,
        ) {
            for kind in [Kind::Reasoning, Kind::Body] {
                let cut = first_piece(kind, &bytes, bytes_max);
                prop_assert!(cut > 0 && cut <= bytes_max.min(bytes.len()));
            }
        }
    }

    #[test]
    fn bytes_are_cut_at_the_bound() {
        assert_eq!(first_piece(Kind::Event, &[0x80; 50], 32), 32);
        assert_eq!(first_piece(Kind::Delta, &[0x80; 50], 32), 32);
    }
}
