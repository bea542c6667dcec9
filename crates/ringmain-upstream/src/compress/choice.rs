//! Which content coding costs least at one endpoint, learned from what requests took: decided
//! without clock or chance.
//!
//! The cost of a request is the time from before its compression to the head of its answer, per
//! byte of its body. The answer takes its own time, which has nothing to do with the coding and
//! differs from request to request; so the least cost of late is compared and not the mean: it is
//! what remains when the answer takes no longer than it must.

use std::time::Duration;

use super::{Coding, per_byte};

/// Classes of size, each four times the one before, the first below 16 KiB.
const CLASSES: usize = 6;
const FIRST_CLASS_BYTES: usize = 16 * 1024;
/// Times that each coding is tried before costs decide.
const TRIES: u32 = 3;
/// One request in so many tries the coding that was tried least of late.
const LOOK_AROUND: u32 = 32;
/// What was once cheap is forgotten by this share with each request.
const FORGET: u64 = 50;

/// Codings that an endpoint may take, `None` for none at all, and what they have cost.
#[derive(Debug)]
pub(super) struct Choice {
    options: Vec<Choosable>,
}

#[derive(Debug)]
struct Choosable {
    coding: Option<Coding>,
    is_refused: bool,
    classes: [Cost; CLASSES],
}

#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Requests that chose this one, and all requests when the last of them did.
    chosen: u32,
    chosen_at: u32,
    /// Least picoseconds per byte of late.
    least: Option<u64>,
}

impl Choice {
    pub fn among(codings: &[Option<Coding>]) -> Choice {
        let options = codings.iter().map(|coding| Choosable {
            coding: *coding,
            is_refused: false,
            classes: [Cost::default(); CLASSES],
        });
        Choice { options: options.collect() }
    }

    /// The coding for a body of this size.
    pub fn choose(&mut self, bytes: usize) -> Option<Coding> {
        let class = class_of(bytes);
        let turn = self.options.iter().map(|option| option.classes[class].chosen).sum::<u32>();
        let open = self.options.iter_mut().filter(|option| !option.is_refused);
        let chosen = open.min_by_key(|option| {
            let cost = &option.classes[class];
            match () {
                () if cost.chosen < TRIES => (0, u64::from(cost.chosen)),
                () if turn % LOOK_AROUND == LOOK_AROUND - 1 => (1, u64::from(cost.chosen_at)),
                () => (1, cost.least.unwrap_or(u64::MAX)),
            }
        })?;
        let cost = &mut chosen.classes[class];
        cost.chosen = cost.chosen.saturating_add(1);
        cost.chosen_at = turn;
        chosen.coding
    }

    /// A request with a body of this size has taken so long.
    pub fn took(&mut self, coding: Option<Coding>, bytes: usize, spent: Duration) {
        let seen = per_byte(spent, bytes);
        let cost = self.options.iter_mut().find(|option| option.coding == coding);
        if let Some(option) = cost {
            let cost = &mut option.classes[class_of(bytes)];
            let known = cost.least.map_or(u64::MAX, |least| least.saturating_add(least / FORGET));
            cost.least = Some(seen.min(known));
        }
    }

    /// Whether a request with this coding was ever taken.
    pub fn was_taken(&self, coding: Coding) -> bool {
        let mut options = self.options.iter().filter(|option| option.coding == Some(coding));
        options.any(|option| option.classes.iter().any(|cost| cost.least.is_some()))
    }

    /// The endpoint does not take this coding, at no size.
    pub fn refused(&mut self, coding: Coding) {
        let coding = Some(coding);
        for option in self.options.iter_mut().filter(|option| option.coding == coding) {
            option.is_refused = true;
        }
    }
}

fn class_of(bytes: usize) -> usize {
    let class = (bytes / FIRST_CLASS_BYTES).checked_ilog2().map_or(0, |log| log as usize / 2 + 1);
    class.min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Option<Coding>; 3] = [None, Some(Coding::Gzip), Some(Coding::Zstd)];

    /// How often each coding is chosen of `rounds` requests, when each takes what `cost` says.
    fn run(
        choice: &mut Choice,
        rounds: u64,
        bytes: usize,
        cost: impl Fn(Option<Coding>) -> u64,
    ) -> [u64; 3] {
        let mut chosen = [0; 3];
        for round in 0..rounds {
            let coding = choice.choose(bytes);
            chosen[ALL.iter().position(|option| *option == coding).unwrap()] += 1;
            // The answer itself takes now more, now less.
            let noise = (round * 7919 % 13) * 900;
            choice.took(coding, bytes, Duration::from_micros(cost(coding) + noise));
        }
        chosen
    }

    #[test]
    fn the_cheapest_is_chosen_by_size() {
        let mut choice = Choice::among(&ALL);
        // Small bodies: compression only costs. Large ones: the way is what costs.
        let small = run(&mut choice, 1000, 5_000, |coding| coding.map_or(100, |_| 400));
        assert!(small[0] > 800, "{small:?}");
        let large = run(&mut choice, 1000, 1 << 20, |coding| match coding {
            None => 50_000,
            Some(Coding::Zstd) => 8_000,
            Some(_) => 20_000,
        });
        assert!(large[2] > 800, "{large:?}");
        // And what changes is found out again.
        let moved = run(&mut choice, 2000, 1 << 20, |coding| match coding {
            None => 1_000,
            Some(Coding::Zstd) => 30_000,
            Some(_) => 20_000,
        });
        assert!(moved[0] > 1500, "{moved:?}");
    }

    #[test]
    fn a_refused_coding_is_not_chosen_again() {
        let mut choice = Choice::among(&ALL);
        choice.refused(Coding::Gzip);
        choice.refused(Coding::Zstd);
        assert_eq!(run(&mut choice, 100, 1 << 20, |_| 1), [100, 0, 0]);
        let mut only = Choice::among(&[Some(Coding::Gzip)]);
        assert!(!only.was_taken(Coding::Gzip));
        only.took(Some(Coding::Gzip), 5_000, Duration::from_millis(1));
        assert!(only.was_taken(Coding::Gzip));
        assert_eq!(only.choose(5_000), Some(Coding::Gzip));
        only.refused(Coding::Gzip);
        assert_eq!(only.choose(5_000), None);
    }

    #[test]
    fn classes_grow_by_four() {
        let classes = [0, 16_383, 16_384, 65_535, 65_536, 1 << 18, 1 << 20, 1 << 22, 1 << 30];
        assert_eq!(classes.map(class_of), [0, 0, 1, 1, 2, 3, 4, 5, 5]);
    }
}
