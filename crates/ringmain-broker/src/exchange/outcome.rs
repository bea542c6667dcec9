//! How an exchange ended: the failure of whoever ended it from outside, and its log line.

use ringmain_policy::DeadlineOrigin;
use ringmain_wire::{Code, Sent, Stage};

use super::Origin;
use crate::alarm::Expired;
use crate::attempt::verdict;
use crate::broker::Broker;
use crate::failure::Failure;
use crate::lines::{Leave, Subject};
use crate::log_id::LogId;
use crate::record::Record;
use crate::stop::StopCause;

impl Record {
    /// The failure of a deadline that passed.
    pub(super) fn late(&self, origin: DeadlineOrigin) -> Failure {
        let (code, whose) = match origin {
            DeadlineOrigin::Caller => (Code::DeadlineExceeded, "the deadline of the caller passed"),
            DeadlineOrigin::Total => (Code::TotalTimeout, "the total limit of an exchange passed"),
        };
        let (stage, sent) = self.reached();
        Failure::while_sent(code, stage, sent, format!("{whose} {stage}"))
    }

    /// The failure of an exchange that was stopped.
    pub(super) fn stopped(&self, cause: StopCause) -> Failure {
        let code = cause.code();
        let (stage, sent) = self.reached();
        Failure::while_sent(code, stage, sent, format!("{} {stage}", code.sentence()))
    }

    /// How far the exchange has come, for whoever ends it from outside. What did not begin to go
    /// out does not go out any more.
    fn reached(&self) -> (Stage, Sent) {
        let (stage, sent) = match (self.produced, self.is_dispatched) {
            (Some(produced), _) => produced,
            (None, false) if self.is_admitting => (Stage::Admit, Sent::No),
            (None, false) => (Stage::Intake, Sent::No),
            (None, true) => {
                let sent = self.progress.give_up();
                (self.progress.stage(), sent)
            }
        };
        match self.first_content_ns {
            Some(_) => (Stage::Relay, Sent::Yes),
            None => (stage, sent.max(self.sent)),
        }
    }

    /// The failure of a limit that passed.
    pub(crate) fn expired(&mut self, expired: Expired) -> Failure {
        if let Some(adaptive) = &self.adaptive {
            adaptive.expired(expired);
        }
        if matches!(expired, Expired::Idle(_)) {
            // The pause that ended it was the longest, and has just been told.
            self.longest_gap = None;
        }
        let who = match self.produced {
            Some(_) => format!("producer {}", self.endpoint),
            None => format!("endpoint {}", self.endpoint),
        };
        let (code, text) = match expired {
            Expired::Deadline(origin) => return self.late(origin),
            Expired::Write(limit) => {
                let bytes = self.progress.body_bytes();
                let what =
                    format!("took no more of the request for {limit:?}, after {bytes} bytes");
                (Code::WriteTimeout, format!("{who} {what}"))
            }
            Expired::Head(limit) => {
                (Code::HeadTimeout, format!("{who} sent no response head for {limit:?}"))
            }
            Expired::FirstContent(limit) => {
                (Code::FirstContentTimeout, format!("{who} sent no content for {limit:?}"))
            }
            Expired::Idle(limit) => {
                (Code::IdleTimeout, format!("{who} sent no further content for {limit:?}"))
            }
            Expired::Room(limit) => {
                (Code::SlowConsumer, format!("the consumer read nothing for {limit:?}"))
            }
        };
        let (stage, sent) = self.reached();
        Failure::while_sent(code, stage, sent, text)
    }

    /// A failure in the light of all attempts: what one of them sent stays sent, and the endpoint
    /// of the last is charged with what is its own.
    pub(super) fn judge(&mut self, mut failure: Failure) -> Failure {
        failure.sent = failure.sent.max(self.sent);
        // One that was ended from outside has not come to tell of its last requests.
        self.attempts = self.attempts.max(self.progress.attempts());
        if let Some(mut running) = self.running.take() {
            verdict::charge_end(&failure, &mut running, self.lasted());
        }
        failure
    }

    /// The log line.
    pub(super) fn tell(&self, broker: &Broker, origin: Origin, id: LogId, code: Option<Code>) {
        // What reached no provider costs its caller nothing, so its lines are counted; so does what
        // a producer of another uid than the broker's own answers.
        let leave = match self.is_dispatched && !self.is_free {
            true => Some(Leave { suppressed: None }),
            false => broker.lines().leave(origin.uid, Subject::Exchange),
        };
        let Some(Leave { suppressed }) = leave else { return };
        tracing::info!(
            %id,
            uid = origin.uid,
            pid = origin.pid,
            session = origin.session,
            suppressed,
            route = %self.route,
            endpoint = %self.endpoint,
            attempts = self.attempts,
            status = self.status,
            code = code.map_or("ok", Code::name),
            ttfc_us = self.first_content_ns.map(|at_ns| self.until(at_ns).as_micros() as u64),
            deltas = self.frames,
            bytes = self.bytes,
            duration_us = self.lasted().as_micros() as u64,
            "exchange"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_its_turn_is_past_the_intake() {
        let mut record = Record::new();
        assert_eq!(record.late(DeadlineOrigin::Caller).stage, Stage::Intake);
        record.is_admitting = true;
        let late = record.late(DeadlineOrigin::Caller);
        assert_eq!((late.stage, late.sent), (Stage::Admit, Sent::No));
    }

    /// Nobody was attached, and an endpoint was asked instead: what counts is how far it has come.
    #[test]
    fn an_endpoint_behind_a_producer_is_given_up_as_such() {
        let mut record = Record::new();
        record.producer("p");
        record.target("m", "e");
        let stopped = record.stopped(StopCause::Cancelled);
        assert_eq!((stopped.stage, stopped.sent), (Stage::Connect, Sent::No));
        record.sent = Sent::Maybe;
        assert_eq!(record.stopped(StopCause::Cancelled).sent, Sent::Maybe);
    }
}
