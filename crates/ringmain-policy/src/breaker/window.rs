//! What a breaker counts: the requests of the last while, in slices.

/// Slices that the window of a breaker is counted in.
pub(super) const SLICES: u64 = 10;

/// Requests and failures of the last while.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// Number of the slice that `slices[newest % SLICES]` counts.
    newest: u64,
    /// Requests and failures.
    slices: [(u32, u32); SLICES as usize],
}

impl Window {
    /// With these counts in one slice.
    pub(super) fn of(slice: u64, requests: u64, failures: u64) -> Window {
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let mut window = Window { newest: slice, ..Window::default() };
        window.slices[(slice % SLICES) as usize] = (count(requests), count(failures));
        window
    }

    pub(super) fn count(&mut self, slice: u64, failed: bool) {
        // A clock that goes backwards counts into the newest slice.
        let behind = slice.saturating_sub(self.newest).min(SLICES);
        for step in 1..=behind {
            self.slices[(self.newest.wrapping_add(step) % SLICES) as usize] = (0, 0);
        }
        if behind == SLICES {
            self.slices = Default::default();
        }
        self.newest = self.newest.max(slice);
        let (requests, failures) = &mut self.slices[(self.newest % SLICES) as usize];
        *requests = requests.saturating_add(1);
        *failures = failures.saturating_add(u32::from(failed));
    }

    pub(super) fn sums(&self) -> (u64, u64) {
        let add = |(a, b), (c, d): &(u32, u32)| (a + u64::from(*c), b + u64::from(*d));
        self.slices.iter().fold((0, 0), add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The window is the plain count of what lies in its slices.
        #[test]
        fn property_the_window_forgets(
            steps in prop::collection::vec((0u64..4, any::<bool>()), 1..80),
        ) {
            let (mut window, mut now, mut all) = (Window::default(), 0u64, Vec::new());
            for (pause, failed) in steps {
                now += pause;
                window.count(now, failed);
                all.push((now, failed));
                let recent = || all.iter().filter(|(at, _)| at + SLICES > now);
                let failures = recent().filter(|(_, failed)| *failed).count() as u64;
                prop_assert_eq!(window.sums(), (recent().count() as u64, failures));
            }
        }
    }
}
