use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Take(u64),
    Shrink(prop::sample::Index, u64),
    GiveBack(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..3000).prop_map(Step::Take),
        (any::<prop::sample::Index>(), 0u64..3000).prop_map(|(i, n)| Step::Shrink(i, n)),
        any::<prop::sample::Index>().prop_map(Step::GiveBack),
    ]
}

const BYTES: u64 = 16 * 1024;

/// The plain model: one flag per line.
fn lowest_fit(taken: &[bool], lines: usize) -> Option<usize> {
    (0..=taken.len().checked_sub(lines)?).find(|&at| !taken[at..at + lines].contains(&true))
}

fn lines_of(bytes: u64) -> usize {
    bytes.max(1).div_ceil(64) as usize
}

fn range(chunk: &Chunk) -> std::ops::Range<usize> {
    (chunk.offset() / 64) as usize..((chunk.offset() + chunk.bytes()) / 64) as usize
}

proptest! {
    #[test]
    fn property_it_is_first_fit_by_lines(steps in prop::collection::vec(step(), 0..60)) {
        let mut arena = Arena::new(BYTES);
        let mut taken = vec![false; (BYTES / 64) as usize];
        let mut out: Vec<Chunk> = Vec::new();
        for step in steps {
            match step {
                Step::Take(bytes) => {
                    let chunk = arena.take(bytes);
                    let fit = lowest_fit(&taken, lines_of(bytes));
                    prop_assert_eq!(chunk.as_ref().map(|c| c.offset() as usize / 64), fit);
                    if let Some(chunk) = chunk {
                        prop_assert!(chunk.bytes() >= bytes);
                        taken[range(&chunk)].fill(true);
                        out.push(chunk);
                    }
                }
                Step::Shrink(index, bytes) if !out.is_empty() => {
                    let chunk = index.get_mut(&mut out);
                    taken[range(chunk)].fill(false);
                    arena.shrink(chunk, bytes);
                    taken[range(chunk)].fill(true);
                }
                Step::GiveBack(index) if !out.is_empty() => {
                    let chunk = out.swap_remove(index.index(out.len()));
                    taken[range(&chunk)].fill(false);
                    prop_assert_eq!(arena.give_back(chunk), None);
                }
                _ => (),
            }
            let free = taken.iter().filter(|taken| !**taken).count() as u64 * 64;
            prop_assert_eq!(arena.free_bytes(), free);
        }
        out.into_iter().for_each(|chunk| _ = arena.give_back(chunk));
        prop_assert!(arena.is_whole());
        prop_assert_eq!(arena.free, vec![0..BYTES]);
    }
}

/// Takes and gives back at any scale, up to an arena that no session has.
fn large_step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![
        0..4u64 << 20,
        (1u64 << 32) - 200..(1 << 32) + 200,
        (1u64 << 62) - 200..(1 << 62) + 200,
        any::<u64>(),
    ];
    prop_oneof![
        bytes.clone().prop_map(Step::Take),
        (any::<prop::sample::Index>(), bytes).prop_map(|(i, n)| Step::Shrink(i, n)),
        any::<prop::sample::Index>().prop_map(Step::GiveBack),
    ]
}

proptest! {
    /// The plain model: the ranges that are out, in wider numbers. A chunk lies in the arena,
    /// touches no other, and is the lowest that fits; what is punched are whole pages of it.
    #[test]
    fn property_ranges_stay_apart_at_any_scale(
        bytes in prop_oneof![0..1u64 << 24, (1u64 << 32) - 64..(1 << 32) + 64, 1u64 << 62..1 << 63],
        steps in prop::collection::vec(large_step(), 0..60),
    ) {
        let mut arena = Arena::new(bytes);
        let mut out: Vec<Chunk> = Vec::new();
        for step in steps {
            match step {
                Step::Take(bytes) => {
                    let chunk = arena.take(bytes);
                    let whole = u128::from(arena.bytes);
                    let offset = chunk.as_ref().map(|chunk| u128::from(chunk.offset()));
                    prop_assert_eq!(offset, lowest_gap(&out, bytes, whole));
                    out.extend(chunk);
                }
                Step::Shrink(index, bytes) if !out.is_empty() => {
                    let chunk = index.get_mut(&mut out);
                    let before = chunk.bytes();
                    arena.shrink(chunk, bytes);
                    let kept = u128::from(bytes.max(1)).next_multiple_of(64);
                    prop_assert_eq!(u128::from(chunk.bytes()), kept.min(before.into()));
                }
                Step::GiveBack(index) if !out.is_empty() => {
                    let chunk = out.swap_remove(index.index(out.len()));
                    let (from, bytes) = (chunk.offset(), chunk.bytes());
                    let punched = arena.give_back(chunk);
                    prop_assert_eq!(punched.is_some(), bytes > PUNCH_CHUNK_BYTES);
                    if let Some(pages) = punched {
                        prop_assert!(pages.start % PAGE == 0 && pages.end % PAGE == 0);
                        prop_assert!(pages.start - from < PAGE && pages.end <= from + bytes);
                        prop_assert!(from + bytes - pages.end < PAGE);
                    }
                }
                _ => (),
            }
            let taken: u64 = out.iter().map(Chunk::bytes).sum();
            prop_assert_eq!(arena.free_bytes(), arena.bytes - taken);
            prop_assert_eq!(arena.is_whole(), out.is_empty());
        }
    }
}

/// Where the lowest gap of that size between the chunks begins.
fn lowest_gap(out: &[Chunk], bytes: u64, whole: u128) -> Option<u128> {
    let bytes = u128::from(bytes.max(1)).next_multiple_of(64);
    let mut taken: Vec<(u128, u128)> = out
        .iter()
        .map(|chunk| {
            (chunk.offset().into(), u128::from(chunk.offset()) + u128::from(chunk.bytes()))
        })
        .collect();
    taken.sort_unstable();
    taken.push((whole, whole));
    let mut from = 0;
    for (start, end) in taken {
        if start - from >= bytes {
            return Some(from);
        }
        from = end;
    }
    None
}

#[test]
fn nothing_larger_than_the_arena_is_taken() {
    let mut arena = Arena::new(BYTES);
    for bytes in [BYTES + 1, u64::MAX - 63, u64::MAX] {
        assert_eq!(arena.take(bytes), None);
    }
    let chunk = arena.take(BYTES).unwrap();
    assert_eq!(arena.take(0), None);
    assert_eq!(arena.give_back(chunk), None);
    assert!(arena.is_whole());
}

#[test]
fn a_large_chunk_is_punched_by_its_whole_pages() {
    let mut arena = Arena::new(8 << 20);
    let small = arena.take(64).unwrap();
    let large = arena.take((1 << 20) + 64).unwrap();
    assert_eq!(large.offset(), 64);
    let pages = arena.give_back(large).unwrap();
    assert_eq!(pages, 4096..1 << 20);
    assert_eq!(arena.give_back(small), None);
    let exact = arena.take(1 << 20).unwrap();
    assert_eq!(arena.give_back(exact), None, "punched only above the bound");
}

#[test]
fn growing_by_shrink_does_nothing() {
    let mut arena = Arena::new(BYTES);
    let mut chunk = arena.take(128).unwrap();
    arena.shrink(&mut chunk, u64::MAX);
    arena.shrink(&mut chunk, 4096);
    assert_eq!(chunk.bytes(), 128);
}
