//! From the body of an answer to frames, in the request's own task: one chunk is polled, decoded,
//! written and rung for before the next one is waited for. A full lane stops the polling, which
//! holds the provider back; nothing is queued here.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use ringmain_ring::Push;
use ringmain_upstream::{Answer, AnswerBody, Decoder, UpstreamError, Verdict};
use ringmain_wire::frame::{EndFrame, lines_of};
use ringmain_wire::{Code, Kind, ResponseHead, Sent, Stage};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::egress::Egress;
use crate::failure::Failure;
use crate::gather::Gather;
use crate::pipeline::Inbound;
use crate::record::Record;

/// The good end of an exchange.
pub(crate) struct Ended {
    /// The payload of the END frame.
    pub payload: Vec<u8>,
    /// What is left of an endpoint's answer: to be settled once the caller has its END.
    pub rest: Option<AnswerBody>,
}

/// Relays an answer to its end.
pub(crate) async fn run<E: Egress>(
    mut answer: Answer,
    inbound: &mut Inbound<'_>,
    egress: &mut E,
    record: &mut Record,
) -> Result<Ended, Failure> {
    let limits = inbound.limits;
    let head = head_payload(&answer, inbound, record);
    let mut decoder = answer.decoder();
    let mut relay = Relay::new(egress, record, head, limits.slow_consumer);
    let timer = pin!(sleep_until(Instant::now() + limits.first_content));
    let mut patience = Patience::new(timer, limits.first_content);
    let mut gather = Gather::default();
    // Bound: the total limit of the exchange ends this loop from outside.
    loop {
        let had_content = relay.record.first_content.is_some();
        if relay.take_all(&mut decoder).await? {
            patience.restart(limits.idle);
            if !had_content {
                // Nothing will be sent again, so the caller gets its chunk back.
                inbound.body.release();
                relay.egress.release_request();
            }
        }
        if decoder.is_ended() {
            if let Some(usage) = decoder.usage() {
                relay.record.used(&usage);
            }
            return relay.end(&decoder, answer.body).await;
        }
        let chunk = match gather.at_hand(&mut answer.body).await {
            Some(chunk) => chunk,
            None => {
                relay.egress.flush();
                gather.waits();
                let chunk = next_chunk(&mut answer.body, &mut patience, relay.record).await?;
                gather.came();
                chunk
            }
        };
        match chunk {
            Ok(Some(chunk)) => decoder.feed(chunk),
            Ok(None) => decoder.end_of_body(),
            Err(broken) => decoder.broken(broken)?,
        }
    }
}

/// One exchange's way from pieces to frames.
pub(crate) struct Relay<'a, E> {
    pub egress: &'a mut E,
    pub record: &'a mut Record,
    /// The HEAD frame, until it is written: together with the first piece, for one wake-up.
    head: Option<Vec<u8>>,
    slow: Duration,
}

impl<'a, E: Egress> Relay<'a, E> {
    pub fn new(
        egress: &'a mut E,
        record: &'a mut Record,
        head: Vec<u8>,
        slow: Duration,
    ) -> Relay<'a, E> {
        Relay { egress, record, head: Some(head), slow }
    }

    /// Writes every piece that the decoder has; true if there was content.
    async fn take_all(&mut self, decoder: &mut Decoder) -> Result<bool, Failure> {
        let mut had_content = false;
        while let Some(piece) = decoder.next()? {
            self.put(piece.kind, piece.choice, piece.payload).await?;
            if piece.content {
                had_content = true;
                self.record.had_content();
            }
        }
        Ok(had_content)
    }

    /// Writes one piece, behind the HEAD.
    pub async fn put(&mut self, kind: Kind, choice: u16, bytes: &[u8]) -> Result<(), Failure> {
        self.put_head().await?;
        self.write(kind, choice, bytes).await?;
        if kind.is_content() {
            self.record.delivered(bytes.len());
        }
        Ok(())
    }

    async fn put_head(&mut self) -> Result<(), Failure> {
        match self.head.take() {
            Some(head) => self.write(Kind::Head, 0, &head).await,
            None => Ok(()),
        }
    }

    async fn write(&mut self, kind: Kind, choice: u16, payload: &[u8]) -> Result<(), Failure> {
        let mut rest = payload;
        // Bound: every round writes something or waits, and waits end at the limit.
        loop {
            match self.egress.push(kind, choice, rest)? {
                Push::Written => return Ok(()),
                Push::Partly(taken) => rest = &rest[taken..],
                Push::Full => self.wait_for_room(rest.len()).await?,
            }
        }
    }

    #[cold]
    async fn wait_for_room(&mut self, bytes: usize) -> Result<(), Failure> {
        self.egress.flush();
        let lines = lines_of(bytes);
        let room = timeout(self.slow, poll_fn(|cx| self.egress.poll_room(cx, lines))).await;
        room.unwrap_or_else(|_| {
            let text = format!("the consumer read nothing for {:?}", self.slow);
            Err(Failure::while_sent(Code::SlowConsumer, Stage::Relay, Sent::Yes, text))
        })
    }

    async fn end(self, decoder: &Decoder, rest: AnswerBody) -> Result<Ended, Failure> {
        let Verdict::Ended(frame) = decoder.verdict() else {
            let text = "the end of the answer was lost";
            return Err(Failure::while_sent(Code::Internal, Stage::Relay, Sent::Yes, text.into()));
        };
        self.finish(frame, Some(rest)).await
    }

    /// The good end, which the caller of the pipeline writes: HEAD, if it was not needed before,
    /// and the payload of END.
    pub async fn finish(
        mut self,
        mut frame: EndFrame<'_>,
        rest: Option<AnswerBody>,
    ) -> Result<Ended, Failure> {
        self.put_head().await?;
        frame.bytes = self.record.bytes;
        let mut payload = Vec::with_capacity(64);
        frame.encode(&mut payload);
        Ok(Ended { payload, rest })
    }
}

/// How long content may be waited for. Content moves the start, not the timer: a steady stream
/// costs no timer operation per piece.
pub(crate) struct Patience<'a> {
    timer: Pin<&'a mut Sleep>,
    since: Instant,
    limit: Duration,
}

impl<'a> Patience<'a> {
    /// With a timer that is due at the limit.
    pub fn new(timer: Pin<&'a mut Sleep>, limit: Duration) -> Patience<'a> {
        Patience { timer, since: Instant::now(), limit }
    }

    pub fn limit(&self) -> Duration {
        self.limit
    }

    pub fn restart(&mut self, limit: Duration) {
        self.since = Instant::now();
        if limit != self.limit {
            self.limit = limit;
            self.timer.as_mut().reset(self.since + limit);
        }
    }

    pub async fn ends(&mut self) {
        // Bound: each round but the last moves the timer to a later content.
        loop {
            self.timer.as_mut().await;
            let due = self.since + self.limit;
            if due <= Instant::now() {
                return;
            }
            self.timer.as_mut().reset(due);
        }
    }
}

async fn next_chunk(
    body: &mut AnswerBody,
    patience: &mut Patience<'_>,
    record: &Record,
) -> Result<Result<Option<Bytes>, UpstreamError>, Failure> {
    tokio::select! {
        biased;
        chunk = body.chunk() => Ok(chunk),
        () = patience.ends() => Err(silent(patience.limit, record)),
    }
}

/// The failure of an upstream that sent nothing for too long.
pub(crate) fn silent(limit: Duration, record: &Record) -> Failure {
    let endpoint = &record.endpoint;
    match record.first_content {
        None => {
            let text = format!("endpoint {endpoint} sent no content for {limit:?}");
            let code = Code::FirstContentTimeout;
            Failure::while_sent(code, Stage::AwaitContent, Sent::Yes, text)
        }
        Some(_) => {
            let text = format!("endpoint {endpoint} sent no further content for {limit:?}");
            Failure::while_sent(Code::IdleTimeout, Stage::Relay, Sent::Yes, text)
        }
    }
}

fn head_payload(answer: &Answer, inbound: &Inbound<'_>, record: &Record) -> Vec<u8> {
    let id = inbound.id.to_string();
    let mut head = ResponseHead::default();
    head.status = answer.status;
    head.attempt = record.attempts;
    head.log_id = &id;
    head.route = &record.route;
    head.endpoint = &record.endpoint;
    head.content_type = &answer.content_type;
    head.upstream_request_id = answer.request_id.as_deref();
    let headers = answer.headers.iter();
    head.headers = headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut payload = Vec::with_capacity(256);
    head.encode(&mut payload);
    payload
}
