//! What one exchange was: filled in along the pipeline, told in one log line.

use std::sync::Arc;
use std::time::Duration;

use ringmain_shm::monotonic_ns;
use ringmain_upstream::Progress;
use ringmain_wire::frame::Usage;
use ringmain_wire::{Sent, Stage};

use crate::attempt::adaptive::{Adaptive, Phase};
use crate::attempt::health::Running;

/// Facts about an exchange; never its content.
pub(crate) struct Record {
    /// When it began, ns of the monotonic clock.
    pub started_ns: u64,
    pub route: String,
    pub endpoint: String,
    pub attempts: u16,
    /// HTTP status of the provider.
    pub status: Option<u16>,
    /// When the first content was written.
    pub first_content_ns: Option<u64>,
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
    pub phase_began_ns: u64,
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
        let started_ns = monotonic_ns();
        Record {
            started_ns,
            route: String::new(),
            endpoint: String::new(),
            attempts: 0,
            status: None,
            first_content_ns: None,
            frames: 0,
            bytes: 0,
            tokens: None,
            progress: Progress::new(started_ns),
            sent: Sent::No,
            running: None,
            adaptive: None,
            phase_began_ns: started_ns,
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
            self.phase_began_ns = self.progress.now_ns();
        }
    }

    /// The head of a good answer came.
    pub fn had_head(&mut self) {
        self.phase_is_over(Phase::Head, self.progress.now_ns());
    }

    /// Content came, in the sense of retries and time limits: no mere sign of life.
    pub fn had_content(&mut self) {
        let is_first = self.first_content_ns.is_none();
        let now_ns = self.progress.now_ns();
        self.first_content_ns.get_or_insert(now_ns);
        match is_first {
            true => self.phase_is_over(Phase::FirstContent, now_ns),
            false => self.gap_is_over(now_ns),
        }
        if let Some(running) = self.running.as_mut().filter(|_| is_first) {
            running.had_content();
        }
    }

    fn phase_is_over(&mut self, phase: Phase, now_ns: u64) {
        if let Some(adaptive) = &self.adaptive {
            adaptive.saw(phase, since(self.phase_began_ns, now_ns));
            self.phase_began_ns = now_ns;
        }
    }

    /// One answer is one sample, its longest gap: a sample for each piece would be of the many
    /// that come together, and say nothing of the pauses between them.
    fn gap_is_over(&mut self, now_ns: u64) {
        if self.adaptive.is_some() {
            let gap = since(self.phase_began_ns, now_ns);
            self.longest_gap = self.longest_gap.max(Some(gap));
            self.phase_began_ns = now_ns;
        }
    }

    /// From its begin until this time of the monotonic clock.
    pub fn until(&self, at_ns: u64) -> Duration {
        since(self.started_ns, at_ns)
    }

    /// How long it has lasted by now.
    pub fn lasted(&self) -> Duration {
        self.until(monotonic_ns())
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

fn since(then_ns: u64, now_ns: u64) -> Duration {
    Duration::from_nanos(now_ns.saturating_sub(then_ns))
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
