//! Rate limits: who may be sent upstream now, and who waits for it.
//!
//! ```text
//! enter            estimates what the request will use; waits for nothing
//! Permit::attempt  takes from every limit of the attempt, or waits for its turn, or is refused
//! Permit::attempt_now
//!                  the same without a wait, where another endpoint may have room
//! Permit::sent     from here on the attempt counts, whatever becomes of it
//! Permit::failed, refused, close
//!                  end the attempt and say what it used
//! ```
//! All decisions are [`Admission`]'s, which knows neither clock nor tasks. This module holds it
//! behind one short lock, wakes who is let in, and sets one timer for the next who may be. What is
//! held is given back exactly once, by whoever drops it: an exchange that is cancelled, panics or
//! loses its client needs no further care.
//!
//! What is counted are requests as the endpoint sees them: a retry is one more. One that provably
//! never left counts as nothing. One that was refused or broke down before any content counts as a
//! request without tokens; one that was cut off later, or whose answer does not tell its usage,
//! counts with the tokens that went in and those that were delivered, as far as can be said.
//!
//! [`Admission`]: ringmain_policy::Admission

mod estimate;
mod gate;

use ringmain_policy::{Ask, Outcome};
use ringmain_shm::monotonic_ns;
use ringmain_wire::{Code, Sent, Stage};

use crate::failure::Failure;
use crate::intake::Body;
use crate::record::Record;
use crate::relay::Ended;

use estimate::Estimate;
pub(crate) use gate::Gate;
use gate::Grant;

/// What admission has to know of an exchange.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub gate: &'a Gate,
    pub uid: u32,
    /// The session that it came by; what came by none counts as one session.
    pub session: u64,
    /// When the exchange ends whatever happens: nobody waits longer.
    pub deadline_ns: u64,
    /// The pattern of its route.
    pub route: &'a str,
}

/// The right to send one exchange upstream, attempt by attempt.
///
/// Dropped at any point it gives back what is held: an attempt that was not sent counts as nothing
/// then, one that was sent and of whose answer nobody told counts with its estimate.
pub(crate) struct Permit<'a> {
    candidate: Candidate<'a>,
    /// What an attempt is expected to use.
    tokens: Estimate,
    grant: Option<Grant>,
}

/// Begins the admission of an exchange. Nothing is taken yet.
///
/// The body is looked into only where the tokens of this request count, piece by piece in memory
/// of our own; it stays where it lies, and is not charged as a copy.
pub(crate) async fn enter<'a>(candidate: Candidate<'a>, body: &Body) -> Permit<'a> {
    let Candidate { gate, uid, route, .. } = candidate;
    let tokens = match gate.counts_tokens(route, uid) {
        true => estimate::tokens(body).await,
        false => Estimate::default(),
    };
    Permit { candidate, tokens, grant: None }
}

impl Permit<'_> {
    /// Takes from every limit that an attempt at this endpoint falls under (`None`: a producer of
    /// this host), all or nothing, and waits for its turn in the queue if it has to. What an
    /// earlier attempt held is given back first. The time is one of the monotonic clock, in ns.
    ///
    /// Dropping the future leaves the queue.
    ///
    /// # Errors
    /// `RateLimited`, stage admit, sent no, with the time after which it might fit: at once when
    /// the turn would come after the deadline, or when too many wait.
    pub async fn attempt(&mut self, endpoint: Option<&str>, now_ns: u64) -> Result<(), Failure> {
        self.grant = None;
        let ask = self.ask(endpoint);
        let grant = self.candidate.gate.pass(&ask, now_ns).await.map_err(|refusal| {
            let whose = match refusal.limit.as_str() {
                "" => String::new(),
                limit => format!(" (limit of {limit})"),
            };
            let text = format!("{}{whose}", refusal.cause);
            let mut failure = Failure::new(Code::RateLimited, Stage::Admit, text);
            // Rounded up: whoever comes back then finds room.
            failure.retry_after_ms = Some(refusal.retry_after_ns.div_ceil(1_000_000));
            failure
        })?;
        self.grant = Some(grant);
        Ok(())
    }

    /// The same for an attempt that could be made elsewhere, so that it waits for nothing.
    ///
    /// # Errors
    /// When its turn might come here, ns of the monotonic clock.
    pub fn attempt_now(&mut self, endpoint: Option<&str>, now_ns: u64) -> Result<(), u64> {
        self.grant = None;
        self.grant = Some(self.candidate.gate.pass_now(&self.ask(endpoint), now_ns)?);
        Ok(())
    }

    fn ask<'a>(&'a self, endpoint: Option<&'a str>) -> Ask<'a> {
        let Candidate { uid, session, deadline_ns, route, .. } = self.candidate;
        Ask { uid, session, deadline_ns, endpoint, route, tokens: self.tokens.whole() }
    }

    /// The request is about to be sent: from here on it counts even when it is cut off.
    pub fn sent(&mut self) {
        if let Some(grant) = &mut self.grant {
            grant.outcome = Outcome::Unknown;
        }
    }

    /// The attempt ended before any content, and may have been seen upstream or not.
    pub fn failed(&mut self, sent: Sent) {
        let outcome = match sent {
            Sent::No => Outcome::Unsent,
            Sent::Maybe | Sent::Yes => Outcome::Failed,
        };
        self.end(outcome, monotonic_ns());
    }

    /// The endpoint answered 429: the attempt is over, and the rate of the endpoint goes down for
    /// everybody until it recovers, unless a limit leaves its refusals to their callers. A
    /// `Retry-After` of up to two minutes is kept by all.
    pub fn refused(&mut self, retry_after_ms: Option<u64>) {
        if let Some(grant) = &self.grant {
            grant.refused(retry_after_ms.map(|ms| ms.saturating_mul(1_000_000)));
        }
        self.end(Outcome::Failed, monotonic_ns());
    }

    /// The attempt was answered, and is over. It used what the answer told, or else what was
    /// delivered of it; an answer that cost nobody anything is not believed.
    pub fn settle(&mut self, record: &Record) {
        let told = record.tokens.filter(|_| !record.is_free);
        let used = told.unwrap_or_else(|| self.tokens.used(record.bytes));
        self.end(Outcome::Used(used), record.progress.now_ns());
    }

    /// The exchange is cut off, wherever it is.
    pub fn cut(&mut self, record: &Record) {
        if self.grant.as_ref().is_some_and(|grant| grant.outcome == Outcome::Unknown) {
            self.settle(record);
        }
    }

    /// The last attempt was relayed to its end, good or bad.
    pub fn close(&mut self, record: &Record, ended: &Result<Ended, Failure>) {
        match ended {
            Err(failure) if record.first_content_ns.is_none() => self.failed(failure.sent),
            Ok(_) if record.status.is_some_and(|status| status >= 400) => self.failed(Sent::Yes),
            _ => self.settle(record),
        }
    }

    fn end(&mut self, outcome: Outcome, now_ns: u64) {
        if let Some(grant) = self.grant.take() {
            grant.end(outcome, now_ns);
        }
    }
}

#[cfg(test)]
mod tests;
