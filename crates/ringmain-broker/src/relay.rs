//! From the body of an answer to frames, in the request's own task: one chunk is polled, decoded,
//! written and rung for before the next one is waited for. A full lane stops the polling, which
//! holds the provider back; nothing is queued here.

use std::future::poll_fn;
use std::mem::take;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use ringmain_policy::ExchangeLimits;
use ringmain_ring::Push;
use ringmain_upstream::{Answer, AnswerBody, Decoder, Piece, Verdict};
use ringmain_wire::frame::{EndFrame, lines_of};
use ringmain_wire::{Code, Kind, Sent, Stage};

use crate::alarm::{Alarm, Waiting};
use crate::attempt::window::{HeldHead, Window};
use crate::egress::Egress;
use crate::failure::Failure;
use crate::gather::Gather;
use crate::holding::Holding;
use crate::pipeline::Inbound;
use crate::record::Record;

/// The good end of an exchange.
pub(crate) struct Ended {
    /// The payload of the END frame.
    pub payload: Vec<u8>,
    /// What is left of an endpoint's answer: to be settled once the caller has its END. Most often
    /// nothing is, so it lies apart.
    pub rest: Option<Box<AnswerBody>>,
}

/// Relays an answer to its end. Until its first content nothing of it is written, and a failure
/// leaves the caller as if it had never been asked for.
pub(crate) async fn run<E: Egress>(
    answer: &mut Answer,
    limits: &ExchangeLimits,
    inbound: &mut Inbound<'_>,
    egress: &mut E,
    record: &mut Record,
) -> Result<Ended, Failure> {
    is_final(answer)?;
    let head = HeldHead {
        id: inbound.id,
        status: answer.status,
        content_type: take(&mut answer.content_type),
        request_id: answer.request_id.take(),
        headers: take(&mut answer.headers),
    };
    let mut decoder = answer.decoder();
    let Inbound { alarm, body, copy, copies, .. } = inbound;
    let mut holding = Holding::default();
    let mut relay = Relay::new(egress, record, head, limits, alarm);
    let mut gather = Gather::new(alarm.now_ns());
    alarm.wait_for(Waiting::FirstContent(limits.first_content));
    // Bound: the total limit of the exchange ends this loop from outside.
    loop {
        let was_settled = relay.record.is_settled;
        let taken = relay.take_all(&mut decoder).await;
        if taken.is_err() || decoder.is_ended() {
            relay.record.used(decoder.usage());
        }
        if taken? {
            alarm.wait_from(gather.now_ns(), Waiting::Idle(limits.idle));
        }
        if relay.record.is_settled && !was_settled {
            // Nothing will be sent again, so the caller gets its chunk back.
            body.release();
            *copy = None;
            relay.egress.release_request();
        }
        if decoder.is_ended() {
            let rest = left_of(&mut answer.body).await;
            let payload = relay.end(&decoder).await?;
            return Ok(Ended { payload, rest });
        }
        holding.grows_to(decoder.held_bytes() + answer.body.held_bytes(), copies)?;
        if relay.egress.is_filling() {
            relay.egress.flush();
            gather.flushed();
        }
        let chunk = match gather.at_hand(&mut answer.body) {
            Some(chunk) => chunk,
            None => {
                relay.egress.flush();
                gather.waits(&mut answer.body).await;
                let chunk = answer.body.chunk().await;
                let bytes = chunk.as_ref().map_or(0, |chunk| chunk.as_ref().map_or(0, Bytes::len));
                gather.came(bytes, alarm.now_ns());
                chunk
            }
        };
        match chunk {
            Ok(Some(chunk)) => {
                relay.egress.batch(gather.now_ns());
                decoder.feed(chunk);
            }
            Ok(None) => decoder.end_of_body(),
            Err(broken) => {
                relay.record.used(decoder.usage());
                decoder.broken(broken)?;
            }
        }
    }
}

/// One exchange's way from pieces to frames.
pub(crate) struct Relay<'a, E> {
    pub egress: &'a mut E,
    pub record: &'a mut Record,
    /// What is held back, until there is content. HEAD travels with the first content also because
    /// its consumer is then woken once.
    window: Option<Window>,
    slow: Duration,
    alarm: &'a Alarm,
}

impl<'a, E: Egress> Relay<'a, E> {
    pub fn new(
        egress: &'a mut E,
        record: &'a mut Record,
        head: HeldHead,
        limits: &ExchangeLimits,
        alarm: &'a Alarm,
    ) -> Relay<'a, E> {
        let (window, slow) = (Some(Window::new(head)), limits.slow_consumer);
        Relay { egress, record, window, slow, alarm }
    }

    /// Writes every piece that the decoder has; true if there was content.
    async fn take_all(&mut self, decoder: &mut Decoder) -> Result<bool, Failure> {
        let mut had_content = false;
        while let Some(Piece { kind, choice, payload, content, .. }) = decoder.next()? {
            match self.window {
                Some(_) => self.put(kind, choice, payload, content).await?,
                // Nearly always all of it is written here, without a future.
                None => match self.begin(kind, choice, payload)? {
                    None => self.count(kind, payload),
                    Some(rest) => {
                        self.write(kind, choice, rest).await?;
                        self.count(kind, payload);
                    }
                },
            }
            if content && !had_content {
                had_content = true;
                self.record.had_content();
            }
        }
        Ok(had_content)
    }

    /// Writes one piece, behind the HEAD and what was held, or holds it back too.
    pub async fn put(
        &mut self,
        kind: Kind,
        choice: u16,
        bytes: &[u8],
        is_content: bool,
    ) -> Result<(), Failure> {
        if let Some(window) = &mut self.window {
            if !is_content && window.hold(kind, choice, bytes) {
                return Ok(());
            }
            self.settle().await?;
        }
        self.put_now(kind, choice, bytes).await
    }

    async fn put_now(&mut self, kind: Kind, choice: u16, bytes: &[u8]) -> Result<(), Failure> {
        self.write(kind, choice, bytes).await?;
        self.count(kind, bytes);
        Ok(())
    }

    #[inline]
    fn count(&mut self, kind: Kind, bytes: &[u8]) {
        if kind.is_content() {
            self.record.delivered(bytes.len());
        }
    }

    /// From here on this answer is the one that the caller is given.
    async fn settle(&mut self) -> Result<(), Failure> {
        let Some(window) = self.window.take() else { return Ok(()) };
        self.record.is_settled = true;
        let egress = &mut *self.egress;
        if !window.head.show(self.record, |head| egress.take_head(head))? {
            let mut payload = Vec::with_capacity(256);
            window.head.show(self.record, |head| head.encode(&mut payload));
            self.write(Kind::Head, 0, &payload).await?;
        }
        for (kind, choice, payload) in window.pieces() {
            self.put_now(kind, choice, payload).await?;
        }
        Ok(())
    }

    /// Writes what there is room for; gives what is left, if anything is.
    #[inline]
    fn begin<'b>(
        &mut self,
        kind: Kind,
        choice: u16,
        payload: &'b [u8],
    ) -> Result<Option<&'b [u8]>, Failure> {
        Ok(match self.egress.push(kind, choice, payload)? {
            Push::Written => None,
            Push::Partly(taken) => Some(&payload[taken..]),
            Push::Full => Some(payload),
        })
    }

    async fn write(&mut self, kind: Kind, choice: u16, payload: &[u8]) -> Result<(), Failure> {
        let mut rest = payload;
        // Bound: every round writes something or waits, and waits end at the limit.
        while let Some(left) = self.begin(kind, choice, rest)? {
            if left.len() == rest.len() {
                self.wait_for_room(rest.len()).await?;
            }
            rest = left;
        }
        Ok(())
    }

    #[cold]
    async fn wait_for_room(&mut self, bytes: usize) -> Result<(), Failure> {
        self.egress.flush();
        let lines = lines_of(bytes);
        let before = self.alarm.wait_for(Waiting::Room(self.slow));
        let room = poll_fn(|cx| self.egress.poll_room(cx, lines)).await;
        // The provider was held back meanwhile: its time begins anew.
        self.alarm.wait_for(before);
        room
    }

    async fn end(&mut self, decoder: &Decoder) -> Result<Vec<u8>, Failure> {
        let Verdict::Ended(frame) = decoder.verdict() else {
            let text = "the end of the answer was lost";
            return Err(Failure::while_sent(Code::Internal, Stage::Relay, Sent::Yes, text.into()));
        };
        self.finish(frame).await
    }

    /// The good end, which the caller of the pipeline writes: HEAD, if it was not needed before,
    /// and the payload of END.
    pub async fn finish(&mut self, mut frame: EndFrame<'_>) -> Result<Vec<u8>, Failure> {
        self.settle().await?;
        frame.bytes = self.record.bytes;
        let mut payload = Vec::with_capacity(64);
        frame.encode(&mut payload);
        Ok(payload)
    }
}

/// What has not come yet of the end of an answer. Mostly all has: then its connection is free
/// before its caller has the END, and serves the next request.
async fn left_of(body: &mut AnswerBody) -> Option<Box<AnswerBody>> {
    let is_over = {
        let mut settling = pin!(body.settle());
        poll_fn(|cx| Poll::Ready(settling.as_mut().poll(cx).is_ready())).await
    };
    (!is_over).then(|| Box::new(body.take()))
}

/// Nobody asked for another protocol, so an interim status is not the head of an answer.
fn is_final(answer: &Answer) -> Result<(), Failure> {
    if answer.status >= 200 {
        return Ok(());
    }
    let text = format!("the endpoint answered with the interim status {}", answer.status);
    let mut failure =
        Failure::while_sent(Code::UpstreamProtocol, Stage::AwaitContent, Sent::Yes, text);
    failure.http_status = Some(answer.status);
    Err(failure)
}
