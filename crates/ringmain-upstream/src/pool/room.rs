//! A set of small numbers whose least is found in nanoseconds.

/// Bits, and above them one bit for each word that has any.
#[derive(Debug)]
pub(super) struct Room {
    words: Vec<u64>,
    summary: Vec<u64>,
}

impl Room {
    /// An empty set of numbers below `size`.
    pub fn new(size: usize) -> Room {
        let words = size.div_ceil(64);
        Room { words: vec![0; words], summary: vec![0; words.div_ceil(64)] }
    }

    pub fn insert(&mut self, number: usize) {
        let word = number / 64;
        self.words[word] |= 1 << (number % 64);
        self.summary[word / 64] |= 1 << (word % 64);
    }

    pub fn remove(&mut self, number: usize) {
        let word = number / 64;
        self.words[word] &= !(1 << (number % 64));
        if self.words[word] == 0 {
            self.summary[word / 64] &= !(1 << (word % 64));
        }
    }

    /// The least number in the set. Bound: one look per 4,096 numbers, and one more.
    pub fn first(&self) -> Option<usize> {
        let at = self.summary.iter().position(|bits| *bits != 0)?;
        let word = at * 64 + self.summary[at].trailing_zeros() as usize;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_set_that_knows_its_least(
            steps in prop::collection::vec((any::<bool>(), 0_usize..9_000), 0..200),
        ) {
            let (mut room, mut model) = (Room::new(9_000), BTreeSet::new());
            for (insert, number) in steps {
                if insert {
                    room.insert(number);
                    model.insert(number);
                } else {
                    room.remove(number);
                    model.remove(&number);
                }
                prop_assert_eq!(room.first(), model.first().copied());
            }
        }
    }
}
