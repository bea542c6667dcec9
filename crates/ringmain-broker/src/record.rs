//! What one exchange was: filled in along the pipeline, told in one log line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringmain_upstream::Progress;
use ringmain_wire::frame::Usage;
use ringmain_wire::{Sent, Stage};

use crate::attempt::adaptive::{Adaptive, Phase};
use crate::attempt::health::Running;

/// Facts about an exchange; never its content.
pub(crate) struct Record {
    pub started: Instant,
    pub route: String,
    pub endpoint: String,
    pub attempts: u16,
    /// HTTP status of the provider.
    pub status: Option<u16>,
    /// When the first content was written.
    pub first_content: Option<Instant>,
    /// Content frames written.
    pub frames: u64,
    /// Payload bytes of content frames written.
    pub bytes: u64,
    /// Tokens in and out, if the answer told.
    pub tokens: Option<u64>,
    /// How far the present attempt has come.
    pub progress: Progress,
    /// Whether a provider may have seen one of the attempts before.
    pub sent: Sent,
    /// The present attempt, for the health of its endpoint.
    pub running: Option<Running>,
    /// What the limits of the route learn from.
    pub adaptive: Option<Arc<Adaptive>>,
    /// When the phase began that runs now, where limits learn from it.
    pub phase_began: Instant,
    /// Longest time between two pieces of content, where limits learn from it.
    pub longest_gap: Option<Duration>,
    /// It was judged, and waits for its turn.
    pub is_admitting: bool,
    /// The answer of this attempt is the one that the caller is given: nothing is tried again.
    pub is_settled: bool,
    /// Whether a request was made upstream.
    pub is_dispatched: bool,
    /// Who answers is not the broker's own: a caller may play both parts, and pays nothing.
    pub is_free: bool,
    /// How far a producer has come with it, for an exchange that one answers.
    pub produced: Option<(Stage, Sent)>,
}

impl Record {
    pub fn new() -> Record {
        let started = Instant::now();
        Record {
            started,
            route: String::new(),
            endpoint: String::new(),
            attempts: 0,
            status: None,
            first_content: None,
            frames: 0,
            bytes: 0,
            tokens: None,
            progress: Progress::default(),
            sent: Sent::No,
            running: None,
            adaptive: None,
            phase_began: started,
            longest_gap: None,
            is_admitting: false,
            is_settled: false,
            is_dispatched: false,
            is_free: false,
            produced: None,
        }
    }

    pub fn route(&mut self, route: &str) {
        route.clone_into(&mut self.route);
    }

    /// A producer is asked for: nothing reached one yet.
    pub fn producer(&mut self, name: &str) {
        name.clone_into(&mut self.endpoint);
        self.produced = Some((Stage::Admit, Sent::No));
    }

    /// An attempt begins.
    pub fn target(&mut self, route: &str, endpoint: &str) {
        self.route(route);
        endpoint.clone_into(&mut self.endpoint);
        self.attempts += 1;
        self.is_dispatched = true;
        self.status = None;
        // What another attempt came to is no measure of this one.
        self.tokens = None;
        self.produced = None;
        if self.adaptive.is_some() {
            self.phase_began = Instant::now();
        }
    }

    /// The head of a good answer came.
    pub fn had_head(&mut self) {
        self.phase_is_over(Phase::Head);
    }

    /// Content came, in the sense of retries and time limits: no mere sign of life.
    pub fn had_content(&mut self) {
        let is_first = self.first_content.is_none();
        self.first_content.get_or_insert_with(Instant::now);
        match is_first {
            true => self.phase_is_over(Phase::FirstContent),
            false => self.gap_is_over(),
        }
        if let Some(running) = self.running.as_mut().filter(|_| is_first) {
            running.had_content();
        }
    }

    fn phase_is_over(&mut self, phase: Phase) {
        if let Some(adaptive) = &self.adaptive {
            let now = Instant::now();
            adaptive.saw(phase, now.saturating_duration_since(self.phase_began));
            self.phase_began = now;
        }
    }

    /// One answer is one sample, its longest gap: a sample for each piece would be of the many
    /// that come together, and say nothing of the pauses between them.
    fn gap_is_over(&mut self) {
        if self.adaptive.is_some() {
            let now = Instant::now();
            let gap = now.saturating_duration_since(self.phase_began);
            self.longest_gap = self.longest_gap.max(Some(gap));
            self.phase_began = now;
        }
    }

    /// The exchange is over: what its limits learn of it as a whole.
    pub fn is_over(&mut self) {
        if let (Some(adaptive), Some(gap)) = (&self.adaptive, self.longest_gap.take()) {
            adaptive.saw(Phase::Idle, gap);
        }
    }

    /// A frame of a content kind was written.
    pub fn delivered(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }

    /// The answer told its usage, if it did.
    pub fn used(&mut self, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        let sum = usage.input.saturating_add(usage.output);
        let told = if usage.total > 0 { usage.total } else { sum };
        self.tokens = (told > 0).then_some(told).or(self.tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmain_policy::ExchangeLimits;
    use ringmain_policy::timeouts::AdaptiveRule;

    use crate::alarm::Expired;

    /// However many pieces an answer has, and also when its last pause is what ended it.
    #[test]
    fn one_exchange_is_one_sample_of_the_pauses_between_contents() {
        let floor = Duration::from_millis(1);
        let rule = AdaptiveRule { floor, samples_min: 3, ..AdaptiveRule::default() };
        let adaptive = Arc::new(Adaptive::new(rule));
        let usual = ExchangeLimits::default();
        let exchange = |expired: Option<Expired>| {
            let mut record = Record::new();
            record.adaptive = Some(adaptive.clone());
            (0..10).for_each(|_| record.had_content());
            if let Some(expired) = expired {
                record.expired(expired);
            }
            record.is_over();
            record.is_over();
            adaptive.limits(usual).idle
        };
        assert_eq!(exchange(None), usual.idle);
        assert_eq!(exchange(Some(Expired::Idle(Duration::from_secs(1)))), usual.idle);
        assert_ne!(exchange(None), usual.idle, "the third");
    }
}
