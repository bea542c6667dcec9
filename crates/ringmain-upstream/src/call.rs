//! What is asked of an endpoint, and how far the asking has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use ringmain_wire::{Flags, Mode, RequestHead, Sent, Stage};

/// One request to an endpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// The judged head.
    pub head: &'a RequestHead<'a>,
    /// The body; it goes out from where it lies unless something must be spliced into it.
    pub body: Bytes,
    /// The endpoint's own name of the model, when it differs from the one in the body.
    pub model: Option<&'a str>,
    /// What the frames of the answer will carry.
    pub mode: Mode,
    /// What the caller said.
    pub flags: Flags,
    /// Tells an observer how far the request has come.
    pub progress: Progress,
}

impl<'a> Call<'a> {
    /// A call in the caller's own words.
    pub fn new(head: &'a RequestHead<'a>, body: Bytes, mode: Mode, flags: Flags) -> Call<'a> {
        Call { head, body, model: None, mode, flags, progress: Progress::default() }
    }
}

/// How far a request has come, for whoever puts a time limit around
/// [`Endpoint::send`](crate::Endpoint::send) and has to say afterwards what is known. Clones share
/// one state.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    attempts: AtomicU16,
    body_bytes: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Connecting = 0,
    /// Like connecting, but a request without a body gives no sign of having been sent.
    Blind = 1,
    Sending = 2,
    Sent = 3,
    Answered = 4,
}

impl Progress {
    /// The stage of the attempt: connect, send, await the head, await content.
    pub fn stage(&self) -> Stage {
        match self.0.phase.load(Relaxed) {
            phase if phase <= Phase::Blind as u8 => Stage::Connect,
            phase if phase == Phase::Sending as u8 => Stage::Send,
            phase if phase == Phase::Sent as u8 => Stage::AwaitHead,
            _ => Stage::AwaitContent,
        }
    }

    /// Whether the provider may have seen the request, were it given up now.
    pub fn sent(&self) -> Sent {
        match self.0.phase.load(Relaxed) {
            phase if phase == Phase::Connecting as u8 => Sent::No,
            phase if phase == Phase::Answered as u8 => Sent::Yes,
            _ => Sent::Maybe,
        }
    }

    /// Bytes of the body handed to the connection so far.
    pub fn body_bytes(&self) -> u64 {
        self.0.body_bytes.load(Relaxed)
    }

    /// Requests made so far, the present one included.
    pub fn attempts(&self) -> u16 {
        self.0.attempts.load(Relaxed)
    }

    /// Starts over: another attempt has seen nothing yet.
    pub(crate) fn restart(&self, phase: Phase) {
        self.0.attempts.fetch_add(1, Relaxed);
        self.0.body_bytes.store(0, Relaxed);
        self.0.phase.store(phase as u8, Relaxed);
    }

    pub(crate) fn reach(&self, phase: Phase) {
        self.0.phase.fetch_max(phase as u8, Relaxed);
    }

    pub(crate) fn add_body_bytes(&self, bytes: u64) {
        self.0.body_bytes.fetch_add(bytes, Relaxed);
    }
}
