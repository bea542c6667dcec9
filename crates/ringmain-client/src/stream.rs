//! A blocking stream of one answer.

use std::sync::Arc;
use std::time::Duration;

use crate::client::Pool;
use crate::error::Result;
use crate::item::{Item, OwnedItem};
use crate::reply::Reply;
use crate::session::{Exchange, Session};

/// The answer of a request, item by item, for blocking code.
///
/// It holds a session of its own for as long as it lives. Dropping it before its end cancels the
/// exchange. [`Stream::next`] lends each item in place; as an [`Iterator`] it yields owned ones.
#[derive(Debug)]
pub struct Stream {
    /// Taken only by drop.
    session: Option<Session>,
    exchange: Exchange,
    pool: Arc<Pool>,
    done: bool,
}

impl Stream {
    pub(crate) fn new(session: Session, exchange: Exchange, pool: Arc<Pool>) -> Stream {
        Stream { session: Some(session), exchange, pool, done: false }
    }

    /// The next item, borrowed in place; waits for it. `None` after the last one.
    ///
    /// # Errors
    /// Whatever ended the exchange, once; `None` follows.
    #[expect(clippy::should_implement_trait, reason = "the lending twin of Iterator::next")]
    pub fn next(&mut self) -> Result<Option<Item<'_>>> {
        let Some(session) = self.session.as_mut().filter(|_| !self.done) else { return Ok(None) };
        match session.next(self.exchange) {
            Ok(Some(item)) => Ok(Some(item)),
            ended => {
                self.done = true;
                ended
            }
        }
    }

    /// The next piece of the first choice's text; other items are passed over.
    ///
    /// # Errors
    /// Those of [`Stream::next`].
    pub fn next_text(&mut self) -> Result<Option<&str>> {
        let Some(session) = self.session.as_mut().filter(|_| !self.done) else { return Ok(None) };
        match session.next_text(self.exchange) {
            Ok(Some(text)) => Ok(Some(text)),
            ended => {
                self.done = true;
                ended
            }
        }
    }

    /// Reads to the end and returns the whole answer.
    ///
    /// # Errors
    /// Whatever ended the exchange early.
    pub fn collect_reply(mut self) -> Result<Reply> {
        let mut reply = Reply::default();
        while let Some(item) = self.next()? {
            reply.add(item);
        }
        Ok(reply)
    }

    /// Asks the broker to end the exchange. Its last item still comes.
    pub fn cancel(&mut self) {
        if let Some(session) = &mut self.session {
            session.cancel(self.exchange);
        }
    }

    /// How long ago the broker published the item returned last.
    pub fn age(&self) -> Duration {
        self.session.as_ref().and_then(|session| session.age(self.exchange)).unwrap_or_default()
    }

    /// The start of a broker that took the exchange, as `ringmain status` shows it.
    pub fn broker_epoch(&self) -> u64 {
        let session = self.session.as_ref();
        session.and_then(|session| session.broker_epoch(self.exchange)).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn session_mut(&mut self) -> &mut Session {
        self.session.as_mut().unwrap()
    }

    /// Sleeps of the session behind this stream since it was attached.
    pub fn sleeps(&self) -> u64 {
        self.session.as_ref().map_or(0, Session::sleeps)
    }
}

impl Iterator for Stream {
    type Item = Result<OwnedItem>;

    fn next(&mut self) -> Option<Result<OwnedItem>> {
        Stream::next(self).map(|item| item.map(Item::into_owned)).transpose()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(mut session) = self.session.take() {
            session.give_up(self.exchange);
            self.pool.give_back(session);
        }
    }
}
