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
    fn it_is_first_fit_by_lines(steps in prop::collection::vec(step(), 0..60)) {
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
