//! Word accesses and copies, compared with a plain vector.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use ringmain_shm::{Compat, Control, Listener, OwnSegment, ReadMap, Trust, TrustedMap, WriteMap};

const BYTES: usize = 4096;

fn maps() -> (WriteMap, ReadMap) {
    let own = OwnSegment::create("map", BYTES, u32::MAX - 1, &Compat::default()).unwrap();
    let read = ReadMap::attach(own.fd, BYTES).unwrap();
    (own.map, read)
}

/// Of a test that is both sides, and keeps the rules on both.
fn trust() -> Trust {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _listener = Listener::bind(&path, 0o600, None).unwrap();
    Control::connect_trusting(&path).unwrap().1
}

#[test]
fn map_copies_every_offset_and_length_like_a_vector() {
    let own = OwnSegment::create("map", BYTES, u32::MAX - 1, &Compat::default()).unwrap();
    let (write, fd) = (own.map, own.fd.try_clone().unwrap());
    let read = ReadMap::attach(own.fd, BYTES).unwrap();
    let mut model = vec![0u8; BYTES];
    let mut value = 0u8;
    for base in [0, BYTES - 64] {
        for offset in base..base + 24 {
            for len in 0..=40 {
                let bytes: Vec<u8> = (0..len)
                    .map(|_| {
                        value = value.wrapping_mul(5).wrapping_add(17);
                        value
                    })
                    .collect();
                write.copy_in(offset, &bytes);
                model[offset..offset + len].copy_from_slice(&bytes);
                let mut out = vec![0xaa; len];
                read.copy_out(offset, &mut out);
                assert_eq!(out, bytes, "{len} bytes at {offset}");
            }
        }
    }
    let mut all = vec![0; BYTES];
    write.copy_out(0, &mut all);
    assert_eq!(all, model);
    assert_eq!(TrustedMap::attach(fd, BYTES, &trust()).unwrap().bytes(0, BYTES), model);
}

#[test]
fn map_words_are_the_bytes_in_order() {
    let (write, read) = maps();
    write.store(8, u64::from_ne_bytes(*b"Ringmain"));
    write.store_release(16, 3);
    let mut out = [0; 8];
    read.copy_out(8, &mut out);
    assert_eq!(&out, b"Ringmain");
    assert_eq!((read.load(16), write.load(16)), (3, 3));
    assert_eq!((read.len(), write.len()), (BYTES, BYTES));
}

#[test]
fn map_outlives_its_first_handle() {
    let (write, read) = maps();
    let clone = write.clone();
    drop(write);
    clone.store(0, 1);
    assert_eq!(read.load(0), 1);
}

#[test]
#[should_panic(expected = "access of 8 bytes at 4096 in a segment of 4096 bytes")]
fn map_refuses_a_word_behind_its_end() {
    let _ = maps().1.load(BYTES);
}

#[test]
#[should_panic(expected = "access of 8 bytes at 18446744073709551608")]
fn map_refuses_an_offset_that_wraps() {
    let _ = maps().1.load(usize::MAX & !7);
}

#[test]
#[should_panic(expected = "word access at 4, not a multiple of 8")]
fn map_refuses_a_word_across_two() {
    maps().0.store(4, 1);
}

#[test]
#[should_panic(expected = "access of 2 bytes at 4095")]
fn map_refuses_a_copy_over_its_end() {
    maps().0.copy_in(BYTES - 1, &[0; 2]);
}

#[test]
#[should_panic(expected = "access of 18446744073709551615 bytes")]
fn map_refuses_a_slice_of_any_length() {
    let own = OwnSegment::create("map", BYTES, u32::MAX - 1, &Compat::default()).unwrap();
    let map = TrustedMap::attach(own.fd, BYTES, &trust()).unwrap();
    let _ = map.bytes(1, usize::MAX);
}

#[cfg(feature = "lend")]
mod lending {
    use std::sync::Arc;
    use std::thread;

    use super::maps;
    use ringmain_shm::lend;

    #[test]
    fn map_lends_in_place_and_drops_the_guard_with_the_last_clone() {
        let (write, read) = maps();
        write.copy_in(64, b"a body on its way");
        let guard = Arc::new(());
        let body = lend(&read, 64, 17, guard.clone());
        assert_eq!(body, b"a body on its way"[..]);
        assert_eq!(body.as_ptr().addr(), read.address_range().start + 64);
        let part = body.slice(2..6);
        drop((body, read));
        assert_eq!((&part[..], Arc::strong_count(&guard)), (&b"body"[..], 2));
        thread::spawn(move || drop(part)).join().unwrap();
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[test]
    #[should_panic(expected = "access of 5000 bytes at 0")]
    fn map_lends_nothing_behind_its_end() {
        let read = maps().1;
        let _ = lend(&read, 0, 5000, ());
    }
}
