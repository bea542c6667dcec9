//! Where everything stands in the two segments of a session.
//!
//! ```text
//! caller segment (only the caller writes)      responder segment (only the responder writes)
//! 0        caller armed word                   0        responder armed word
//! 128      cursor of lane 0, 1, .. (64 each)   128      starved word of lane 0  (one line)
//! e        entries, 64 bytes each              192      loan word of lane 0     (one line)
//! a        arena (page)                        ..       128 bytes per lane
//! a+arena  end (page)                          l        lane 0, 1, .. (page; lane_bytes each)
//! ```
//!
//! The numbers are sent once in Welcome, checked by [`Geometry::new`] and kept in private
//! memory; nothing is ever read back from a segment.

use thiserror::Error;

use crate::limits::*;

/// Sizes of a session, checked. Copy it, keep it, never read it from shared memory.
///
/// ```
/// use ringmain_wire::Geometry;
/// let geometry = Geometry::default();
/// assert_eq!(geometry.lanes(), 64);
/// assert_eq!(geometry.entries(), 256);
/// assert!(Geometry::new(0, 16 * 1024, 1 << 24).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    lanes: u32,
    lane_bytes: u32,
    arena_bytes: u64,
}

/// Index of a lane, below [`Geometry::lanes`] of the geometry that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(u32);

/// Sizes that no session can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// Not 1..=[`LANES_MAX`].
    #[error("{0} lanes asked for, 1 to {LANES_MAX} are possible")]
    Lanes(u32),
    /// Not a power of two in [`LANE_BYTES_MIN`]..=[`LANE_BYTES_MAX`].
    #[error(
        "a lane of {0} bytes asked for, a power of two from {LANE_BYTES_MIN} to {LANE_BYTES_MAX} is possible"
    )]
    LaneBytes(u32),
    /// Not a multiple of the page in [`ARENA_BYTES_MIN`]..=[`ARENA_BYTES_MAX`].
    #[error(
        "an arena of {0} bytes asked for, whole pages from {ARENA_BYTES_MIN} to {ARENA_BYTES_MAX} are possible"
    )]
    ArenaBytes(u64),
}

impl Default for Geometry {
    fn default() -> Self {
        Geometry {
            lanes: LANES_DEFAULT,
            lane_bytes: LANE_BYTES_DEFAULT,
            arena_bytes: ARENA_BYTES_DEFAULT,
        }
    }
}

impl Geometry {
    /// Byte offset of the caller's armed word in the caller segment.
    pub const CALLER_ARMED: usize = 0;
    /// Byte offset of the responder's armed word in the responder segment.
    pub const RESPONDER_ARMED: usize = 0;

    /// Checks the three sizes that define everything else.
    ///
    /// # Errors
    /// [`GeometryError`] names the size that is out of range and the range.
    pub fn new(lanes: u32, lane_bytes: u32, arena_bytes: u64) -> Result<Geometry, GeometryError> {
        if lanes == 0 || lanes > LANES_MAX {
            return Err(GeometryError::Lanes(lanes));
        }
        let lane_range = LANE_BYTES_MIN..=LANE_BYTES_MAX;
        if !lane_bytes.is_power_of_two() || !lane_range.contains(&lane_bytes) {
            return Err(GeometryError::LaneBytes(lane_bytes));
        }
        let arena_range = ARENA_BYTES_MIN..=ARENA_BYTES_MAX;
        if !arena_range.contains(&arena_bytes) || !arena_bytes.is_multiple_of(PAGE_BYTES as u64) {
            return Err(GeometryError::ArenaBytes(arena_bytes));
        }
        Ok(Geometry { lanes, lane_bytes, arena_bytes })
    }

    /// Number of lanes.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Bytes of one lane, a power of two.
    pub fn lane_bytes(&self) -> u32 {
        self.lane_bytes
    }

    /// Lines of one lane, a power of two.
    pub fn lane_lines(&self) -> u64 {
        u64::from(self.lane_bytes) / LINE_BYTES as u64
    }

    /// Most payload bytes of one frame: a quarter of the lane, header included.
    pub fn frame_payload_max(&self) -> usize {
        self.lane_bytes as usize / 4 - crate::frame::HEADER_BYTES
    }

    /// Bytes of the arena, whole pages.
    pub fn arena_bytes(&self) -> u64 {
        self.arena_bytes
    }

    /// Number of submission entries, a power of two, at least [`ENTRIES_PER_LANE`] per lane.
    pub fn entries(&self) -> u32 {
        (self.lanes * ENTRIES_PER_LANE).next_power_of_two()
    }

    /// The lane with this index, if the session has it.
    pub fn lane(&self, index: u32) -> Option<LaneId> {
        (index < self.lanes).then_some(LaneId(index))
    }

    /// All lanes, lowest first.
    pub fn all_lanes(&self) -> impl Iterator<Item = LaneId> + use<> {
        (0..self.lanes).map(LaneId)
    }

    /// Byte offset of a lane's cursor in the caller segment.
    pub fn cursor_offset(&self, lane: LaneId) -> usize {
        SEPARATION_BYTES + lane.index() * LINE_BYTES
    }

    /// Byte offset of the entry at this position (taken modulo the ring) in the caller segment.
    pub fn entry_offset(&self, position: u64) -> usize {
        let slot = (position & u64::from(self.entries() - 1)) as usize;
        self.entries_offset() + slot * LINE_BYTES
    }

    /// Byte offset of the arena in the caller segment.
    pub fn arena_offset(&self) -> usize {
        let end = self.entries_offset() + self.entries() as usize * LINE_BYTES;
        end.next_multiple_of(PAGE_BYTES)
    }

    /// Bytes of the caller segment, whole pages.
    pub fn caller_bytes(&self) -> usize {
        self.arena_offset() + self.arena_bytes as usize
    }

    /// Byte offset of a lane's starved word in the responder segment.
    pub fn starved_offset(&self, lane: LaneId) -> usize {
        SEPARATION_BYTES + lane.index() * 2 * LINE_BYTES
    }

    /// Byte offset of a lane's loan word in the responder segment.
    pub fn loan_offset(&self, lane: LaneId) -> usize {
        self.starved_offset(lane) + LINE_BYTES
    }

    /// Byte offset of a lane's first line in the responder segment.
    pub fn lane_offset(&self, lane: LaneId) -> usize {
        self.lanes_offset() + lane.index() * self.lane_bytes as usize
    }

    /// Bytes of the responder segment, whole pages.
    pub fn responder_bytes(&self) -> usize {
        self.lanes_offset() + self.lanes as usize * self.lane_bytes as usize
    }

    /// Bytes of both segments: what a session is charged for.
    pub fn session_bytes(&self) -> u64 {
        self.caller_bytes() as u64 + self.responder_bytes() as u64
    }

    fn entries_offset(&self) -> usize {
        SEPARATION_BYTES + self.lanes as usize * LINE_BYTES
    }

    fn lanes_offset(&self) -> usize {
        (SEPARATION_BYTES + self.lanes as usize * 2 * LINE_BYTES).next_multiple_of(PAGE_BYTES)
    }
}

impl LaneId {
    /// The index, for tables with one row per lane.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The index as it stands in an entry.
    pub fn number(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn property_regions_do_not_overlap(lanes in 1u32..=LANES_MAX, shift in 12u32..=20, pages in 16u64..=4096) {
            let g = Geometry::new(lanes, 1 << shift, pages * PAGE_BYTES as u64).unwrap();
            let last = g.lane(lanes - 1).unwrap();
            prop_assert!(g.lane(lanes).is_none());
            prop_assert!(g.cursor_offset(last) + LINE_BYTES <= g.entry_offset(0));
            let entries_end = g.entry_offset(u64::from(g.entries()) - 1) + LINE_BYTES;
            prop_assert!(entries_end <= g.arena_offset());
            prop_assert_eq!(g.entry_offset(u64::from(g.entries())), g.entry_offset(0));
            prop_assert!(g.entries() >= ENTRIES_PER_LANE * lanes);
            prop_assert!(g.loan_offset(last) + LINE_BYTES <= g.lane_offset(g.lane(0).unwrap()));
            prop_assert_eq!(g.lane_offset(last) + g.lane_bytes() as usize, g.responder_bytes());
            prop_assert_eq!(g.caller_bytes() % PAGE_BYTES, 0);
            prop_assert_eq!(g.responder_bytes() % PAGE_BYTES, 0);
        }
    }

    #[test]
    fn bad_sizes_are_named() {
        assert_eq!(Geometry::new(0, 16384, 1 << 24), Err(GeometryError::Lanes(0)));
        assert_eq!(Geometry::new(4, 5000, 1 << 24), Err(GeometryError::LaneBytes(5000)));
        assert_eq!(Geometry::new(4, 16384, 1), Err(GeometryError::ArenaBytes(1)));
    }
}
