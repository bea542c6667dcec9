//! The submission ring: caller to responder, one 64-byte line per entry.
//!
//! There is no consumed cursor. An honest caller has at most two requests and two cancels per
//! lane under way, and the ring has four entries per lane, so it never writes over an entry that
//! was not read. A caller that does it anyway loses its own requests and nobody else's.

use std::sync::atomic::Ordering;

use ringmain_wire::{Entry, ExchangeId, Geometry};

use crate::memory::{Memory, MemoryMut};
use crate::mutant::{self, Mutant};

const WORDS: usize = size_of::<Entry>() / 8;

/// The caller's end. `W` is the caller segment.
#[derive(Debug)]
pub struct SubmissionWriter<W> {
    own: W,
    geometry: Geometry,
    position: u64,
}

/// The responder's end. `R` is the caller segment.
#[derive(Debug)]
pub struct SubmissionReader<R> {
    peer: R,
    geometry: Geometry,
    position: u64,
}

impl<W: MemoryMut> SubmissionWriter<W> {
    /// The writer of a fresh session.
    pub fn new(own: W, geometry: Geometry) -> Self {
        Self::new_at(own, geometry, 0)
    }

    /// A writer that goes on at `position`; both ends must agree on it. For tests.
    #[doc(hidden)]
    pub fn new_at(own: W, geometry: Geometry, position: u64) -> Self {
        SubmissionWriter { own, geometry, position }
    }

    /// Publishes an entry; its position is the id of its exchange. Rings no bell: see
    /// [`Ring::due`](crate::Ring::due).
    #[inline]
    pub fn push(&mut self, entry: Entry) -> ExchangeId {
        let position = self.position;
        let at = self.geometry.entry_offset(position);
        let words: [u64; WORDS] = bytemuck::cast(entry);
        let [_, rest @ ..] = words;
        self.own.put_record(at + 8, rest, &[]);
        // Pairs with: the Acquire fence in `SubmissionReader::next`.
        let publish = position.wrapping_add(1);
        if mutant::is(Mutant::RelaxedSubmission) {
            self.own.store(at, publish);
        } else {
            self.own.store_release(at, publish);
        }
        self.position = publish;
        ExchangeId(position)
    }
}

impl<R: Memory> SubmissionReader<R> {
    /// The reader of a fresh session.
    pub fn new(peer: R, geometry: Geometry) -> Self {
        Self::new_at(peer, geometry, 0)
    }

    /// A reader that goes on at `position`; both ends must agree on it. For tests.
    #[doc(hidden)]
    pub fn new_at(peer: R, geometry: Geometry, position: u64) -> Self {
        SubmissionReader { peer, geometry, position }
    }

    /// A private copy of the next entry, unjudged: see
    /// [`Submission::parse`](ringmain_wire::Submission::parse).
    ///
    /// Each word is read once, the publish word first. If the caller writes meanwhile the copy is
    /// a mix of two entries, which is just another entry. Only the publish word of this very
    /// position counts, so a caller that skips ahead is not followed.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "an empty ring is no end of iteration")]
    pub fn next(&mut self) -> Option<(ExchangeId, Entry)> {
        let at = self.geometry.entry_offset(self.position);
        let publish = self.peer.load(at);
        if publish != self.position.wrapping_add(1) {
            return None;
        }
        // Pairs with: the Release store in `SubmissionWriter::push`.
        if !mutant::is(Mutant::NoSubmissionFence) {
            R::fence(Ordering::Acquire);
        }
        let [a, b, c, d, e, f, g] = self.peer.words(at + 8);
        let words: [u64; WORDS] = [publish, a, b, c, d, e, f, g];
        let id = ExchangeId(self.position);
        self.position = publish;
        Some((id, bytemuck::cast(words)))
    }

    /// Whether an entry stands ready: what a responder looks at between arming and sleeping.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.peer.load(self.geometry.entry_offset(self.position)) == self.position.wrapping_add(1)
    }

    /// Whether the caller left the protocol: what stands where the next entry is awaited is
    /// neither that entry, nor the one a lap before, nor a line never used. Nothing will ever
    /// come from such a ring again; a responder may end the session instead of ignoring it.
    pub fn is_overrun(&self) -> bool {
        let publish = self.peer.load(self.geometry.entry_offset(self.position));
        let next = self.position.wrapping_add(1);
        let lap_before = next.wrapping_sub(u64::from(self.geometry.entries()));
        publish != next && publish != lap_before && publish != 0
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
