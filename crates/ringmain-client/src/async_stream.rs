//! An async stream of one answer.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream as FuturesStream;
use ringmain_shm::monotonic_ns;
use ringmain_wire::LaneId;
use tokio::time::Sleep;

use crate::error::Result;
use crate::hub::HubHandle;
use crate::item::{Item, OwnedItem};
use crate::link::deadline_error;
use crate::reader::{Reader, Ready};
use crate::reply::Reply;
use crate::session::inherited;

/// The answer of a request, item by item, for async code.
///
/// Dropping it before its end cancels the exchange. What is not read stays in its lane and holds
/// back the provider, nobody else. [`AsyncStream::next`] lends each item in place; as a
/// [`futures_core::Stream`] it yields owned ones.
///
/// ```no_run
/// # async fn example() -> ringmain_client::Result<()> {
/// use ringmain_client::{Client, Item};
///
/// let client = Client::new()?;
/// let mut stream = client.chat("tiny").user("hello").stream_async().await?;
/// while let Some(item) = stream.next().await? {
///     if let Item::Delta { text, .. } = item {
///         print!("{text}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncStream {
    /// Taken only by drop.
    handle: Option<Arc<HubHandle>>,
    /// Taken when the exchange is over and its last item was released.
    reader: Option<Reader>,
    lane: LaneId,
    /// Broker time of the last frame, once the reader was given back.
    time_ns: u64,
    deadline: Option<Pin<Box<Sleep>>>,
    done: bool,
}

impl AsyncStream {
    /// Its timer needs a runtime with time enabled, and exists only with a deadline.
    pub(crate) fn new(
        handle: Arc<HubHandle>,
        lane: LaneId,
        reader: Reader,
        deadline_ns: Option<u64>,
    ) -> AsyncStream {
        let timer = |deadline_ns: u64| {
            let left_ns = deadline_ns.saturating_sub(monotonic_ns());
            Box::pin(tokio::time::sleep(Duration::from_nanos(left_ns)))
        };
        AsyncStream {
            handle: Some(handle),
            reader: Some(reader),
            lane,
            time_ns: 0,
            deadline: deadline_ns.map(timer),
            done: false,
        }
    }

    /// The next item, borrowed in place. `None` after the last one. Safe to cancel.
    ///
    /// # Errors
    /// Whatever ended the exchange, once; `None` follows.
    pub async fn next(&mut self) -> Result<Option<Item<'_>>> {
        match poll_fn(|cx| self.poll_ready(cx)).await? {
            Some(ready) => self.take(ready),
            None => Ok(None),
        }
    }

    /// The next piece of the first choice's text; other items are passed over.
    ///
    /// # Errors
    /// Those of [`AsyncStream::next`].
    pub async fn next_text(&mut self) -> Result<Option<&str>> {
        // Bound: each turn consumes an item of an exchange that ends.
        loop {
            match poll_fn(|cx| self.poll_ready(cx)).await? {
                None => return Ok(None),
                Some(Ready::Text) => break,
                Some(ready) => drop(self.take(ready)?),
            }
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let text = reader.take_text();
        self.done |= text.is_err();
        text.map(Some)
    }

    /// Reads to the end and returns the whole answer.
    ///
    /// # Errors
    /// Whatever ended the exchange early.
    pub async fn collect_reply(mut self) -> Result<Reply> {
        let mut reply = Reply::default();
        while let Some(item) = self.next().await? {
            reply.add(item);
        }
        Ok(reply)
    }

    /// Asks the broker to end the exchange. Its last item still comes.
    pub fn cancel(&mut self) {
        if self.is_inherited() || self.done {
            return;
        }
        if let Some(hub) = self.handle.as_ref().and_then(|handle| handle.hub().ok()) {
            hub.cancel(self.lane);
        }
    }

    /// How long ago the broker published the item returned last.
    pub fn age(&self) -> Duration {
        let hub = self.handle.as_ref().and_then(|handle| handle.hub().ok());
        let time_ns = self.reader.as_ref().map_or(self.time_ns, |reader| reader.progress().time_ns);
        hub.map(|hub| hub.attachment.clock.age(time_ns)).unwrap_or_default()
    }

    /// The start of a broker that took the exchange, as `ringmain status` shows it.
    pub fn broker_epoch(&self) -> u64 {
        let hub = self.handle.as_ref().and_then(|handle| handle.hub().ok());
        hub.map_or(0, |hub| hub.attachment.welcome.epoch)
    }

    /// Wake-ups of the session behind this stream, shared with its other streams.
    pub fn wakes(&self) -> u64 {
        let hub = self.handle.as_ref().and_then(|handle| handle.hub().ok());
        hub.map_or(0, |hub| hub.wakes())
    }

    #[cfg(test)]
    pub(crate) fn pretend_fork(&self) {
        self.handle.as_ref().unwrap().hub().unwrap().attachment.fork.wipe();
    }

    /// Ready when there is an item to take, or none will come.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Ready>>> {
        if self.done {
            if !self.is_inherited() {
                self.leave_lane();
            }
            return Poll::Ready(Ok(None));
        }
        let result = ready!(self.poll_running(cx));
        self.done = result.is_err();
        Poll::Ready(result.map(Some))
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ready>> {
        if self.is_inherited() {
            return Poll::Ready(Err(inherited()));
        }
        let Some(handle) = &self.handle else { return Poll::Ready(Err(inherited())) };
        let Some(reader) = &mut self.reader else { return Poll::Ready(Err(inherited())) };
        let hub = handle.hub()?;
        // Bound: a second turn finds what came meanwhile; a third only follows a SKIP.
        loop {
            let ready = reader.poll();
            hub.ring(reader.take_ring());
            match ready {
                Ok(Ready::No) => {}
                found => return Poll::Ready(found),
            }
            let waiting = hub.wait(self.lane, reader, cx.waker());
            if reader.is_ready() {
                continue;
            }
            waiting?;
            break;
        }
        let Some(timer) = &mut self.deadline else { return Poll::Pending };
        ready!(timer.as_mut().poll(cx));
        let error = reader.progress().mark(deadline_error());
        self.leave_lane();
        Poll::Ready(Err(error))
    }

    fn take(&mut self, ready: Ready) -> Result<Option<Item<'_>>> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        self.done |= ready == Ready::Terminal;
        let item = reader.take();
        self.done |= item.is_err();
        item.map(Some)
    }

    fn is_inherited(&self) -> bool {
        let hub = self.handle.as_ref().and_then(|handle| handle.hub().ok());
        hub.is_some_and(|hub| hub.attachment.fork.is_child())
    }

    /// Gives the lane back; cancels what still runs on it.
    fn leave_lane(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        self.time_ns = reader.progress().time_ns;
        if let Some(hub) = self.handle.as_ref().and_then(|handle| handle.hub().ok()) {
            hub.take_back(self.lane, reader);
        }
    }
}

impl FuturesStream for AsyncStream {
    type Item = Result<OwnedItem>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = ready!(self.poll_ready(cx));
        let taken = match polled {
            Ok(Some(ready)) => self.take(ready),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        Poll::Ready(taken.map(|item| item.map(Item::into_owned)).transpose())
    }
}

impl Drop for AsyncStream {
    fn drop(&mut self) {
        if self.is_inherited() {
            // In a forked child: the memory is not mapped, and closing is the parent's business.
            mem::forget((self.handle.take(), self.reader.take()));
        } else {
            self.leave_lane();
        }
    }
}
