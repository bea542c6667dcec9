//! From a producer's frames to those of its caller, in the task of the exchange: one frame is
//! copied, judged and written before the next one is looked at. A full lane stops the reading,
//! which fills the producer's lane and holds the producer back; nothing is queued here.

use std::future::poll_fn;

use ringmain_policy::ExchangeLimits;
use ringmain_shm::monotonic_ns;
use ringmain_wire::frame::{FrameHeader, Usage};
use ringmain_wire::{Code, ErrorFrame, Kind, Sent, Stage};

use super::judge::{Judge, Part};
use super::{Gone, Held};
use crate::alarm::Waiting;
use crate::attempt::window::HeldHead;
use crate::egress::Egress;
use crate::failure::{Failure, Violation};
use crate::pipeline::Inbound;
use crate::record::Record;
use crate::relay::{Ended, Relay};

/// Frames relayed before others have their turn.
const FRAMES_PER_TURN: u32 = 64;

/// Relays an answer to its end. Dropped before, it gives the exchange up.
pub(crate) async fn run<E: Egress>(
    held: Held,
    limits: &ExchangeLimits,
    inbound: &Inbound<'_>,
    egress: &mut E,
    record: &mut Record,
) -> Result<Ended, Failure> {
    let mut source = Source::new(&held, inbound);
    let ended = source.relay(limits, inbound, egress, record).await;
    if source.has_ended {
        held.end();
    }
    ended
}

/// The frames of one exchange.
struct Source<'a> {
    held: &'a Held,
    judge: Judge,
    /// Payload of the frame that was read last.
    // Bound: a quarter of the lane.
    buf: Vec<u8>,
    /// The terminal frame was read.
    has_ended: bool,
}

impl Source<'_> {
    fn new<'a>(held: &'a Held, inbound: &Inbound<'_>) -> Source<'a> {
        let judge = Judge::new(held.id, inbound.mode);
        Source { held, judge, buf: Vec::new(), has_ended: false }
    }

    async fn relay<E: Egress>(
        &mut self,
        limits: &ExchangeLimits,
        inbound: &Inbound<'_>,
        egress: &mut E,
        record: &mut Record,
    ) -> Result<Ended, Failure> {
        let alarm = inbound.alarm;
        alarm.wait_for(Waiting::Head(limits.head));
        let head = self.head(inbound, egress, record).await?;
        alarm.wait_for(Waiting::FirstContent(limits.first_content));
        let mut relay = Relay::new(egress, record, head, limits, alarm);
        let mut in_turn = 0;
        // Bound: the total limit of the exchange ends this loop from outside.
        loop {
            let header = self.frame(relay.egress).await;
            let header = header.map_err(|gone| self.lost(&gone, relay.record))?;
            match self.judge(&header, relay.record)? {
                Part::Piece { kind, choice, payload } => {
                    if let (Kind::Usage, Ok(usage)) = (kind, Usage::parse(payload)) {
                        relay.record.used(Some(usage));
                    }
                    let is_content = kind.is_content() && !payload.is_empty();
                    let now_ns = monotonic_ns();
                    relay.egress.batch(now_ns);
                    relay.put(kind, choice, payload, is_content).await?;
                    if is_content {
                        relay.record.had_content();
                        alarm.wait_from(now_ns, Waiting::Idle(limits.idle));
                    }
                }
                // A HEAD that is not the first frame was refused by the judge.
                Part::Begun | Part::Head(_) => {}
                Part::End(frame) => {
                    let payload = relay.finish(frame).await?;
                    return Ok(Ended { payload, rest: None });
                }
                Part::Error(frame) => return Err(failure_of(&frame, relay.record)),
            }
            in_turn += 1;
            if in_turn == FRAMES_PER_TURN {
                in_turn = 0;
                relay.egress.flush();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for the HEAD of the answer. The caller is given status, content type and request id.
    async fn head<E: Egress>(
        &mut self,
        inbound: &Inbound<'_>,
        egress: &mut E,
        record: &mut Record,
    ) -> Result<HeldHead, Failure> {
        let header = self.frame(egress).await;
        let header = header.map_err(|gone| self.lost(&gone, record))?;
        match self.judge(&header, record)? {
            Part::Error(frame) => Err(failure_of(&frame, record)),
            Part::Head(theirs) => {
                record.status = Some(theirs.status);
                record.produced = Some((Stage::AwaitContent, Sent::Yes));
                Ok(HeldHead {
                    id: inbound.id,
                    status: theirs.status,
                    content_type: theirs.content_type.to_owned(),
                    request_id: theirs.upstream_request_id.map(str::to_owned),
                    headers: Vec::new(),
                })
            }
            // The judge lets nothing else be first.
            _ => Err(failure(Code::Internal, record, Code::Internal.sentence().to_owned())),
        }
    }

    /// The next frame. Whoever waits for one has told its caller of those before.
    async fn frame<E: Egress>(&mut self, egress: &mut E) -> Result<FrameHeader, Gone> {
        let Source { held, buf, .. } = self;
        poll_fn(|cx| {
            let frame = held.producer.poll_frame(held.lane, cx, buf);
            if frame.is_pending() {
                egress.flush();
            }
            frame
        })
        .await
    }

    /// Judges the frame that was read; a faulty one ends the producer's session.
    fn judge(&mut self, header: &FrameHeader, record: &Record) -> Result<Part<'_>, Failure> {
        let Source { held, judge, buf, has_ended } = self;
        let producer = &held.producer;
        let accuse = |text: String| {
            producer.accuse(Violation::new(Code::ViolationFrame, &text));
            let text = format!("producer {} broke the protocol: {text}", producer.name);
            failure(Code::ProducerGone, record, text)
        };
        let part = judge.take(header, buf).map_err(|fault| accuse(fault.to_string()))?;
        *has_ended = matches!(part, Part::End(_) | Part::Error(_));
        if *has_ended && producer.has_more(held.lane) {
            return Err(accuse("something stands behind a terminal frame".to_owned()));
        }
        Ok(part)
    }

    fn lost(&self, gone: &Gone, record: &Record) -> Failure {
        let text = format!("producer {} went away: {}", self.held.producer.name, gone.text);
        failure(Code::ProducerGone, record, text)
    }
}

/// A failure as far as the exchange has come.
fn failure(code: Code, record: &Record, text: String) -> Failure {
    let (stage, sent) = match record.first_content_ns {
        Some(_) => (Stage::Relay, Sent::Yes),
        None => record.produced.unwrap_or((Stage::AwaitHead, Sent::Maybe)),
    };
    Failure::while_sent(code, stage, sent, text)
}

/// What a producer says went wrong. It speaks for itself alone: codes that speak of the broker,
/// of sessions or of identities become an error of the provider.
fn failure_of(frame: &ErrorFrame<'_>, record: &Record) -> Failure {
    let may_say = matches!(
        frame.code,
        Code::InvalidRequest
            | Code::BodyTooLarge
            | Code::DeadlineExceeded
            | Code::RateLimited
            | Code::UpstreamRefused
            | Code::UpstreamStatus
            | Code::UpstreamTooLarge
            | Code::EndpointUnavailable
    );
    let code = if may_say { frame.code } else { Code::UpstreamError };
    let text = format!("producer {}: {}", record.endpoint, frame.message);
    let mut failure = failure(code, record, text);
    failure.sent = Sent::Yes;
    failure.http_status = frame.http_status;
    failure.retry_after_ms = frame.retry_after_ms;
    failure.provider_code = frame.provider_code.to_owned();
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producer_speaks_for_itself_alone() {
        let record = Record::new();
        let said = |code| failure_of(&ErrorFrame::new(code, Stage::Attach, "no"), &record).code;
        assert_eq!(said(Code::RateLimited), Code::RateLimited);
        for code in [Code::BrokerGone, Code::ViolationFrame, Code::NotAllowed, Code::Drained] {
            assert_eq!(said(code), Code::UpstreamError);
        }
    }
}
