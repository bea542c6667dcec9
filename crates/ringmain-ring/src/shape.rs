//! Where one lane stands and how its lines are counted.

use ringmain_wire::frame::HEADER_BYTES;
use ringmain_wire::limits::{LINE_BYTES, RESERVE_LINES, TERMINAL_LINES};
use ringmain_wire::{Geometry, LaneId};

/// Offsets and sizes of one lane, taken once from the frozen geometry.
///
/// A position counts lines since the segment was made and is never reset. Positions are compared
/// by their distance, so that nothing a peer writes can overflow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneShape {
    /// First line, in the responder segment.
    pub lane_offset: usize,
    /// Starved word, in the responder segment.
    pub starved_offset: usize,
    /// Cursor, in the caller segment.
    pub cursor_offset: usize,
    /// Lines of the lane, a power of two.
    pub lines: u64,
    /// Most lines of one frame, and most lines consumed before the cursor is published.
    pub quarter: u64,
    /// Lines that only a terminal frame may use.
    pub reserve: u64,
    /// Most lines of a terminal frame.
    pub terminal: u64,
}

impl LaneShape {
    pub fn new(geometry: &Geometry, lane: LaneId) -> LaneShape {
        LaneShape {
            lane_offset: geometry.lane_offset(lane),
            starved_offset: geometry.starved_offset(lane),
            cursor_offset: geometry.cursor_offset(lane),
            lines: geometry.lane_lines(),
            quarter: geometry.lane_lines() / 4,
            reserve: RESERVE_LINES,
            terminal: TERMINAL_LINES,
        }
    }

    /// Byte offset of the line at `position`, in the responder segment.
    #[inline(always)]
    pub fn line_offset(&self, position: u64) -> usize {
        self.lane_offset + (position & (self.lines - 1)) as usize * LINE_BYTES
    }

    /// Lines from `position` to the end of its lap, at least 1.
    #[inline(always)]
    pub fn lines_to_end(&self, position: u64) -> u64 {
        self.lines - (position & (self.lines - 1))
    }

    /// Lines to skip before a frame of `lines` lines can stand at `position`: a frame never wraps.
    #[inline(always)]
    pub fn skip_before(&self, position: u64, lines: u64) -> u64 {
        let to_end = self.lines_to_end(position);
        if lines > to_end { to_end } else { 0 }
    }

    /// Most payload bytes of one frame.
    #[inline(always)]
    pub fn payload_max(&self) -> usize {
        payload_of(self.quarter)
    }

    /// Most payload bytes of a terminal frame.
    pub fn terminal_payload_max(&self) -> usize {
        payload_of(self.terminal)
    }
}

/// Payload bytes that fill `lines` lines exactly.
#[inline(always)]
pub(crate) const fn payload_of(lines: u64) -> usize {
    lines as usize * LINE_BYTES - HEADER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums behind three promises, for the least lane: a terminal always has room, a starved
    /// writer's target is one that an honest consumer publishes, and every lane keeps them.
    #[test]
    fn the_least_lane_keeps_its_promises() {
        let geometry = Geometry::new(1, 4096, 65536).unwrap();
        let shape = LaneShape::new(&geometry, geometry.lane(0).unwrap());
        let longest_terminal = shape.terminal - 1 + shape.terminal + 1;
        assert!(longest_terminal <= shape.reserve + 1);
        let longest_need = shape.quarter - 1 + shape.quarter + shape.reserve + 1;
        assert!(longest_need + (shape.quarter - 1) <= shape.lines);
    }
}
