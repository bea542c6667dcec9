//! The other side: a process of this host that answers requests.

mod job;
mod stand;

use std::mem;
use std::time::{Duration, Instant};

pub use job::{Answer, Asked, Job, Ticket};

use crate::attach;
use crate::config::Config;
use crate::error::Result;
use stand::Stand;

/// Answers the requests of every route that names it: a local model server, a test double, a
/// bridge. Used by one thread at a time; several producers may share a name.
///
/// Requests are read where the broker copied them, and answers are written where it reads them;
/// nothing is parsed or queued in between. A lane that is full holds [`Answer`] back until the
/// consumer has read, or the exchange is cancelled.
///
/// ```no_run
/// use ringmain_client::{Config, FinishReason, Producer};
///
/// let mut producer = Producer::attach(Config::default(), "words")?;
/// loop {
///     let mut job = producer.take()?;
///     let (asked, mut answer) = job.parts()?;
///     let text = String::from_utf8_lossy(asked.body);
///     let written = text.split_inclusive(' ').try_for_each(|word| answer.delta(word));
///     // A caller that is gone ends this job and nothing else.
///     let _ = written.and_then(|()| answer.end(FinishReason::Stop));
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), ringmain_client::Error>(())
/// ```
#[derive(Debug)]
pub struct Producer {
    config: Config,
    /// `None`: the broker went away; the next call attaches anew.
    stand: Option<Box<Stand>>,
    serial: u32,
}

impl Producer {
    /// Attaches under a name that the broker's configuration leads a route to.
    ///
    /// # Errors
    /// As [`Session::attach`](crate::Session::attach); `UnknownRoute` when no route names this
    /// producer, `NotAllowed` when this user may not be it.
    pub fn attach(mut config: Config, name: &str) -> Result<Producer> {
        config.producer = Some(name.to_owned());
        let mut producer = Producer { config, stand: None, serial: 0 };
        producer.stand()?;
        Ok(producer)
    }

    /// Waits for the next request.
    ///
    /// # Errors
    /// `BrokerGone`, or the reason for which the broker closed the session. The call after it
    /// attaches anew.
    pub fn take(&mut self) -> Result<Job<'_>> {
        let ticket = loop {
            // Bound: waits for the broker, whose end is an error.
            if let Some(ticket) = self.next(None)? {
                break ticket;
            }
        };
        Ok(Job::new(self, ticket))
    }

    /// Waits for the next request, at most this long.
    ///
    /// # Errors
    /// As [`Producer::take`].
    pub fn take_within(&mut self, patience: Duration) -> Result<Option<Job<'_>>> {
        let until = Instant::now() + patience;
        match self.next(Some(until))? {
            Some(ticket) => Ok(Some(Job::new(self, ticket))),
            None => Ok(None),
        }
    }

    /// Goes on with a job that was put aside.
    pub fn resume(&mut self, ticket: Ticket) -> Job<'_> {
        Job::new(self, ticket)
    }

    fn next(&mut self, until: Option<Instant>) -> Result<Option<Ticket>> {
        let (serial, stand) = self.stand()?;
        let next = stand.next(until);
        match next {
            Ok(order) => Ok(order.map(|order| Ticket::new(serial, order, stand))),
            Err(error) => {
                self.stand = None;
                Err(error)
            }
        }
    }

    /// The attachment, made when there is none.
    fn stand(&mut self) -> Result<(u32, &mut Stand)> {
        self.leave_inherited();
        if self.stand.is_none() {
            // Tickets of an earlier attachment are told from those of this one.
            self.serial += 1;
        }
        let stand = match &mut self.stand {
            Some(stand) => stand,
            empty => empty.insert(Box::new(Stand::new(attach::attach(&self.config, None)?)?)),
        };
        Ok((self.serial, stand))
    }

    /// The attachment that a ticket belongs to, if it still stands.
    fn stand_of(&mut self, serial: u32) -> Option<&mut Stand> {
        self.leave_inherited();
        self.stand.as_deref_mut().filter(|_| self.serial == serial)
    }

    /// In a forked child: everything of the parent is left alone, not dropped.
    fn leave_inherited(&mut self) {
        if self.stand.as_ref().is_some_and(|stand| stand.is_inherited()) {
            mem::forget(self.stand.take());
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.leave_inherited();
    }
}
