//! What one exchange was: filled in along the pipeline, told in one log line.

use std::time::Instant;

use ringmain_upstream::Progress;
use ringmain_wire::frame::Usage;
use ringmain_wire::{Sent, Stage};

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
    /// Whether a request was made upstream.
    pub is_dispatched: bool,
    /// Who answers is not the broker's own: a caller may play both parts, and pays nothing.
    pub is_free: bool,
    /// How far a producer has come with it, for an exchange that one answers.
    pub produced: Option<(Stage, Sent)>,
}

impl Record {
    pub fn new() -> Record {
        Record {
            started: Instant::now(),
            route: String::new(),
            endpoint: String::new(),
            attempts: 0,
            status: None,
            first_content: None,
            frames: 0,
            bytes: 0,
            tokens: None,
            progress: Progress::default(),
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
    }

    /// Content came, in the sense of retries and time limits: no mere sign of life.
    pub fn had_content(&mut self) {
        self.first_content.get_or_insert_with(Instant::now);
    }

    /// A frame of a content kind was written.
    pub fn delivered(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }

    /// The answer told its usage.
    pub fn used(&mut self, usage: &Usage) {
        let sum = usage.input.saturating_add(usage.output);
        let told = if usage.total > 0 { usage.total } else { sum };
        self.tokens = (told > 0).then_some(told).or(self.tokens);
    }
}
