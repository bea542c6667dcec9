//! Exchanges of this process, recorded for the contract checker.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringmain_client::{ChatBody, Client, Error, Item, Mode, Request, Stream};
use ringmain_shm::monotonic_ns;
use ringmain_sim::contract::{self, CallerRecord, FrameKind, History, Recorder, check};
use ringmain_sim::{Provider, Script};

/// How one exchange is run.
#[derive(Clone)]
pub struct Plan {
    /// What the provider does.
    pub script: Script,
    /// What the frames carry.
    pub mode: Mode,
    /// Time from now to the deadline.
    pub deadline: Option<Duration>,
    /// Content items after which the caller cancels and goes on reading.
    pub cancel_after: Option<u64>,
    /// Content items after which the caller drops the stream.
    pub drop_after: Option<u64>,
    /// Number of this process in the history.
    pub process: u64,
    /// Whether it must not be done twice.
    pub once: bool,
    /// Model that is asked for.
    pub route: String,
    /// Whether the script travels in a header field as well, for what is decided before the
    /// body of the request is read.
    pub in_head: bool,
    /// Bytes of prompt in front of the script.
    pub fill: usize,
}

impl Plan {
    /// A stream of deltas by this script.
    pub fn new(script: Script) -> Plan {
        let process = u64::from(std::process::id());
        Plan {
            script,
            mode: Mode::Deltas,
            deadline: None,
            cancel_after: None,
            drop_after: None,
            process,
            once: false,
            route: "tiny".to_owned(),
            in_head: false,
            fill: 0,
        }
    }

    /// Submits the exchange; the record says how that went.
    pub fn submit(&self, client: &Client) -> Running {
        let id = new_id(self.process);
        let script = Script { id: Some(id.clone()), ..self.script.clone() };
        let prompt = format!("{}tell me {script}", "x".repeat(self.fill));
        let words = script.to_string();
        let words = words.trim_start_matches("[[sim").trim_end_matches("]]").trim();
        let mut request =
            Request::new(&self.route, "/chat/completions").mode(self.mode).usage_requested();
        if self.in_head {
            request = request.header("x-sim", words);
        }
        if let Some(deadline) = self.deadline {
            request = request.deadline(deadline);
        }
        if self.once {
            request = request.idempotent(false);
        }
        let mut recorder = Recorder::new(id, self.process, nix::unistd::getuid().as_raw());
        let record = recorder.record();
        record.mode = mode(self.mode);
        record.usage_requested = true;
        record.once = self.once;
        record.deadline_ns = self.deadline.map(|left| monotonic_ns() + left.as_nanos() as u64);
        let stream = client.submit(&request, &ChatBody::new(&self.route).message("user", prompt));
        let stream = match stream {
            Ok(stream) => {
                recorder.accepted(0, self.process, 0);
                Some(stream)
            }
            Err(error) => {
                recorder.refused(error.code());
                return Running {
                    plan: self.clone(),
                    recorder,
                    stream: None,
                    refusal: Some(error),
                };
            }
        };
        Running { plan: self.clone(), recorder, stream, refusal: None }
    }

    /// Runs the exchange to its end.
    pub fn run(&self, client: &Client) -> CallerRecord {
        self.submit(client).run()
    }
}

/// An exchange under way.
pub struct Running {
    plan: Plan,
    recorder: Recorder,
    stream: Option<Stream>,
    /// Why the submission was refused.
    pub refusal: Option<Error>,
}

impl Running {
    /// Correlation id.
    pub fn id(&mut self) -> String {
        self.recorder.record().id.clone()
    }

    /// Reads until `contents` items of content came, or the end.
    pub fn read(&mut self, contents: u64) {
        let mut seen = 0;
        while seen < contents {
            match self.step() {
                Step::Content => seen += 1,
                Step::Other => {}
                Step::Over => return,
            }
        }
    }

    /// Reads to the end, cancelling or dropping on the way as planned.
    pub fn run(mut self) -> CallerRecord {
        let (cancel_after, drop_after) = (self.plan.cancel_after, self.plan.drop_after);
        let mut contents = 0;
        loop {
            if cancel_after == Some(contents) {
                self.cancel();
            }
            if drop_after == Some(contents) {
                self.recorder.cancelled(true);
                self.stream = None;
                break;
            }
            match self.step() {
                Step::Content => contents += 1,
                Step::Other => {}
                Step::Over => break,
            }
        }
        self.recorder.finish()
    }

    /// Cancels; reading goes on.
    pub fn cancel(&mut self) {
        if let Some(stream) = &mut self.stream {
            self.recorder.cancelled(false);
            stream.cancel();
        }
    }

    fn step(&mut self) -> Step {
        let Some(stream) = &mut self.stream else { return Step::Over };
        match stream.next() {
            Ok(Some(item)) => note(&mut self.recorder, &item),
            Ok(None) => {
                self.stream = None;
                Step::Over
            }
            Err(error) => {
                note_error(&mut self.recorder, &error);
                Step::Other
            }
        }
    }
}

/// What one read brought.
enum Step {
    Content,
    Other,
    Over,
}

fn note(recorder: &mut Recorder, item: &Item<'_>) -> Step {
    let (kind, choice, bytes) = match item {
        Item::Delta { choice, text } => (FrameKind::Delta, *choice, text.as_bytes()),
        Item::Reasoning { choice, text } => (FrameKind::Reasoning, *choice, text.as_bytes()),
        Item::Event(bytes) => (FrameKind::Event, 0, *bytes),
        Item::Body(bytes) => (FrameKind::Body, 0, *bytes),
        Item::Tool { call, .. } => {
            recorder.tool(call);
            return Step::Content;
        }
        Item::Head(head) => {
            recorder.attempt(head.attempt);
            recorder.head(head.status, head.log_id);
            return Step::Other;
        }
        Item::Usage(_) => {
            recorder.usage();
            return Step::Other;
        }
        Item::End(end) => {
            recorder.end(Some(end.bytes));
            return Step::Other;
        }
        _ => return Step::Other,
    };
    recorder.content(kind, choice, bytes);
    Step::Content
}

/// Notes the error that ended an exchange.
pub fn note_error(recorder: &mut Recorder, error: &Error) {
    let bytes = Some(error.bytes());
    recorder.error(error.code(), error.stage(), error.sent(), bytes, error.attempts());
}

fn mode(mode: Mode) -> contract::Mode {
    match mode {
        Mode::Deltas => contract::Mode::Deltas,
        Mode::Events => contract::Mode::Events,
        Mode::Body => contract::Mode::Body,
    }
}

/// A correlation id that no other exchange of the run has.
pub fn new_id(process: u64) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{process}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until the provider has seen the end of all that it runs, then judges the history.
pub fn assert_kept(mut history: History, provider: &Provider) {
    super::eventually("the provider is at rest", || {
        provider.log().iter().all(|record| record.ended.is_some())
    });
    history.provider = provider.log();
    assert!(!history.callers.is_empty(), "nothing was recorded");
    let violations = check(&history);
    assert!(violations.is_empty(), "{} violations, first: {}", violations.len(), violations[0]);
}

/// A history of these callers.
pub fn history(callers: impl IntoIterator<Item = CallerRecord>) -> History {
    let mut history = History::default();
    history.callers.extend(callers);
    history
}

/// Writes a record to standard output, for a parent that reads this process's lines.
pub fn print(record: &CallerRecord) {
    let mut out = std::io::stdout().lock();
    record.write_line(&mut out).unwrap();
    out.flush().unwrap();
}
