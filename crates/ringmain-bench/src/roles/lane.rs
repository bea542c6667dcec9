//! Frames from one process to another: through a lane, a bare ring, or a Unix stream socket.

use std::hint::{black_box, spin_loop};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use ringmain_ring::{LaneReader, LaneWriter, Push};
use ringmain_shm::monotonic_ns;
use ringmain_wire::{ExchangeId, Geometry, Kind};
use serde::{Deserialize, Serialize};

use super::bare::{BareReader, BareShape, BareWriter, CURSOR_SEGMENT_BYTES};
use super::meet::Meet;
use super::{answer, ready};
use crate::error::{BenchError, Result, Tried};

/// What is transferred, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Transfer {
    pub meet: Meet,
    pub medium: Medium,
    pub payload_bytes: usize,
    /// Bytes of the lane, or of the ring that is as large.
    pub ring_bytes: u32,
    /// Time before the clock starts, and on it.
    pub warm_up_ms: u64,
    pub measure_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Medium {
    BareRing,
    Lane,
    UnixStream,
}

/// What was measured, at the reading end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Transferred {
    pub frames_per_s: f64,
}

/// The writing end. It is there first.
pub(crate) fn write(told: &Transfer) -> Result<()> {
    let payload = vec![b'x'; told.payload_bytes];
    match told.medium {
        Medium::BareRing => {
            let shape = told.bare_shape();
            let shared = told.meet.host_shared(shape.segment_bytes(), CURSOR_SEGMENT_BYTES)?;
            let mut ring = BareWriter::new(shared.own.clone(), shared.peer.clone(), shape);
            // Bound: the life of the parent, which ends this process when the reader is done.
            loop {
                while !ring.push(&payload) {
                    spin_loop();
                }
            }
        }
        Medium::Lane => write_lane(told, &payload),
        Medium::UnixStream => write_stream(told, &payload),
    }
}

/// The reading end, where the clock is.
pub(crate) fn read(told: &Transfer) -> Result<()> {
    let mut clock = Clock::new(told);
    match told.medium {
        Medium::BareRing => {
            let shape = told.bare_shape();
            let shared = told.meet.join_shared(CURSOR_SEGMENT_BYTES, shape.segment_bytes())?;
            let mut ring = BareReader::new(shared.own.clone(), shared.peer.clone(), shape);
            while clock.runs() {
                match ring.next() {
                    Some(payload) => clock.count(payload),
                    None => spin_loop(),
                }
            }
        }
        Medium::Lane => read_lane(told, &mut clock)?,
        Medium::UnixStream => read_stream(told, &mut clock)?,
    }
    answer(&clock.result()?)
}

impl Transfer {
    fn bare_shape(&self) -> BareShape {
        BareShape::new(self.ring_bytes as usize, self.payload_bytes)
    }

    fn geometry(&self) -> Result<Geometry> {
        Geometry::new(1, self.ring_bytes, 64 * 1024)
            .map_err(|error| BenchError::NotIntact(error.to_string()))
    }
}

fn write_lane(told: &Transfer, payload: &[u8]) -> Result<()> {
    let geometry = told.geometry()?;
    let shared = told.meet.host_shared(geometry.responder_bytes(), geometry.caller_bytes())?;
    let bad = |error: &dyn std::fmt::Display| BenchError::NotIntact(error.to_string());
    // Invariant: every geometry has a lane 0.
    let Some(lane) = geometry.lane(0) else { return Ok(()) };
    let mut writer = LaneWriter::new(shared.own.clone(), shared.peer.clone(), geometry, lane);
    writer.begin(ExchangeId(0)).map_err(|error| bad(&error))?;
    // Bound: the life of the parent, which ends this process when the reader is done.
    loop {
        match writer.push(Kind::Delta, 0, payload, 1).map_err(|error| bad(&error))? {
            Push::Written => {}
            Push::Full => spin_loop(),
            Push::Partly(_) => return Err(bad(&"the payload takes more than one frame")),
        }
    }
}

fn read_lane(told: &Transfer, clock: &mut Clock) -> Result<()> {
    let geometry = told.geometry()?;
    let shared = told.meet.join_shared(geometry.caller_bytes(), geometry.responder_bytes())?;
    // Invariant: every geometry has a lane 0.
    let Some(lane) = geometry.lane(0) else { return Ok(()) };
    let mut reader = LaneReader::new(shared.own.clone(), shared.peer.clone(), geometry, lane);
    while clock.runs() {
        match reader.next() {
            Ok(Some(frame)) => clock.count(frame.payload),
            Ok(None) => spin_loop(),
            Err(error) => return Err(BenchError::NotIntact(error.to_string())),
        }
    }
    Ok(())
}

/// A length and the payload, one write for each frame, as tokens come one by one.
fn write_stream(told: &Transfer, payload: &[u8]) -> Result<()> {
    let listener = UnixListener::bind(&told.meet.path).tried("binding a stream socket")?;
    ready()?;
    let (mut stream, _) = listener.accept().tried("accept")?;
    let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
    frame.extend_from_slice(payload);
    // Bound: the reader closes its end when it is done.
    while stream.write_all(&frame).is_ok() {}
    Ok(())
}

/// Takes as much as there is with each read, and then frame by frame.
fn read_stream(told: &Transfer, clock: &mut Clock) -> Result<()> {
    let mut stream = UnixStream::connect(&told.meet.path).tried("connecting to the stream")?;
    let mut buffer = vec![0; 256 * 1024];
    let mut kept = 0;
    while clock.runs() {
        let count = stream.read(&mut buffer[kept..]).tried("reading the stream")?;
        if count == 0 {
            return Err(BenchError::NotIntact("the stream ended early".to_owned()));
        }
        kept += count;
        let mut rest = &buffer[..kept];
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let Some((payload, after)) = after.split_at_checked(length) else { break };
            clock.count(payload);
            rest = after;
        }
        let consumed = kept - rest.len();
        buffer.copy_within(consumed..kept, 0);
        kept -= consumed;
    }
    Ok(())
}

/// Counts frames and looks at the time now and then.
#[derive(Debug)]
struct Clock {
    warm_up_ns: u64,
    measure_ns: u64,
    payload_bytes: usize,
    seen: u64,
    sum: u64,
    is_intact: bool,
    /// When the first frame came.
    begun_ns: u64,
    /// When, and at which frame, the warm-up was over.
    start: Option<(u64, u64)>,
    /// When, and at which frame, the time was up.
    end: Option<(u64, u64)>,
}

/// Frames between two looks at the time, a power of two.
const FRAMES_PER_LOOK: u64 = 1024;

impl Clock {
    fn new(told: &Transfer) -> Clock {
        Clock {
            warm_up_ns: told.warm_up_ms * 1_000_000,
            measure_ns: told.measure_ms * 1_000_000,
            payload_bytes: told.payload_bytes,
            seen: 0,
            sum: 0,
            is_intact: true,
            begun_ns: 0,
            start: None,
            end: None,
        }
    }

    #[inline(always)]
    fn runs(&self) -> bool {
        self.end.is_none()
    }

    /// Reads every word of the payload, as a consumer would.
    #[inline(always)]
    fn count(&mut self, payload: &[u8]) {
        self.is_intact &= payload.len() == self.payload_bytes;
        let (words, _) = payload.as_chunks::<8>();
        for word in words {
            self.sum = self.sum.wrapping_add(u64::from_ne_bytes(*word));
        }
        self.seen += 1;
        if self.seen & (FRAMES_PER_LOOK - 1) == 0 {
            self.look();
        }
    }

    #[cold]
    fn look(&mut self) {
        let now_ns = monotonic_ns();
        match self.start {
            None if self.begun_ns == 0 => self.begun_ns = now_ns,
            None if now_ns - self.begun_ns >= self.warm_up_ns => {
                self.start = Some((now_ns, self.seen));
            }
            Some((start_ns, _)) if self.end.is_none() && now_ns - start_ns >= self.measure_ns => {
                self.end = Some((now_ns, self.seen));
            }
            _ => {}
        }
    }

    fn result(&self) -> Result<Transferred> {
        let word = u64::from_ne_bytes([b'x'; 8]);
        let words = (self.payload_bytes / 8) as u64;
        let expected = word.wrapping_mul(words).wrapping_mul(self.seen);
        let (Some((start_ns, first)), Some((end_ns, last))) = (self.start, self.end) else {
            return Err(BenchError::NotIntact("the time was never up".to_owned()));
        };
        if !self.is_intact || black_box(self.sum) != expected {
            return Err(BenchError::NotIntact("the frames read are not those written".to_owned()));
        }
        let ns = end_ns.saturating_sub(start_ns).max(1) as f64;
        Ok(Transferred { frames_per_s: (last - first) as f64 * 1e9 / ns })
    }
}
