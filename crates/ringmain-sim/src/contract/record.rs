//! What one caller saw of one exchange.

use std::io::{self, Write};

use ringmain_wire::frame::ToolFrame;
use ringmain_wire::{Code, Kind, Sent, Stage};
use serde::{Deserialize, Serialize};

use crate::clock::now_ns;
use crate::plan::Channel;
use crate::text::{HASH_EMPTY, hash_on};

/// Most frames kept one by one; later ones are folded into the last of their channel's run.
// Bound: of one record, about 8 MiB of JSON.
pub const FRAMES_MAX: usize = 65_536;
/// Texts up to this many bytes are kept beside their hash, for people who read a history.
pub const TEXT_BYTES_MAX: usize = 32;

/// The delivery mode of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The answer's bytes.
    Body,
    /// Typed pieces.
    #[default]
    Deltas,
    /// Upstream events.
    Events,
    /// No request at all: a ping.
    Ping,
}

/// What a submission returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Returned {
    /// Published.
    Accepted,
    /// Not yet: the process was killed inside the call, or the record was cut there.
    #[default]
    Nothing,
    /// Refused before anything was published, with this code.
    Refused(u16),
    /// No free lane or no arena space.
    WouldBlock,
}

/// What a recorded frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FrameKind {
    /// Bytes of a plain answer.
    Body,
    /// Text.
    Delta,
    /// The good end.
    End,
    /// The bad end.
    Error,
    /// One upstream event.
    Event,
    /// Status and origin.
    Head,
    /// Reasoning.
    Reasoning,
    /// A piece of a tool call.
    Tool,
    /// Tokens used.
    Usage,
}

/// One frame, or a run of frames of one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// When the caller had it.
    pub t_ns: u64,
    /// The broker's time on it, 0 where the caller does not see it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub broker_ns: u64,
    /// What it was.
    pub kind: FrameKind,
    /// The channel that it adds to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// Frames that this entry stands for.
    pub frames: u64,
    /// Payload bytes, as the broker counts delivered bytes.
    pub bytes: u64,
    /// Bytes of the channel up to and with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub total: u64,
    /// Running hash of the channel up to and with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hash: u64,
    /// Its text, when short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The terminal that a caller saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum End {
    /// END.
    End {
        /// Delivered bytes that it claims, if the caller saw the number.
        bytes: Option<u64>,
    },
    /// ERROR.
    Error {
        /// Number of the [`Code`].
        code: u16,
        /// Number of the [`Stage`].
        stage: u8,
        /// Number of the [`Sent`].
        sent: u8,
        /// Delivered bytes that it claims, if the caller saw the number.
        bytes: Option<u64>,
        /// Attempts that it claims.
        attempts: u16,
    },
}

/// One exchange as its caller saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallerRecord {
    /// The process, as the test numbers them (a pid may come again).
    pub process: u64,
    /// Its uid.
    pub uid: u32,
    /// Epoch of the broker that the session belongs to.
    pub epoch: u64,
    /// Number of the session.
    pub session: u64,
    /// Id of the exchange within the session.
    pub exchange: u64,
    /// Correlation id, one per exchange over the whole history; it stands in the prompt too.
    pub id: String,
    /// Delivery mode.
    pub mode: Mode,
    /// Whether the request itself asked for usage.
    pub usage_requested: bool,
    /// Whether doing it twice would do harm.
    pub once: bool,
    /// When it was submitted.
    pub submitted_ns: u64,
    /// Its absolute deadline.
    pub deadline_ns: Option<u64>,
    /// What the submission returned.
    pub returned: Returned,
    /// Status in HEAD.
    pub status: Option<u16>,
    /// Number of the attempt in HEAD.
    pub attempt: Option<u16>,
    /// Log id in HEAD.
    pub log_id: String,
    /// Its frames, terminal included.
    pub frames: Vec<Frame>,
    /// When the caller cancelled or dropped it.
    pub cancelled_ns: Option<u64>,
    /// Whether the caller stopped reading: a terminal may be there and not seen.
    pub dropped: bool,
    /// The terminal.
    pub end: Option<End>,
    /// When the call gave its last result to the application.
    pub returned_ns: Option<u64>,
}

/// Records one exchange as it goes.
///
/// ```
/// use ringmain_sim::contract::{FrameKind, Recorder};
/// let mut recorder = Recorder::new("a-1", 1, 1000);
/// recorder.accepted(7, 3, 0);
/// recorder.head(200, "rm-1");
/// recorder.content(FrameKind::Delta, 0, " water".as_bytes());
/// recorder.end(Some(6));
/// let record = recorder.finish();
/// assert_eq!(record.frames.len(), 3);
/// ```
#[derive(Clone, Debug)]
pub struct Recorder {
    record: CallerRecord,
    channels: Vec<(Channel, u64, u64)>,
    broker_ns: u64,
}

impl Recorder {
    /// Begins the record of an exchange that is about to be submitted now.
    pub fn new(id: impl Into<String>, process: u64, uid: u32) -> Recorder {
        let record = CallerRecord {
            id: id.into(),
            process,
            uid,
            submitted_ns: now_ns(),
            ..CallerRecord::default()
        };
        Recorder { record, channels: Vec::new(), broker_ns: 0 }
    }

    /// The record so far, for what the methods here do not set (mode, deadline, ...).
    pub fn record(&mut self) -> &mut CallerRecord {
        &mut self.record
    }

    /// The submission was published.
    pub fn accepted(&mut self, epoch: u64, session: u64, exchange: u64) {
        self.record.returned = Returned::Accepted;
        (self.record.epoch, self.record.session, self.record.exchange) = (epoch, session, exchange);
    }

    /// The submission was refused.
    pub fn refused(&mut self, code: Code) {
        self.record.returned = match code {
            Code::WouldBlock => Returned::WouldBlock,
            code => Returned::Refused(code as u16),
        };
        self.record.returned_ns = Some(now_ns());
    }

    /// The broker's time on the frame that is recorded next.
    pub fn broker_time(&mut self, ns: u64) {
        self.broker_ns = ns;
    }

    /// HEAD came.
    pub fn head(&mut self, status: u16, log_id: &str) {
        self.record.status = Some(status);
        log_id.clone_into(&mut self.record.log_id);
        self.push(FrameKind::Head, None, 0, &[]);
    }

    /// The attempt that HEAD names.
    pub fn attempt(&mut self, number: u16) {
        self.record.attempt = Some(number);
    }

    /// A DELTA, REASONING, EVENT or BODY came.
    pub fn content(&mut self, kind: FrameKind, choice: u16, bytes: &[u8]) {
        let payload = bytes.len() as u64;
        match kind {
            FrameKind::Reasoning => {
                self.push(kind, Some(Channel::Reasoning(choice)), payload, bytes)
            }
            FrameKind::Event => self.event(bytes),
            FrameKind::Body => self.push(kind, Some(Channel::Body), payload, bytes),
            _ => self.push(kind, Some(Channel::Text(choice)), payload, bytes),
        }
    }

    /// A TOOL came.
    pub fn tool(&mut self, tool: &ToolFrame<'_>) {
        let texts = tool.id.len() + tool.name.len() + tool.arguments.len();
        let payload = (ToolFrame::PREFIX_BYTES + texts) as u64;
        let channel = Some(Channel::Tool(tool.index));
        self.push(FrameKind::Tool, channel, payload, tool.arguments.as_bytes());
    }

    /// USAGE came.
    pub fn usage(&mut self) {
        self.push(FrameKind::Usage, None, 0, &[]);
    }

    /// A frame came as it stands in a lane. An event that comes in parts (MORE) is to be put
    /// together first.
    pub fn frame(&mut self, kind: Kind, choice: u16, payload: &[u8]) {
        match kind {
            Kind::Delta => self.content(FrameKind::Delta, choice, payload),
            Kind::Reasoning => self.content(FrameKind::Reasoning, choice, payload),
            Kind::Event => self.content(FrameKind::Event, choice, payload),
            Kind::Body => self.content(FrameKind::Body, choice, payload),
            Kind::Usage => self.usage(),
            Kind::Tool => match ToolFrame::parse(payload) {
                Ok(tool) => self.tool(&tool),
                Err(_) => self.push(FrameKind::Tool, None, payload.len() as u64, &[]),
            },
            Kind::Head => {
                let head = ringmain_wire::ResponseHead::parse(payload);
                if let Ok(head) = &head {
                    self.attempt(head.attempt);
                }
                let (status, log_id) = head.map_or((0, ""), |head| (head.status, head.log_id));
                self.head(status, log_id);
            }
            Kind::End => {
                let end = ringmain_wire::frame::EndFrame::parse(payload);
                self.end(end.ok().map(|end| end.bytes));
            }
            Kind::Error => {
                if let Ok(error) = ringmain_wire::ErrorFrame::parse(payload) {
                    let bytes = Some(error.bytes);
                    self.error(error.code, error.stage, error.sent, bytes, error.attempts);
                }
            }
            _ => {}
        }
    }

    /// The caller cancelled; `dropped`: and reads no further.
    pub fn cancelled(&mut self, dropped: bool) {
        self.record.cancelled_ns.get_or_insert_with(now_ns);
        self.record.dropped |= dropped;
    }

    /// END came.
    pub fn end(&mut self, bytes: Option<u64>) {
        self.push(FrameKind::End, None, 0, &[]);
        self.terminal(End::End { bytes });
    }

    /// ERROR came, from the broker or from the client library.
    pub fn error(
        &mut self,
        code: Code,
        stage: Stage,
        sent: Sent,
        bytes: Option<u64>,
        attempts: u16,
    ) {
        self.push(FrameKind::Error, None, 0, &[]);
        let (code, stage, sent) = (code as u16, stage as u8, sent as u8);
        self.terminal(End::Error { code, stage, sent, bytes, attempts });
    }

    /// The record, closed.
    pub fn finish(mut self) -> CallerRecord {
        self.record.returned_ns.get_or_insert_with(now_ns);
        self.record
    }

    fn terminal(&mut self, end: End) {
        // The first terminal stays; a second one is seen among the frames.
        self.record.end.get_or_insert(end);
        self.record.returned_ns.get_or_insert_with(now_ns);
    }

    /// Providers end events with one blank line of whatever kind, or with none at the end of the
    /// stream; the channel holds them in one form.
    fn event(&mut self, bytes: &[u8]) {
        let payload = bytes.len() as u64;
        let mut event = bytes.trim_ascii_end().to_vec();
        event.push(b'\n');
        self.push(FrameKind::Event, Some(Channel::Events), payload, &event);
    }

    fn push(&mut self, kind: FrameKind, channel: Option<Channel>, payload: u64, bytes: &[u8]) {
        let (total, hash) = channel.map_or((0, 0), |channel| self.extend(channel, bytes));
        let broker_ns = std::mem::take(&mut self.broker_ns);
        let full = self.record.frames.len() >= FRAMES_MAX;
        if let Some(last) = self.record.frames.last_mut()
            && full
            && (last.kind, last.channel) == (kind, channel)
        {
            (last.t_ns, last.broker_ns) = (now_ns(), broker_ns);
            (last.total, last.hash, last.text) = (total, hash, None);
            last.bytes += payload;
            last.frames += 1;
            return;
        }
        let short = bytes.len() <= TEXT_BYTES_MAX && channel.is_some();
        let text = short.then(|| str::from_utf8(bytes).ok().map(str::to_owned)).flatten();
        let t_ns = now_ns();
        let frames = 1;
        let frame =
            Frame { t_ns, broker_ns, kind, channel, frames, bytes: payload, total, hash, text };
        self.record.frames.push(frame);
    }

    fn extend(&mut self, channel: Channel, bytes: &[u8]) -> (u64, u64) {
        let at = self.channels.iter().position(|entry| entry.0 == channel).unwrap_or_else(|| {
            self.channels.push((channel, 0, HASH_EMPTY));
            self.channels.len() - 1
        });
        let (_, total, hash) = &mut self.channels[at];
        *total += bytes.len() as u64;
        *hash = hash_on(*hash, bytes);
        (*total, *hash)
    }
}

impl FrameKind {
    /// Whether it is the last of its exchange.
    pub fn is_terminal(self) -> bool {
        matches!(self, FrameKind::End | FrameKind::Error)
    }

    /// Whether its payload counts as delivered content.
    pub fn is_content(self) -> bool {
        use FrameKind::*;
        matches!(self, Body | Delta | Event | Reasoning | Tool)
    }
}

impl CallerRecord {
    /// Writes the record as one line of JSON, in one write, so that a kill tears the last line
    /// at most. A process writes it once submitted and again when the exchange is over.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_line(&self, out: &mut impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        out.write_all(&line)?;
        out.flush()
    }

    /// Payload bytes of content delivered.
    pub fn content_bytes(&self) -> u64 {
        self.frames.iter().filter(|frame| frame.kind.is_content()).map(|frame| frame.bytes).sum()
    }

    /// Where each channel stood at last: total bytes and running hash.
    pub fn channels(&self) -> Vec<(Channel, u64, u64)> {
        let mut ends: Vec<(Channel, u64, u64)> = Vec::new();
        for frame in &self.frames {
            let Some(channel) = frame.channel else { continue };
            match ends.iter_mut().find(|end| end.0 == channel) {
                Some(end) => (end.1, end.2) = (frame.total, frame.hash),
                None => ends.push((channel, frame.total, frame.hash)),
            }
        }
        ends
    }

    /// The code of its ERROR, if that is how it ended.
    pub fn error_code(&self) -> Option<Code> {
        match self.end {
            Some(End::Error { code, .. }) => Code::from_number(code),
            _ => None,
        }
    }

    /// Attempts that HEAD or ERROR names, whichever came last; `None` where neither tells.
    pub fn attempts_told(&self) -> Option<u16> {
        match self.end {
            Some(End::Error { attempts, .. }) if attempts > 0 => Some(attempts),
            _ => self.attempt.filter(|&number| number > 0),
        }
    }

    /// When the terminal came.
    pub fn ended_ns(&self) -> Option<u64> {
        self.frames.iter().find(|frame| frame.kind.is_terminal()).map(|frame| frame.t_ns)
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}
