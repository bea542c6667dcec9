//! The body of an answer: paced, counted, broken where the script says so.
//!
//! Nothing is produced before the connection asks for it, so a reader that stops holds its stream
//! back with the socket buffers and what one write holds, nothing more.

use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::time::{Instant, Sleep};

use super::connection::{Connection, Mark};
use super::frames;
use super::log::{How, Running};
use super::replay::Replay;
use super::stage::{StageEnd, Staged};
use crate::clock::now_ns;
use crate::fault::Fault;
use crate::plan::{Piece, Pieces, Plan};
use crate::render::Renderer;

/// How long a broken body leaves the connection to hand over what stands before the break.
const BREAK_DELAY: Duration = Duration::from_millis(5);

/// The script wants the answer to break off here.
#[derive(Debug, Error)]
#[error("the answer breaks off as scripted")]
pub(super) struct Broken {
    /// What a stream of HTTP/2 is told; without one, an internal error.
    #[source]
    reason: Option<h2::Error>,
}

impl Broken {
    /// Breaks without a reason of its own.
    pub(super) fn plain() -> Broken {
        Broken { reason: None }
    }

    /// Breaks a stream of HTTP/2 with this reason.
    pub(super) fn with(reason: h2::Reason) -> Broken {
        Broken { reason: Some(reason.into()) }
    }
}

/// A body in writes.
pub(super) struct Writes {
    source: Source,
    plan: Arc<Plan>,
    running: Running,
    connection: Arc<Connection>,
    pace: Pace,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// The body's length where it is told in advance.
    length: Option<u64>,
    phase: Phase,
    /// Whether GOAWAY is sent.
    is_told: bool,
}

/// Where the bytes come from.
pub(super) enum Source {
    /// Events rendered piece by piece.
    Events { pieces: Pieces, renderer: Box<Renderer> },
    /// A recording.
    Replay(Replay),
    /// Writes that were laid down in advance.
    Staged(Box<Staged>),
    /// One write; `cut`: only so many bytes of it.
    Whole { bytes: Bytes, cut: Option<usize> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Writes follow.
    Running,
    /// The next turn belongs to the connection, which flushes.
    Flushing,
    /// The body ends as it should.
    Closing,
    /// The body ends as the script wants it.
    Breaking(Fault),
    /// Nothing follows, not even an end.
    Stalled,
    /// Everything is said.
    Over,
}

impl Writes {
    pub(super) fn new(
        source: Source,
        plan: Arc<Plan>,
        running: Running,
        connection: Arc<Connection>,
    ) -> Writes {
        running.schedule();
        let length = match &source {
            Source::Whole { bytes, .. } => Some(bytes.len() as u64),
            Source::Staged(staged) => staged.length(),
            _ => None,
        };
        let gzip = (plan.script.fault == Some(Fault::Gzip))
            .then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        let pace = Pace::new(&plan);
        let length = length.filter(|_| gzip.is_none());
        let phase = Phase::Running;
        let is_told = false;
        let writes =
            Writes { source, plan, running, connection, pace, gzip, length, phase, is_told };
        writes.end_if_length_reached();
        writes
    }

    /// A connection that was told the length does not ask again once it has that many bytes.
    fn end_if_length_reached(&self) {
        let is_taken = matches!(&self.source, Source::Whole { bytes, .. } if bytes.is_empty());
        if is_taken && self.length.is_some() && self.end_phase() == Phase::Closing {
            self.running.ended(self.how());
        }
    }

    /// Takes the bytes of the next write and the tokens in it.
    fn take(&mut self) -> Option<(Bytes, u64)> {
        let script = &self.plan.script;
        match &mut self.source {
            Source::Events { pieces, renderer } => {
                let stamp_ns = script.stamp.then(now_ns);
                take_events(pieces, renderer, script.coalesce.max(1), stamp_ns, &self.running)
            }
            Source::Replay(replay) => {
                let broken = script.fault.is_some_and(Fault::is_inside_body)
                    && replay.taken() >= self.plan.tokens_before_fault();
                let chunk = if broken { None } else { replay.next() };
                if replay.is_over() {
                    self.running.marker_sent();
                }
                chunk.map(|chunk| (chunk, 1))
            }
            Source::Staged(staged) => staged.next().map(|act| {
                if act.is_marker {
                    self.running.marker_sent();
                }
                (act.bytes, act.tokens)
            }),
            Source::Whole { bytes, cut } => {
                let end = cut.unwrap_or(bytes.len());
                let whole = std::mem::take(bytes);
                (!whole.is_empty()).then(|| (whole.slice(..end.min(whole.len())), 0))
            }
        }
    }

    /// What follows the last write.
    fn end_phase(&self) -> Phase {
        let fault = self.plan.script.fault;
        if let (Source::Staged(staged), Some(fault)) = (&self.source, fault) {
            return match staged.end {
                StageEnd::Whole => Phase::Closing,
                StageEnd::Hold => Phase::Stalled,
                StageEnd::Break | StageEnd::Goaway | StageEnd::Stream(_) => Phase::Breaking(fault),
            };
        }
        match fault {
            Some(fault @ (Fault::CloseEarly | Fault::Reset)) => Phase::Breaking(fault),
            Some(Fault::Stall) => Phase::Stalled,
            _ => Phase::Closing,
        }
    }

    /// A clean end of the body: whole, unless the script left something out.
    fn how(&self) -> How {
        match self.plan.script.fault {
            Some(fault) if fault.spoils_end() && self.plan.script.status == 200 => {
                How::Fault(fault)
            }
            _ => How::Completed,
        }
    }

    fn broken(&self) -> Broken {
        match &self.source {
            Source::Staged(staged) => match staged.end {
                StageEnd::Stream(reason) => Broken::with(reason),
                _ => Broken::plain(),
            },
            _ => Broken::plain(),
        }
    }

    fn encode(&mut self, bytes: Bytes) -> Bytes {
        let Some(gzip) = &mut self.gzip else { return bytes };
        // Writing to a vector cannot fail; the flush makes this write decodable on its own.
        let _ = gzip.write_all(&bytes).and_then(|()| gzip.flush());
        std::mem::take(gzip.get_mut()).into()
    }

    fn emit(&mut self, bytes: Bytes, tokens: u64) -> Frame<Bytes> {
        self.running.sent(tokens, bytes.len());
        self.end_if_length_reached();
        Frame::data(bytes)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.phase {
                Phase::Running => {
                    ready!(self.pace.poll_due(cx, &mut self.source));
                    let Some((bytes, tokens)) = self.take() else {
                        self.phase = self.end_phase();
                        self.pace.delay(BREAK_DELAY);
                        continue;
                    };
                    self.pace.tokens += tokens;
                    if self.plan.script.flush || matches!(self.source, Source::Staged(_)) {
                        self.phase = Phase::Flushing;
                    }
                    let bytes = self.encode(bytes);
                    return Poll::Ready(Some(Ok(self.emit(bytes, tokens))));
                }
                Phase::Flushing => {
                    self.phase = Phase::Running;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Phase::Closing => {
                    self.phase = Phase::Over;
                    // Finishing into a vector cannot fail.
                    if let Some(Ok(trailer)) = self.gzip.take().map(GzEncoder::finish) {
                        return Poll::Ready(Some(Ok(self.emit(trailer.into(), 0))));
                    }
                }
                Phase::Breaking(fault) => {
                    ready!(self.pace.poll_sleep(cx));
                    if fault == Fault::GoawayCut && !self.is_told {
                        self.is_told = true;
                        self.connection.inject(&frames::goaway(frames::STREAM_MAX));
                        self.pace.delay(BREAK_DELAY);
                        continue;
                    }
                    self.running.ended(self.how());
                    if matches!(fault, Fault::Reset | Fault::GoawayCut) {
                        self.connection.mark(Mark::Reset);
                    }
                    return Poll::Ready(Some(Err(self.broken())));
                }
                // The connection wakes this body by dropping it.
                Phase::Stalled => return Poll::Pending,
                Phase::Over => {
                    self.running.ended(self.how());
                    match self.plan.script.fault {
                        Some(Fault::CloseAfter) => self.connection.mark(Mark::Close),
                        Some(Fault::CloseOnNext) => self.connection.mark(Mark::ResetOnNext),
                        _ => {}
                    }
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl Body for Writes {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.poll(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Renders events up to `coalesce` tokens. What is no token goes out with the tokens before it,
/// but for the first event, which goes alone.
fn take_events(
    pieces: &mut Pieces,
    renderer: &mut Renderer,
    coalesce: u64,
    stamp_ns: Option<u64>,
    running: &Running,
) -> Option<(Bytes, u64)> {
    let mut out = Vec::with_capacity(256 * coalesce as usize);
    let mut tokens = 0;
    while let Some(piece) = pieces.peek() {
        if piece.is_content() {
            if tokens == coalesce {
                break;
            }
            tokens += 1;
        }
        pieces.next();
        renderer.render(piece, stamp_ns, &mut out);
        match piece {
            Piece::Role => break,
            Piece::Done => running.marker_sent(),
            _ => {}
        }
    }
    (!out.is_empty()).then(|| (out.into(), tokens))
}

/// When the next write is due. The schedule is absolute: a late write does not delay those after
/// it, and the mean rate is the one asked for.
struct Pace {
    start: Instant,
    ttft: Duration,
    gap: Duration,
    tokens: u64,
    sleep: Option<Pin<Box<Sleep>>>,
    due: Instant,
}

impl Pace {
    fn new(plan: &Plan) -> Pace {
        let script = &plan.script;
        let start = Instant::now();
        let ttft = Duration::from_micros(script.ttft_us);
        let gap = Duration::from_micros(script.gap_us);
        Pace { start, ttft, gap, tokens: 0, sleep: None, due: start }
    }

    fn poll_due(&mut self, cx: &mut Context<'_>, source: &mut Source) -> Poll<()> {
        let is_paced = match source {
            // What follows the last token is not paced.
            Source::Events { pieces, .. } => {
                pieces.peek().is_some_and(|piece| piece.is_content() || piece == Piece::Role)
            }
            Source::Replay(_) => true,
            Source::Staged(staged) => {
                self.due = staged.due();
                if self.due <= Instant::now() {
                    return Poll::Ready(());
                }
                return self.poll_sleep(cx);
            }
            // Its time passed before its head.
            Source::Whole { .. } => false,
        };
        if !is_paced || (self.ttft.is_zero() && self.gap.is_zero()) {
            return Poll::Ready(());
        }
        // Bound: u32 tokens of gap; a test that long has other troubles.
        let gaps = u32::try_from(self.tokens).unwrap_or(u32::MAX);
        let due = self.start + self.ttft.saturating_add(self.gap.saturating_mul(gaps));
        if due <= Instant::now() {
            return Poll::Ready(());
        }
        self.due = due;
        self.poll_sleep(cx)
    }

    fn delay(&mut self, by: Duration) {
        self.due = Instant::now() + by;
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.due;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx)
    }
}
