//! Whose turn it is between whoever writes an answer and the server that takes it to its caller.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Odd while something was handed to the server that it has not come back from: the same odd
/// number for long means that the caller does not read.
#[derive(Debug, Default)]
pub(crate) struct Turns(AtomicU64);

impl Turns {
    /// The server has taken something and owes a turn until it asks for more.
    pub fn given(&self) {
        self.0.fetch_or(1, Relaxed);
    }

    /// The server asks for more.
    pub fn asked(&self) {
        let turns = self.count();
        if turns % 2 == 1 {
            self.0.store(turns + 1, Relaxed);
        }
    }

    /// Changes with every turn.
    pub fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_odd_while_the_server_owes_a_turn() {
        let turns = Turns::default();
        let step = |step: fn(&Turns)| {
            step(&turns);
            turns.count()
        };
        assert_eq!([step(Turns::asked), step(Turns::given), step(Turns::given)], [0, 1, 1]);
        assert_eq!([step(Turns::asked), step(Turns::asked), step(Turns::given)], [2, 2, 3]);
    }
}
