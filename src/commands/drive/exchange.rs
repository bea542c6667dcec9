//! One exchange, recorded as its caller sees it.

use std::io;
use std::thread;
use std::time::Duration;

use ringmain_client::{ChatBody, Client, Error, Item, Mode, Request, ToolFrame};
use ringmain_shm::monotonic_ns;
use ringmain_sim::contract::{self, FrameKind, Recorder};

use super::Load;

/// Runs an exchange on this thread.
pub fn run(client: &Client, load: &Load, number: u64) -> io::Result<()> {
    let mut watch = Watch::new(load, number);
    let (request, body) = watch.request();
    match client.submit(&request, &body) {
        Err(error) => watch.recorder.refused(error.code()),
        Ok(mut stream) => {
            watch.accepted(stream.broker_epoch())?;
            loop {
                match stream.next() {
                    Ok(Some(item)) => watch.item(&item),
                    Ok(None) => break,
                    Err(error) => watch.failed(&error),
                }
                if watch.wants_cancel() {
                    stream.cancel();
                }
                if !load.pause.is_zero() {
                    thread::sleep(load.pause);
                }
            }
        }
    }
    watch.finish()
}

/// Runs an exchange as a task.
pub async fn run_async(client: &Client, load: &Load, number: u64) -> io::Result<()> {
    let mut watch = Watch::new(load, number);
    let (request, body) = watch.request();
    match client.submit_async(&request, &body).await {
        Err(error) => watch.recorder.refused(error.code()),
        Ok(mut stream) => {
            watch.accepted(stream.broker_epoch())?;
            loop {
                match stream.next().await {
                    Ok(Some(item)) => watch.item(&item),
                    Ok(None) => break,
                    Err(error) => watch.failed(&error),
                }
                if watch.wants_cancel() {
                    stream.cancel();
                }
                if !load.pause.is_zero() {
                    tokio::time::sleep(load.pause).await;
                }
            }
        }
    }
    watch.finish()
}

/// An exchange while it runs.
struct Watch<'a> {
    load: &'a Load,
    number: u64,
    prompt: String,
    recorder: Recorder,
    contents: u64,
    cancelled: bool,
}

impl<'a> Watch<'a> {
    fn new(load: &'a Load, number: u64) -> Watch<'a> {
        let id = format!("{}-{number}", load.process);
        let prompt = load.prompt.replace("{i}", &number.to_string()).replace("{id}", &id);
        let mut recorder = Recorder::new(id, load.process, load.uid);
        let record = recorder.record();
        record.usage_requested = true;
        record.mode = match load.mode {
            Mode::Events => contract::Mode::Events,
            Mode::Body => contract::Mode::Body,
            _ => contract::Mode::Deltas,
        };
        record.deadline_ns = load.deadline.map(|deadline| monotonic_ns() + nanos(deadline));
        Watch { load, number, prompt, recorder, contents: 0, cancelled: false }
    }

    fn request(&self) -> (Request<'a>, ChatBody<'a>) {
        let model = self.load.model.as_str();
        let request = Request::new(model, "/chat/completions").mode(self.load.mode);
        let request = request.usage_requested();
        let request = match self.load.deadline {
            Some(deadline) => request.deadline(deadline),
            None => request,
        };
        (request, ChatBody::new(model).message("user", self.prompt.clone()))
    }

    fn accepted(&mut self, epoch: u64) -> io::Result<()> {
        self.recorder.accepted(epoch, self.load.process, self.number);
        self.load.log.submitted(self.recorder.record())
    }

    fn item(&mut self, item: &Item<'_>) {
        match item {
            Item::Head(head) => {
                self.recorder.attempt(head.attempt);
                self.recorder.head(head.status, head.log_id);
            }
            Item::Delta { choice, text } => self.content(FrameKind::Delta, *choice, text),
            Item::Reasoning { choice, text } => self.content(FrameKind::Reasoning, *choice, text),
            Item::Tool { call, .. } => self.tool(call),
            Item::Event(bytes) => self.content(FrameKind::Event, 0, bytes),
            Item::Body(bytes) => self.content(FrameKind::Body, 0, bytes),
            Item::Usage(_) => self.recorder.usage(),
            Item::End(end) => self.recorder.end(Some(end.bytes)),
            _ => {}
        }
    }

    fn content(&mut self, kind: FrameKind, choice: u16, bytes: impl AsRef<[u8]>) {
        self.contents += 1;
        self.recorder.content(kind, choice, bytes.as_ref());
    }

    fn tool(&mut self, call: &ToolFrame<'_>) {
        self.contents += 1;
        self.recorder.tool(call);
    }

    fn failed(&mut self, error: &Error) {
        let bytes = Some(error.bytes());
        self.recorder.error(error.code(), error.stage(), error.sent(), bytes, error.attempts());
    }

    /// Whether the exchange is to be cancelled now; true once.
    fn wants_cancel(&mut self) -> bool {
        let due = self.load.cancel_after.is_some_and(|after| self.contents >= after);
        let wants = due && !self.cancelled;
        if wants {
            self.cancelled = true;
            self.recorder.cancelled(false);
        }
        wants
    }

    fn finish(self) -> io::Result<()> {
        self.load.log.finished(&self.recorder.finish())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
